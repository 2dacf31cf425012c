"""All calls of one router over one stream: what goes together, and what each call keeps for itself."""

import asyncio
import contextlib
from math import inf

import grpc
import pytest
from waiting import eventually

from argosy_api import limits
from argosy_api.errors import InvalidArgumentError, OverloadedError
from argosy_api.v1 import worker_pb2 as pb
from argosy_worker.serve.session import REPLY_BYTES, Session, Sessions

PROMPT = list(b"the quick brown fox jumps over the lazy dog")


class Router:
    """The other side of a session whose calls answer what the test gives."""

    def __init__(self) -> None:
        self.requests: asyncio.Queue = asyncio.Queue()
        self.answers: dict[str, asyncio.Queue] = {}
        self.left: list[str] = []
        self.session = Session(self._answer)
        self.replies = self.session.replies(self._requests())

    async def _requests(self):
        while (request := await self.requests.get()) is not None:
            yield request

    async def _answer(self, call, accepted):
        name, count = call.request.request_id, 0
        try:
            accepted(len(self.answers))
            while True:
                item = await self.answers.setdefault(name, asyncio.Queue()).get()
                if item is None:
                    return
                if isinstance(item, Exception):
                    raise item
                yield pb.GenerateChunk(attempt=1, index=count, token_ids=[count], **item)
                count += 1
                if "finish_reason" in item:
                    return
        finally:
            self.left.append(name)

    def tell(self, *commands) -> None:
        self.requests.put_nowait(pb.SessionRequest(commands=commands) if commands else None)

    def begin(self, *numbers: int, **more) -> None:
        for number in numbers:
            self.answers[str(number)] = asyncio.Queue()
        self.tell(*(self.call(n, **more) for n in numbers))

    @staticmethod
    def call(number: int, **more) -> pb.SessionCommand:
        call = pb.SessionCall(request=pb.GenerateRequest(request_id=str(number)), **more)
        return pb.SessionCommand(call=number, begin=call)

    def put(self, number: int, *items) -> None:
        for item in items or ({},):
            self.answers[str(number)].put_nowait(item)

    async def reply(self) -> list[tuple[int, str]]:
        return [(e.call, e.WhichOneof("what")) for e in (await anext(self.replies)).events]


@pytest.fixture
async def router():
    made = Router()
    yield made
    await made.replies.aclose()


async def settled() -> None:
    """All that can run has run."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_what_a_step_brings_goes_out_together(router):
    router.begin(1, 2, 3)
    assert await router.reply() == [(n, "accepted") for n in (1, 2, 3)]
    for n in (1, 2, 3):
        router.put(n)
    assert await router.reply() == [(n, "chunk") for n in (1, 2, 3)]


async def test_a_call_has_one_chunk_on_its_way_at_a_time(router):
    router.begin(1, 2)
    await router.reply()
    router.put(1, {}, {}, {})
    assert await router.reply() == [(1, "chunk")]
    await settled()  # the reply is still being sent, as far as the session knows
    assert router.answers["1"].qsize() == 2
    router.put(2)
    assert await router.reply() == [(2, "chunk"), (1, "chunk")]


async def test_a_paused_call_waits_and_the_others_go_on(router):
    router.begin(1, 2)
    await router.reply()
    router.tell(pb.SessionCommand(call=1, pause=True))
    for n in (1, 2):
        router.put(n, {}, {}, {})
    seen = [event for _ in range(3) for event in await router.reply()]
    assert sorted(seen) == [(1, "chunk"), *[(2, "chunk")] * 3]  # one was on its way
    router.tell(pb.SessionCommand(call=1, pause=False))
    assert await router.reply() == [(1, "chunk")]


async def test_a_cancelled_call_ends_and_no_other(router):
    router.begin(1, 2)
    await router.reply()
    router.tell(pb.SessionCommand(call=1, cancel=True), pb.SessionCommand(call=77, cancel=True))
    await eventually(lambda: router.left == ["1"], "the call was cancelled")
    router.put(2)
    assert await router.reply() == [(2, "chunk")]


async def test_an_error_is_that_calls_own(router):
    router.begin(1, 2, 3)
    await router.reply()
    router.put(1, OverloadedError("full", retry_after_s=2.5))
    router.put(2, ValueError("/home/secret"))
    router.put(3)
    ended = {}
    while len(ended) < 2:
        ended |= {e.call: e.end for e in (await anext(router.replies)).events if e.HasField("end")}
    assert (ended[1].code, ended[1].message) == (grpc.StatusCode.RESOURCE_EXHAUSTED.value[0], "full")
    assert ended[1].trailing["retry-after-ms"] == "2500"
    assert ended[2].code == grpc.StatusCode.INTERNAL.value[0]
    assert "secret" not in ended[2].message
    router.put(3)
    assert await router.reply() == [(3, "chunk")]


async def test_a_call_ends_with_its_last_chunk_or_with_an_end(router):
    router.begin(1, 2)
    await router.reply()
    router.put(1, {"finish_reason": pb.FINISH_REASON_STOP})
    router.put(2, None)
    router.tell()
    rest = [event async for reply in router.replies for event in reply.events]
    assert [(e.call, e.WhichOneof("what")) for e in rest] == [(1, "chunk"), (2, "end")]
    assert (rest[1].end.code, rest[1].end.message) == (0, "")


async def test_a_deadline(router):
    router.begin(1, timeout_seconds=0.01)
    seen = []
    while not seen or not seen[-1].HasField("end"):
        seen += (await anext(router.replies)).events
    assert seen[-1].end.code == grpc.StatusCode.DEADLINE_EXCEEDED.value[0]
    assert router.left == ["1"]


@pytest.mark.parametrize("how", ["the router closes its side", "the worker is to end"])
async def test_it_ends_with_its_last_call(router, how):
    router.begin(1)
    await router.reply()
    if how == "the worker is to end":
        router.session.close()
    else:
        router.tell()
    router.put(1, {}, {"finish_reason": pb.FINISH_REASON_STOP})
    assert [len(reply.events) async for reply in router.replies] == [1, 1]


async def test_whoever_leaves_it_cancels_its_calls(router):
    router.begin(1, 2)
    await router.reply()
    await router.replies.aclose()
    await eventually(lambda: sorted(router.left) == ["1", "2"], "both were cancelled")


async def test_a_number_stands_for_one_call(router):
    router.begin(1)
    await router.reply()
    router.tell(router.call(1))
    with pytest.raises(InvalidArgumentError, match="call: 1 "):
        await anext(router.replies)


async def test_large_chunks_go_one_after_another(router):
    """So that no reply is larger than a message may be."""
    router.begin(1, 2)
    await router.reply()
    for n in (1, 2):
        router.put(n, {"text": "x" * REPLY_BYTES})
    assert [await router.reply(), await router.reply()] == [[(1, "chunk")], [(2, "chunk")]]


def test_sessions_are_bounded(monkeypatch):
    monkeypatch.setattr(limits, "MAX_SESSIONS", 2)
    sessions = Sessions()
    with contextlib.ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(sessions.one(lambda *_: None))
        with pytest.raises(OverloadedError), sessions.one(lambda *_: None):
            pass
    with sessions.one(lambda *_: None):
        pass


async def test_answers_of_an_engine(rig, oracle):
    """The same as those of calls of their own; a bad one harms nobody."""
    stream = rig.stub.Session()
    requests = [rig.request(PROMPT[i:], f"r{i}", max_tokens=20 + i) for i in range(8)]
    begun = [pb.SessionCommand(call=i, begin=pb.SessionCall(request=r)) for i, r in enumerate(requests)]
    bad = pb.SessionCommand(call=99, begin=pb.SessionCall(request=rig.request(PROMPT, "")))
    await stream.write(pb.SessionRequest(commands=[*begun, bad]))
    await stream.done_writing()
    tokens, numbers, ends = {i: [] for i in range(8)}, {}, {}
    async for reply in stream:
        for event in reply.events:
            if event.HasField("chunk"):
                tokens[event.call] += event.chunk.token_ids
            elif event.HasField("end"):
                ends[event.call] = event.end.code
            else:
                numbers[event.call] = event.accepted
    assert tokens == {i: oracle(PROMPT[i:], 20 + i) for i in range(8)}
    assert sorted(numbers.values()) == list(range(1, 9))
    assert ends == {99: grpc.StatusCode.INVALID_ARGUMENT.value[0]}
    assert (await rig.load()).used_blocks == 0


async def test_a_router_that_is_gone_leaves_nothing(rig):
    stream = rig.stub.Session()
    request = rig.request(PROMPT, max_tokens=900)
    await stream.write(pb.SessionRequest(commands=[pb.SessionCommand(call=1, begin=pb.SessionCall(request=request))]))
    await stream.read()
    stream.cancel()
    await eventually(lambda: not rig.engine.busy, "its request was cancelled")


async def test_draining_lets_calls_of_a_session_end_and_then_the_session(make_rig, oracle):
    async with make_rig("sim://m?decode_ms=1&check=1") as rig:
        stream = rig.stub.Session()
        request = rig.request(PROMPT, max_tokens=50)
        await stream.write(
            pb.SessionRequest(commands=[pb.SessionCommand(call=1, begin=pb.SessionCall(request=request))])
        )
        tokens = []
        while not tokens:
            tokens += [t for e in (await stream.read()).events for t in e.chunk.token_ids]
        assert await rig.engine.drain(inf) == (1, 0)
        rig.serving.end_streams()
        while isinstance(reply := await stream.read(), pb.SessionReply):
            tokens += [t for e in reply.events for t in e.chunk.token_ids]
        assert tokens == oracle(PROMPT, 50)
        assert await stream.code() is grpc.StatusCode.OK
