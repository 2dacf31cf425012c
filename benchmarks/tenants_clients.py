"""Clients of tenants, and the router and workers that they ask."""

import asyncio
import contextlib
import random
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc
import processes

from argosy_api.access import new_key
from argosy_api.convert import params_to_proto
from argosy_api.params import SamplingParams
from argosy_api.resource import EngineSpec
from argosy_api.v1 import worker_pb2 as pb
from argosy_api.v1 import worker_pb2_grpc as rpc

URI = "sim://bench?prefill_tps=20000&decode_ms=20&kv_blocks=4096"
ENGINE = EngineSpec(max_running=8)
WORKERS = 2
ANSWER = 32


@dataclass(slots=True)
class Sample:
    """One request: when it was sent, when its first token came, when it ended. Seconds."""

    sent: float
    first: float = 0.0
    ended: float = 0.0
    code: str = ""
    tokens: int = 0

    @property
    def good(self) -> bool:
        return self.code == "OK" and self.tokens == ANSWER

    @property
    def waited(self) -> float:
        return self.first - self.sent


class Clients:
    """Of one tenant, over one connection."""

    def __init__(self, channel: grpc.aio.Channel, key: str = "", seed: int = 1) -> None:
        self._stub: rpc.InferenceAsyncStub = rpc.InferenceStub(channel)
        self._metadata = (("authorization", f"Bearer {key}"),) if key else ()
        self._rng = random.Random(seed)
        self.samples: list[Sample] = []

    async def ask(self, prompt: Sequence[int] | None = None, answer: int = ANSWER) -> Sample:
        tokens = prompt or [self._rng.randrange(256) for _ in range(self._rng.randrange(32, 256))]
        request = pb.InferenceRequest(
            model="bench",
            tokens=pb.TokenIds(ids=tokens),
            sampling=params_to_proto(SamplingParams(max_tokens=answer, ignore_eos=True)),
        )
        sample = Sample(time.perf_counter())
        self.samples.append(sample)
        call = self._stub.Generate(request, metadata=self._metadata, timeout=120)
        try:
            async for chunk in call:
                sample.first = sample.first or time.perf_counter()
                sample.tokens += len(chunk.token_ids)
            sample.code = "OK"
        except grpc.aio.AioRpcError as error:
            sample.code = error.code().name
        sample.ended = time.perf_counter()
        return sample

    async def again_and_again(self, count: int, seconds: float) -> None:
        """So many clients, each of which asks again as soon as it has its answer."""
        end = time.perf_counter() + seconds

        async def one() -> None:
            while time.perf_counter() < end:
                await self.ask()

        await asyncio.gather(*(one() for _ in range(count)))

    async def at_rate(self, rate: float, seconds: float) -> None:
        """At random times, whatever becomes of those before."""
        due = time.perf_counter()
        end, tasks = due + seconds, []
        while due < end:
            due += self._rng.expovariate(rate)
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            tasks.append(asyncio.ensure_future(self.ask()))
        await asyncio.gather(*tasks)


def part(values: Sequence[float], share: float) -> float:
    """A quantile; 0 of nothing."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


@contextlib.contextmanager
def fleet(
    *options: str, share_cache: bool = False, uri: str = URI, workers: int = WORKERS
) -> Iterator[processes.Running]:
    """Workers and a router."""
    with contextlib.ExitStack() as stack:
        made = [stack.enter_context(processes.worker(uri, ENGINE)) for _ in range(workers)]
        yield stack.enter_context(processes.router(made, options=options, share_cache=share_cache))


@contextlib.contextmanager
def keys(*tenants: str) -> Iterator[tuple[list[str], list[str]]]:
    """Keys of tenants, and the options with which a router knows them."""
    with tempfile.TemporaryDirectory() as folder:
        document, directory = Path(folder) / "access.yaml", Path(folder) / "keys"
        document.write_text("required: true\n")
        directory.mkdir()
        made = []
        for tenant in tenants:
            key, key_id, entry = new_key(tenant)
            (directory / key_id).write_text(entry.to_json())
            made.append(key)
        yield made, [f"--access={document}", f"--api-keys={directory}"]


@contextlib.asynccontextmanager
async def channel_to(router: processes.Running) -> AsyncIterator[grpc.aio.Channel]:
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{router.port}", options=options) as channel:
        yield channel
