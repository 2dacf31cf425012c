"""Both clients, with routers that die, drain and refuse."""

import asyncio
import contextlib
from dataclasses import dataclass, field

import grpc
import pytest

from argosy import AsyncClient, Client, DeadlineError, FinishReason, InvalidArgumentError, SamplingParams
from argosy_api.v1 import worker_pb2 as pb
from argosy_api.v1 import worker_pb2_grpc as rpc

COUNT = 10


@dataclass
class FakeRouter(rpc.InferenceServicer):
    """Answers with the tokens 0 to 9, whose texts are their digits; ends where its script says."""

    dies_at: int | None = None
    """Before this token the call ends as if the router was gone."""
    code: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE
    stuck: bool = False
    requests: list = field(default_factory=list)
    cancelled: int = 0

    async def Generate(self, request, context):
        self.requests.append(pb.InferenceRequest.FromString(request.SerializeToString()))
        at = len(request.resume.tokens)
        try:
            for index in range(at, COUNT):
                if index == self.dies_at:
                    await context.abort(self.code, "max_tokens: bad" if self.code.name.startswith("INV") else "gone")
                finish = pb.FINISH_REASON_LENGTH if index == COUNT - 1 else pb.FINISH_REASON_UNSPECIFIED
                yield pb.GenerateChunk(
                    index=index, token_ids=[index], text=str(index), attempt=request.resume.attempt + 1,
                    resume_token=b"t" if index == at else b"", finish_reason=finish,
                )  # fmt: skip
                if self.stuck:
                    await asyncio.Event().wait()
        except (asyncio.CancelledError, GeneratorExit):  # the latter: what it gave was still on its way out
            self.cancelled += 1
            raise


@contextlib.asynccontextmanager
async def serving(*routers):
    async with contextlib.AsyncExitStack() as stack:
        addresses = []
        for router in routers:
            server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
            rpc.add_InferenceServicer_to_server(router, server)
            addresses.append(f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}")
            await server.start()
            stack.push_async_callback(server.stop, None)
        yield addresses


async def ask(kind, addresses, *, timeout=None, limit=None):
    """The pieces of an answer, up to so many, from the client of that kind."""
    params = SamplingParams(max_tokens=COUNT)
    if kind is AsyncClient:
        async with AsyncClient(*addresses) as client:
            pieces = client.generate("m", "hi", params=params, timeout=timeout)
            found = []
            async with contextlib.aclosing(pieces):
                async for piece in pieces:
                    found.append(piece)
                    if len(found) == limit:
                        break
            return found

    def work():
        with (
            Client(*addresses) as client,
            contextlib.closing(client.generate("m", "hi", params=params, timeout=timeout)) as pieces,
        ):
            return [piece for _, piece in zip(range(limit or 100), pieces, strict=False)]

    return await asyncio.to_thread(work)


@pytest.mark.parametrize("kind", [AsyncClient, Client])
@pytest.mark.parametrize("at", [0, 1, 7])
async def test_an_answer_goes_on_at_another_router(kind, at):
    dying, other = FakeRouter(dies_at=at), FakeRouter()
    async with serving(dying, other) as addresses:
        pieces = await ask(kind, addresses)
    assert [t for p in pieces for t in p.tokens] == list(range(COUNT))
    assert "".join(p.text for p in pieces) == "0123456789"
    assert [p.finish for p in pieces] == [None] * (COUNT - 1) + [FinishReason.LENGTH]
    (first,), (second,) = dying.requests, other.requests
    assert (first.text, first.HasField("resume")) == ("hi", False)
    assert list(second.resume.tokens) == list(range(at))
    second.ClearField("resume")
    assert first == second


@pytest.mark.parametrize("kind", [AsyncClient, Client])
async def test_a_router_that_is_not_there_costs_nothing(kind):
    async with serving(FakeRouter()) as (address,):
        pieces = await ask(kind, ["127.0.0.1:1", address])
    assert len(pieces) == COUNT


@pytest.mark.parametrize("kind", [AsyncClient, Client])
async def test_what_is_refused_is_not_sent_again(kind):
    refusing, other = FakeRouter(dies_at=0, code=grpc.StatusCode.INVALID_ARGUMENT), FakeRouter()
    async with serving(refusing, other) as addresses:
        with pytest.raises(InvalidArgumentError) as caught:
            await ask(kind, addresses)
    assert (caught.value.field, other.requests) == ("max_tokens", [])


@pytest.mark.parametrize("kind", [AsyncClient, Client])
async def test_the_deadline_holds_for_all_of_it(kind):
    dying, stuck = FakeRouter(dies_at=1), FakeRouter(stuck=True)
    async with serving(dying, stuck) as addresses:
        with pytest.raises(DeadlineError, match="after 2 tokens"):
            await ask(kind, addresses, timeout=3)


@pytest.mark.parametrize("kind", [AsyncClient, Client])
async def test_who_reads_no_further_cancels(kind):
    router = FakeRouter(stuck=True)
    async with serving(router) as addresses:
        assert len(await ask(kind, addresses, limit=1)) == 1
        async with asyncio.timeout(30):
            while not router.cancelled:
                await asyncio.sleep(0.01)


async def test_whole_answers():
    async with serving(FakeRouter(dies_at=3), FakeRouter()) as addresses:
        async with AsyncClient(*addresses) as client:
            answer = await client.complete("m", [1, 2])
        with Client(*addresses) as plain:
            same = await asyncio.to_thread(plain.complete, "m", [1, 2])
    assert (answer.text, answer.tokens, answer.finish) == ("0123456789", list(range(COUNT)), FinishReason.LENGTH)
    assert answer == same


@pytest.mark.parametrize("addresses", [[], [""], ["http://router:8080"]])
@pytest.mark.parametrize("kind", [AsyncClient, Client])
def test_addresses_are_checked(kind, addresses):
    with pytest.raises(InvalidArgumentError):
        kind(*addresses)
