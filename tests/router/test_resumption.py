"""An answer that began at another router goes on here, token for token."""

import asyncio

import grpc
import pytest
from router_kit import FakeWorker, answer_of, decode, encode
from waiting import eventually

from argosy_api import metric_names as names
from argosy_api.errors import InvalidArgumentError
from argosy_api.params import SamplingParams
from argosy_api.v1 import worker_pb2 as pb
from argosy_api.v1 import worker_pb2_grpc as rpc
from argosy_router import resumption
from argosy_router.fleet import session
from argosy_router.fleet.peer import ACQUAINTANCE_S

COUNT = 40
TOKENS = answer_of(encode("hello"), COUNT)
TEXT = decode(TOKENS)


def hello(**changes):
    request = pb.InferenceRequest(
        model="m", text="hello", sampling=pb.SamplingParams(max_tokens=COUNT, temperature=0.5)
    )
    for name, value in changes.items():
        setattr(request, name, value)
    return request


@pytest.fixture
async def rig(make_rig, monkeypatch):
    """One worker, one router: whatever another router would know is in the request."""
    monkeypatch.setattr(session, "_follows", lambda *_: False)  # tokens come one by one, so that it can be cut at any
    made = await make_rig()
    await made.add(FakeWorker(worker_id="w0"))
    async with grpc.aio.insecure_channel(f"127.0.0.1:{made.router.grpc_port}") as channel:
        made.stub = rpc.InferenceStub(channel)
        yield made


async def begun(rig, count, request=None):
    """The first chunks of an answer, up to so many tokens, and what would have it go on."""
    call, chunks = rig.stub.Generate(request or hello()), []
    async for chunk in call:
        chunks.append(chunk)
        if sum(len(c.token_ids) for c in chunks) >= count:
            break
    call.cancel()
    resume = pb.Resume(
        token=next(c.resume_token for c in chunks if c.token_ids),
        tokens=[t for c in chunks for t in c.token_ids],
        text_bytes=len("".join(c.text for c in chunks).encode()),
        attempt=chunks[-1].attempt,
    )
    return chunks, resume


async def rest(rig, resume, **changes):
    request = hello(**changes)
    request.resume.CopyFrom(resume)
    return [chunk async for chunk in rig.stub.Generate(request)]


@pytest.mark.parametrize("at", [1, 13, 18, 39])
async def test_an_answer_goes_on_at_another_router(rig, at):
    """Of a text with characters of several bytes, also cut within one."""
    chunks, resume = await begun(rig, at)
    more = await rest(rig, resume)
    assert [t for c in (*chunks, *more) for t in c.token_ids] == TOKENS
    assert "".join(c.text for c in (*chunks, *more)) == TEXT
    assert [c.index for c in more if c.token_ids] == list(range(at, COUNT))
    assert {c.attempt for c in more} == {2}
    assert more[-1].usage.completion_tokens == COUNT
    first, second = rig.workers[0].requests
    assert first.sampling == second.sampling  # with the seed that was drawn for the first
    assert first.sampling.HasField("seed")
    assert list(second.resumed_tokens) == TOKENS[:at]
    assert more[0].resume_token == resume.token

    def value(name, **labels):
        return rig.router.metrics.registry.get_sample_value(name, {"model": "m", **labels})

    assert value(names.ROUTER_RESUMED + "_total", why="router") == 1
    assert value(names.ROUTER_PROMPT_TOKENS + "_total") == len(encode("hello"))  # counted once


async def test_it_goes_on_twice(rig):
    """At a third router, after the second was lost too."""
    chunks, resume = await begun(rig, 5)
    request = hello()
    request.resume.CopyFrom(resume)
    more, resume2 = await begun(rig, 7, request)
    resume.tokens.extend(resume2.tokens)
    resume.text_bytes += resume2.text_bytes
    resume.attempt = resume2.attempt
    last = await rest(rig, resume)
    assert [t for c in (*chunks, *more, *last) for t in c.token_ids] == TOKENS
    assert "".join(c.text for c in (*chunks, *more, *last)) == TEXT
    assert {c.attempt for c in last} == {3}


async def test_a_chat_goes_on_to_the_length_that_its_context_left_at_first(rig):
    request = pb.InferenceRequest(model="m", chat=pb.Chat(messages=[pb.ChatMessage(role="user", content="hi")]))
    _, resume = await begun(rig, 3, request)
    request.resume.CopyFrom(resume)
    call = rig.stub.Generate(request)
    more = await call.read()
    call.cancel()
    assert more.index == 3
    first, second = rig.workers[0].requests
    assert first.sampling.max_tokens == second.sampling.max_tokens > 1000


async def code_of(work):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await work
    return caught.value.code().name, caught.value.details()


async def test_where_the_prompt_comes_to_other_tokens_nothing_goes_on(rig):
    _, resume = await begun(rig, 3)
    code, details = await code_of(rest(rig, resume, text="hallo"))
    assert (code, details.partition(":")[0]) == ("INVALID_ARGUMENT", "resume")


async def test_where_no_worker_computes_the_same_bits_nothing_goes_on(rig):
    _, resume = await begun(rig, 3)
    told = pb.ResumeToken.FromString(resume.token)
    told.fingerprint = "other"
    resume.token = told.SerializeToString()
    code, details = await code_of(rest(rig, resume))
    assert code == "UNAVAILABLE"
    assert "after 3 tokens" in details


async def test_more_tokens_than_the_answer_has_are_refused_by_name(rig):
    _, resume = await begun(rig, 3)
    resume.tokens.extend([1] * COUNT)
    code, details = await code_of(rest(rig, resume))
    assert (code, details.partition(":")[0]) == ("INVALID_ARGUMENT", "resume.tokens")


GOOD = resumption.token(fingerprint="f", params=SamplingParams(max_tokens=4), digest=b"d" * 16, cached_tokens=0)


@pytest.mark.parametrize(
    ("resume", "field"),
    [
        (pb.Resume(token=b"", tokens=[1]), "resume.token"),
        (pb.Resume(token=b"\xff\xff", tokens=[1]), "resume.token"),
        (pb.Resume(token=pb.ResumeToken(version=9, fingerprint="f").SerializeToString(), tokens=[1]), "resume.token"),
        (pb.Resume(token=pb.ResumeToken(version=1).SerializeToString(), tokens=[1]), "resume.token"),
        (pb.Resume(token=GOOD), "resume.tokens"),
        (pb.Resume(token=GOOD, tokens=[1] * 5), "resume.tokens"),
        (pb.Resume(token=GOOD, tokens=[1], attempt=1 << 30), "resume.attempt"),
    ],
)
def test_what_no_router_said_is_refused_by_name(resume, field):
    with pytest.raises(InvalidArgumentError) as caught:
        resumption.parse(resume)
    assert caught.value.field == field


async def test_a_router_that_starts_waits_for_its_workers_before_it_says_that_none_can(make_rig):
    rig = await make_rig()
    await rig.add(FakeWorker(worker_id="w0"))
    async with grpc.aio.insecure_channel(f"127.0.0.1:{rig.router.grpc_port}") as channel:
        rig.stub = rpc.InferenceStub(channel)
        _, resume = await begun(rig, 3)
        late = FakeWorker(worker_id="w1", fingerprint="e" * 32)
        late.introduced.clear()
        await rig.add(late, wait=False)
        told = pb.ResumeToken.FromString(resume.token)
        told.fingerprint = late.fingerprint
        resume.token = told.SerializeToString()
        asked = asyncio.create_task(rest(rig, resume))
        await asyncio.wait([asked], timeout=0.2)
        assert not asked.done()
        late.introduced.set()
        more = await asked
    assert [t for c in more for t in c.token_ids] == TOKENS[3:]
    assert len(late.requests) == 1


async def test_it_says_so_before_long_that_it_does_not_know_them(make_rig):
    """A client has another router to ask."""
    rig = await make_rig()
    await rig.add(FakeWorker(worker_id="w0"))
    async with grpc.aio.insecure_channel(f"127.0.0.1:{rig.router.grpc_port}") as channel:
        rig.stub = rpc.InferenceStub(channel)
        _, resume = await begun(rig, 3)
        await rig.workers[0].stop()
        rig.workers.clear()
        late = FakeWorker(worker_id="w1", served_name="other")
        late.introduced.clear()
        await late.start()
        rig.cluster.name = "other"
        rig.workers.append(late)
        rig.announce()
        await eventually(lambda: rig.router.fleet.known and "other" in {d.name for d in rig.router.fleet.deployments})
        asked = asyncio.get_running_loop().time()
        code, _ = await code_of(rest(rig, resume, model="other"))
        assert code == "UNAVAILABLE"
        assert asyncio.get_running_loop().time() - asked < ACQUAINTANCE_S
        late.introduced.set()
