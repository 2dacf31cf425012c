"""The router's side of a session with a worker: one stream for all calls, and what each call keeps for itself."""

import asyncio

import grpc
import pytest
from router_kit import FakeWorker, Script
from waiting import eventually

from argosy_api import limits
from argosy_api.v1 import worker_pb2 as pb
from argosy_router.fleet import peer
from argosy_router.fleet.session import MESSAGE_BYTES, UNREAD_CHUNKS, Session, error

HELLO = {"model": "m", "prompt": "hello", "max_tokens": 40}


class Stream:
    """A worker's side that a test plays."""

    def __init__(self) -> None:
        self.replies: asyncio.Queue = asyncio.Queue()
        self.commands: list[pb.SessionCommand] = []
        self.opened = self.messages = 0

    def Session(self):
        self.opened += 1
        return self

    async def read(self):
        reply = await self.replies.get()
        if isinstance(reply, BaseException):
            raise reply
        return reply

    async def write(self, request: pb.SessionRequest) -> None:
        self.messages += 1
        self.commands += request.commands

    def cancel(self) -> None: ...

    def tell(self, *events: pb.SessionEvent) -> None:
        self.replies.put_nowait(pb.SessionReply(events=events))

    def chunk(self, call: int, index: int, **more) -> pb.SessionEvent:
        return pb.SessionEvent(call=call, chunk=pb.GenerateChunk(attempt=1, index=index, token_ids=[index], **more))

    def said(self) -> list[tuple[int, str]]:
        return [(c.call, c.WhichOneof("what")) for c in self.commands]


@pytest.fixture
def stream():
    return Stream()


@pytest.fixture
def session(stream):
    return Session(stream)


def begin(session, request_id="r", *, timeout=None, accepted=lambda _: None):
    request = pb.GenerateRequest(request_id=request_id)
    return session.begin(request, timeout=timeout, metadata=None, accepted=accepted)


async def test_events_reach_their_calls(session, stream):
    numbers = []
    one, two = begin(session, accepted=numbers.append), begin(session)
    stream.tell(pb.SessionEvent(call=1, accepted=17), stream.chunk(2, 0, text="b"), stream.chunk(1, 0, text="a"))
    assert ((await one.read()).text, (await two.read()).text, numbers) == ("a", "b", [17])
    stream.tell(
        stream.chunk(1, 1, finish_reason=pb.FINISH_REASON_STOP),
        pb.SessionEvent(call=2, end=pb.SessionEnd(code=8, message="full", trailing={"retry-after-ms": "7"})),
        stream.chunk(99, 0),
    )
    assert (await one.read()).finish_reason == pb.FINISH_REASON_STOP
    assert await one.read() is None
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await two.read()
    assert (failed.value.code(), failed.value.details()) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "full")
    assert list(failed.value.trailing_metadata()) == [("retry-after-ms", "7")]
    assert stream.opened == 1


async def test_what_a_reader_has_not_read_is_joined(session, stream):
    call = begin(session)
    usage = pb.Usage(prompt_tokens=5, cached_tokens=3)
    stream.tell(stream.chunk(1, 0, text="a", usage=usage), stream.chunk(1, 1, text="b"), stream.chunk(1, 5, text="x"))
    await eventually(stream.replies.empty, "all was taken")
    chunk = await call.read()
    assert (chunk.index, list(chunk.token_ids), chunk.text, chunk.usage) == (0, [0, 1], "ab", usage)
    assert (await call.read()).index == 5  # not the next: whoever checks the order must see it


async def test_a_call_that_nobody_reads_is_paused_until_it_is(session, stream):
    slow, other = begin(session), begin(session)
    for i in range(UNREAD_CHUNKS + 5):
        stream.tell(stream.chunk(1, i), stream.chunk(2, i))
        assert (await other.read()).index == i
    await eventually(lambda: stream.said()[2:] == [(1, "pause")], "it was paused")
    assert session.paused == 1
    assert len((await slow.read()).token_ids) == UNREAD_CHUNKS + 5
    assert session.paused == 0
    await eventually(lambda: [c.pause for c in stream.commands[2:]] == [True, False], "it goes on")


async def test_a_call_that_ends_is_paused_no_more(session, stream):
    calls = [begin(session), begin(session)]
    for i in range(UNREAD_CHUNKS):
        stream.tell(stream.chunk(1, i), stream.chunk(2, i))
    await eventually(lambda: session.paused == 2, "both were paused")
    calls[0].cancel()
    calls[0].cancel()
    assert session.paused == 1
    stream.replies.put_nowait(error(grpc.StatusCode.UNAVAILABLE, "gone"))
    await eventually(lambda: session.paused == 0, "the stream broke")


async def test_a_worker_that_does_not_pause_is_given_up_for_this_call(session, stream, monkeypatch):
    monkeypatch.setattr(limits, "MAX_STREAM_CHUNKS", 2 * UNREAD_CHUNKS)
    call, other = begin(session), begin(session)
    await eventually(lambda: len(stream.commands) == 2, "both were sent")
    for i in range(2 * UNREAD_CHUNKS):
        stream.tell(stream.chunk(1, 2 * i))
    stream.tell(stream.chunk(2, 0))
    await other.read()
    for _ in range(2 * UNREAD_CHUNKS):
        await call.read()
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await call.read()
    assert failed.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    await eventually(lambda: (1, "cancel") in stream.said(), "the worker was told")


async def test_a_cancelled_call_is_told_once_and_only_to_who_knows_it(session, stream):
    known = begin(session)
    await eventually(lambda: stream.said() == [(1, "begin")], "it was sent")
    unknown = begin(session)
    for call in (known, known, unknown):
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call.read()
    begin(session)
    await eventually(lambda: stream.said() == [(1, "begin"), (1, "cancel"), (3, "begin")], "the rest was sent")


async def test_requests_of_a_moment_go_out_together_and_large_ones_one_after_another(session, stream):
    for name in ("a", "b"):
        begin(session, name)
    await eventually(lambda: len(stream.commands) == 2, "they were sent")
    assert stream.messages == 1
    for name in ("c", "d"):
        begin(session, name * MESSAGE_BYTES)
    await eventually(lambda: len(stream.commands) == 4, "they were sent")
    assert stream.messages == 3
    assert [c.begin.request.request_id[:1] for c in stream.commands] == ["a", "b", "c", "d"]


async def test_who_waits_for_a_call_hears_that_it_was_cancelled(session):
    call = begin(session)
    reading = asyncio.ensure_future(call.read())
    await asyncio.sleep(0)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading


async def test_a_deadline_ends_a_call_though_the_worker_says_nothing(session, stream):
    call = begin(session, timeout=0.5)
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await call.read()
    assert failed.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert stream.commands[0].begin.timeout_seconds == 0.5
    await eventually(lambda: stream.said() == [(1, "begin"), (1, "cancel")], "the worker was told")


async def test_with_the_stream_all_its_calls_end_and_the_next_opens_another(session, stream):
    calls = [begin(session) for _ in range(3)]
    stream.replies.put_nowait(error(grpc.StatusCode.UNAVAILABLE, "gone"))
    for call in calls:
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await call.read()
        assert failed.value.details() == "gone"
    call = begin(session)
    stream.tell(stream.chunk(4, 0))
    assert (await call.read()).index == 0
    assert stream.opened == 2


# --- with workers


@pytest.mark.parametrize(
    ("details", "code"),
    [("Internal error from Core", grpc.StatusCode.UNAVAILABLE), ("RST_STREAM with code 7", grpc.StatusCode.INTERNAL)],
)
async def test_what_breaks_the_stream_is_no_fault_of_its_calls(session, stream, details, code):
    """grpc.aio says INTERNAL for any status that a server ends a stream with, if a write meets the end."""
    call = begin(session)
    stream.replies.put_nowait(error(grpc.StatusCode.INTERNAL, details))
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await call.read()
    assert failed.value.code() is code


async def test_all_requests_share_one_stream(make_rig):
    rig = await make_rig()
    await rig.add(FakeWorker())
    answers = await asyncio.gather(*(rig.post("/v1/completions", {**HELLO, "stream": i % 2 == 0}) for i in range(10)))
    assert all(response.status == 200 for response, _ in answers)
    assert len(rig.workers[0].requests) == 10
    assert rig.workers[0].opened == 1


@pytest.mark.parametrize("said", [False, True])
async def test_a_worker_without_sessions_is_called_for_each(make_rig, said):
    """`said`: it was replaced by an older one, and its router does not know yet."""
    rig = await make_rig()
    await rig.add(FakeWorker(sessions=said))
    rig.workers[0].sessions = False
    for _ in range(2):
        response, _ = await rig.post("/v1/completions", HELLO)
        assert response.status == 200
    assert rig.workers[0].opened == 0


async def test_a_request_that_might_break_the_stream_has_a_call_of_its_own(make_rig, monkeypatch):
    monkeypatch.setattr(peer, "OWN_CALL_BYTES", 200)
    rig = await make_rig()
    await rig.add(FakeWorker())
    for prompt, opened in (("x" * 500, 0), ("x", 1)):
        response, _ = await rig.post("/v1/completions", {**HELLO, "prompt": prompt})
        assert (response.status, rig.workers[0].opened) == (200, opened)


async def test_a_lost_stream_loses_no_answer(make_rig):
    """Its worker is gone: all that it had goes on elsewhere."""
    rig = await make_rig()
    await rig.add(FakeWorker(worker_id="w0", script=Script(pause_after=5)))
    streams = [asyncio.ensure_future(rig.post("/v1/completions", {**HELLO, "stream": True})) for _ in range(6)]
    await eventually(lambda: rig.workers[0].running == 6, "all are under way")
    await rig.add(FakeWorker(worker_id="w1"))
    await rig.workers[0].stop()
    answers = await asyncio.gather(*streams)
    assert all(body.endswith(b"[DONE]\n\n") and b"error" not in body for _, body in answers)
    assert len({body.count(b"data:") > 0 for _, body in answers}) == 1
    assert len(rig.workers[1].requests) == 6
