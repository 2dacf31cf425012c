"""One client's worst request must not hold up the others: the router's event loop is never busy for long at a stretch.

Measured in processor time of the router's own process, so that a busy machine changes nothing.
"""

import asyncio
import json

import aiohttp
import grpc
import pytest
import pytest_asyncio
from prometheus_client.parser import text_string_to_metric_families
from reserved import free_port
from router_kit import FakeWorker, events_of
from test_process import spawn

from argosy_api import limits
from argosy_api import metric_names as names
from argosy_api.membership import Deployment, Membership
from argosy_api.v1 import worker_pb2 as pb
from argosy_api.v1 import worker_pb2_grpc as rpc

LONGEST_S = 0.1
"""A bucket of the histogram. Alone it is 5 ms; what this guards against took 400 ms to seconds."""


def body(**fields) -> bytes:
    return json.dumps({"model": "m", "max_tokens": 1, "temperature": 0, **fields}).encode()


TEXT = "lorem ipsum dolor sit amet " * 40_000
CHAT = {"model": "m", "messages": [{"role": "user", "content": "x" * 2000}] * limits.MAX_MESSAGES}
TIMES = 3
WORST = {
    "a text of 1 MB": body(prompt=TEXT),
    "a text of 4 MB": body(prompt=TEXT * 3 + "x" * 900_000),
    "log-probabilities of a prompt": body(prompt="x" * 3000, prompt_logprobs=20),
    "log-probabilities of a prompt, streamed": body(prompt="x" * 3000, prompt_logprobs=20, stream=True),
    "log-probabilities of an answer": body(prompt="x", max_tokens=380, logprobs=20, n=8),
    "512 choices": body(prompt=["y" * 100] * limits.MAX_PROMPTS, n=limits.MAX_CHOICES),
    "512 choices, streamed": body(prompt=["y" * 100] * limits.MAX_PROMPTS, n=limits.MAX_CHOICES, stream=True),
    "an unknown key of 1 MB": body(prompt="a", **{"z" * 1_000_000: 1}),
    "a million token ids": body(prompt=[5] * limits.MAX_PROMPT_IDS),
    "empty arrays": b'{"model": "m", "prompt": [' + b"[]," * 500_000 + b"[]]}",
    "many messages": json.dumps(CHAT).encode(),
    "many parts": json.dumps({"model": "m", "messages": [
        {"role": "user", "content": [{"type": "text", "text": "x"}] * limits.MAX_PARTS}]}).encode(),
}  # fmt: skip


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def router(tmp_path_factory):
    """A router process with a worker whose context is long; the ports of HTTP, gRPC and metrics."""
    worker = await FakeWorker(max_model_len=32_768).start()
    worker.script.tokens_per_chunk = 50
    path = tmp_path_factory.mktemp("turns") / "m.json"
    member = Deployment(namespace="default", name="m", served_name="m", workers=(worker.member(),))
    path.write_text(Membership((member,)).to_json())
    ports = {name: free_port() for name in ("http", "grpc", "metrics")}
    process = await spawn("--membership", f"file:{path}", *(f"--{k}-port={v}" for k, v in ports.items()))
    async with aiohttp.ClientSession() as session:

        async def served() -> bool:
            try:
                request = {"model": "m", "prompt": "a", "max_tokens": 1}
                async with session.post(f"http://127.0.0.1:{ports['http']}/v1/completions", json=request) as answer:
                    return answer.status == 200
            except aiohttp.ClientError:
                return False

        while not await served():
            await asyncio.sleep(0.05)
    yield ports
    process.terminate()
    await process.communicate()
    await worker.stop()


async def long_bursts(session, ports) -> int:
    """How often the event loop was busy for longer than LONGEST_S."""
    async with session.get(f"http://127.0.0.1:{ports['metrics']}/metrics") as answer:
        families = text_string_to_metric_families(await answer.text())
    (found,) = (f for f in families if f.name == names.ROUTER_LOOP_BURST)
    counts = {sample.labels.get("le", sample.name): sample.value for sample in found.samples}
    within, all_ = counts[str(LONGEST_S)], counts[names.ROUTER_LOOP_BURST + "_count"]
    return round(all_ - within)


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("kind", WORST)
async def test_a_worst_request_lets_others_have_their_turn(router, kind):
    """Three times each, beside a stream that goes on; every one is answered, or refused with a reason."""
    base = f"http://127.0.0.1:{router['http']}"
    path = "/v1/chat/completions" if "messages" in kind or "parts" in kind else "/v1/completions"
    async with aiohttp.ClientSession() as session:
        before = await long_bursts(session, router)

        async def normal() -> bytes:
            request = {"model": "m", "prompt": "hello", "max_tokens": 2000, "stream": True}
            async with session.post(base + "/v1/completions", json=request) as answer:
                return await answer.read()

        stream = asyncio.create_task(normal())
        for _ in range(TIMES):
            async with session.post(base + path, data=WORST[kind]) as answer:
                raw = await answer.read()
                assert answer.status in (200, 400, 413), raw[:300]
        assert events_of(await stream)[-1]["choices"][0]["finish_reason"] == "length"
        await asyncio.sleep(0.1)  # the last burst is counted
        # what such a request costs it costs each time; a single long burst is a moment at which the processor was slow
        assert await long_bursts(session, router) - before < TIMES


@pytest.mark.asyncio(loop_scope="module")
async def test_a_worst_message_lets_others_have_their_turn(router):
    """gRPC: a text of 4 MB and a million ids."""
    async with (
        aiohttp.ClientSession() as session,
        grpc.aio.insecure_channel(
            f"127.0.0.1:{router['grpc']}", options=[("grpc.max_send_message_length", limits.MAX_GRPC_MESSAGE)]
        ) as channel,
    ):
        before = await long_bursts(session, router)
        for prompt in ({"text": TEXT * 3}, {"tokens": pb.TokenIds(ids=[5] * 1_000_000)}):
            with pytest.raises(grpc.aio.AioRpcError, match="context is 32768"):
                async for _ in rpc.InferenceStub(channel).Generate(pb.InferenceRequest(model="m", **prompt)):
                    pass
        await asyncio.sleep(0.1)
        assert await long_bursts(session, router) == before
