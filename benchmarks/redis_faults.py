"""Redis is wiped, cut off, failed over and away, under load: what clients notice, and when the hit rate is as before.

    python benchmarks/redis_faults.py [--stories wiped,hole,failover,sentinel,absent] [--times 5] [--rate 30]

Real processes: a router and simulated workers, which reach Valkey by a relay in this process. Prompts come at random
times; each begins with one of 60 beginnings of 512 tokens, so a worker that has it computes 32 tokens, and another one
544. `wiped`: FLUSHALL. `hole`: the relay takes what comes, and gives nothing on. `failover`: the server is killed, a
replica is made the master, and the relay leads to it, as a Service or a proxy does. `sentinel`: three Sentinels make it
the master, and are asked where it is. `absent`: the server is killed, and an empty one comes up at its place. In each
story half of the beginnings are new ones, asked for once while Redis is away, so that who forgets what happened
meanwhile is found out. Each fault is verified.
"""

import argparse
import asyncio
import contextlib
import random
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

import grpc
import processes
from redis_servers import Relay, Sentinels, Server
from rich.console import Console
from rich.table import Table

from argosy_api.convert import params_to_proto
from argosy_api.params import SamplingParams
from argosy_api.v1 import worker_pb2 as pb
from argosy_api.v1 import worker_pb2_grpc as rpc

URI = "sim://bench?prefill_tps=20000&decode_ms=5&kv_blocks=8192"
WORKERS = 3
BEGINNINGS = 60
BEGINNING, TAIL = 512, 32
HEALED_S = 5.0
CALM_S = 15.0
AWAY_S = {"wiped": 0.0, "hole": 60.0, "failover": 0.0, "absent": 20.0}
ADDED = "argosy_router_added_seconds_bucket"


@dataclass(slots=True)
class Sample:
    sent: float
    first: float = 0.0
    cached: int = 0
    again: bool = False
    """Its beginning had been asked for long enough before."""
    error: str = ""


@dataclass(slots=True)
class Load:
    """Requests at random times."""

    stub: "rpc.InferenceAsyncStub"
    rate: float
    rng: random.Random = field(default_factory=lambda: random.Random(1))
    samples: list[Sample] = field(default_factory=list)
    known: list[tuple[list[int], float]] = field(default_factory=list)
    """Beginnings, and since when each is known somewhere."""

    def renew(self, count: int) -> None:
        """So many beginnings are new ones from now on."""
        for i in self.rng.sample(range(BEGINNINGS), count) if self.known else range(BEGINNINGS):
            made = [self.rng.randrange(256) for _ in range(BEGINNING)]
            self.known[i : i + 1] = [(made, float("inf"))]

    async def run(self) -> None:
        due, tasks = time.monotonic(), set[asyncio.Task[None]]()
        try:
            while True:
                due += self.rng.expovariate(self.rate)
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                task = asyncio.create_task(self._ask())
                tasks.add(task)
                task.add_done_callback(tasks.discard)
        except asyncio.CancelledError:
            await asyncio.gather(*tasks)

    async def _ask(self) -> None:
        i = self.rng.randrange(BEGINNINGS)
        beginning, since = self.known[i]
        sample = Sample(time.monotonic(), again=time.monotonic() > since + 0.2)
        self.samples.append(sample)
        prompt = [*beginning, *(self.rng.randrange(256) for _ in range(TAIL))]
        sampling = params_to_proto(SamplingParams(max_tokens=8, ignore_eos=True))
        request = pb.InferenceRequest(model="bench", tokens=pb.TokenIds(ids=prompt), sampling=sampling)
        try:
            async for chunk in self.stub.Generate(request, timeout=60):
                if not sample.first:
                    sample.first = time.monotonic()
                    if self.known[i][0] is beginning and since == float("inf"):
                        self.known[i] = (beginning, sample.first)
                if chunk.HasField("usage"):
                    sample.cached = chunk.usage.cached_tokens
        except grpc.aio.AioRpcError as error:
            sample.error = f"{error.code().name}: {error.details()}"

    def hits(self, begin: float, end: float) -> float:
        """Of the tokens that somebody had, those that were found."""
        found = [s for s in self.samples if begin <= s.sent < end and s.again and not s.error]
        return sum(s.cached for s in found) / (BEGINNING * len(found)) if found else float("nan")


Fault = Callable[[], Awaitable[None]]


class Redis:
    """Two servers, of which the relay leads to one."""

    def __init__(self, folder: str) -> None:
        self.master, self.replica = Server(folder), Server(folder)
        self.relay = Relay(self.master.port)
        self.sentinels = Sentinels(folder, self.master.port)

    async def wiped(self) -> None:
        if not await self.master.ask("DBSIZE"):
            raise RuntimeError("there was nothing to wipe")
        await self.master.ask("FLUSHALL")

    async def hole(self) -> None:
        self.relay.swallows, self.relay.swallowed = True, 0
        await asyncio.sleep(AWAY_S["hole"])
        if not self.relay.swallowed:
            raise RuntimeError("nobody asked Redis")
        self.relay.swallows = False
        self.relay.cut()

    async def failover(self) -> None:
        await self.replica.start(replica_of=self.master.port)
        while "connected" not in str(await self.replica.ask("ROLE")):
            await asyncio.sleep(0.05)
        self.master.kill()
        await asyncio.sleep(1.0)  # until who watches them has noticed
        await self.replica.ask("REPLICAOF", "NO", "ONE")
        self.relay.target = self.replica.port
        self.master, self.replica = self.replica, self.master

    async def sentinel(self) -> None:
        """As `failover`, but Sentinels do it, whom workers and router ask where the master is."""
        await self.replica.start(replica_of=self.master.port)
        while "connected" not in str(await self.replica.ask("ROLE")) or not await self.sentinels.know(replicas=1):
            await asyncio.sleep(0.05)
        self.master.kill()
        while "master" not in str(await self.replica.ask("ROLE")):
            await asyncio.sleep(0.05)
        self.master, self.replica = self.replica, self.master

    async def absent(self) -> None:
        self.master.kill()
        await asyncio.sleep(AWAY_S["absent"])
        await self.master.start()


async def added(router: processes.Running) -> dict[float, float]:
    told = await asyncio.to_thread(router.metrics)
    buckets = {k: v for k, v in told.items() if k.startswith(ADDED)}
    return {float(k.split('le="')[1].split('"')[0]): v for k, v in buckets.items()}


@contextlib.asynccontextmanager
async def around(rate: float, *, sentinels: bool) -> AsyncIterator[tuple[Redis, Load, processes.Running]]:
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        servers = Redis(folder)
        await servers.master.start()
        stack.callback(lambda: (servers.master.kill(), servers.replica.kill()))
        async with servers.relay as relay:
            url = f"redis://127.0.0.1:{relay.port}/0"
            if sentinels:
                await servers.sentinels.start()
                stack.callback(servers.sentinels.kill)
                url = servers.sentinels.url

            def begin() -> processes.Running:
                made = [stack.enter_context(processes.worker(URI, redis_url=url)) for _ in range(WORKERS)]
                return stack.enter_context(processes.router(made, redis_url=url))

            router = await asyncio.to_thread(begin)
            async with grpc.aio.insecure_channel(f"127.0.0.1:{router.port}") as channel:
                load = Load(rpc.InferenceStub(channel), rate)
                load.renew(BEGINNINGS)
                running = asyncio.create_task(load.run())
                await asyncio.sleep(CALM_S)
                yield servers, load, router
                running.cancel()
                await running
            await asyncio.to_thread(stack.close)


async def story(name: str, times: int, servers: Redis, load: Load, router: processes.Running) -> tuple[list[str], bool]:
    fault: Fault = getattr(servers, name)
    before, calm_from = load.hits(time.monotonic() - CALM_S / 2, time.monotonic()), time.monotonic()
    buckets = await added(router)
    while_away, after = [], []
    for _ in range(times):
        began = time.monotonic()
        happening = asyncio.create_task(fault())
        await asyncio.sleep(0.5)
        load.renew(BEGINNINGS // 2)
        await happening
        ended = time.monotonic()
        await asyncio.sleep(HEALED_S + CALM_S)
        while_away.append(load.hits(began, ended + HEALED_S))
        after.append(load.hits(ended + HEALED_S, time.monotonic()))
    now = await added(router)
    seen = {le: now[le] - buckets.get(le, 0.0) for le in now}
    share = seen[0.005] / max(1.0, seen[float("inf")])
    here = [s for s in load.samples if s.sent >= calm_from]
    failed = [s.error for s in here if s.error]
    holds = not failed and min(after) >= 0.95 * before and share >= 0.99
    for error in failed[:3]:
        print(" ", error)
    row = [
        f"{times} x {name}", f"{len(here)}", f"{len(failed)}", f"{before:.3f}", f"{min(while_away):.3f}",
        f"{min(after):.3f}", f"{share:.4f}",
    ]  # fmt: skip
    return row, holds


async def run(stories: list[str], times: int, rate: float) -> bool:
    table = Table(
        "story", "requests", "failed", "hits before", "least until 5 s after", "least later", "added <= 5 ms", ""
    )
    good = True
    for name in stories:
        async with around(rate, sentinels=name == "sentinel") as (servers, load, router):
            row, holds = await story(name, 1 if name == "hole" else times, servers, load, router)
        table.add_row(*row, "holds" if holds else "FAILS")
        good &= holds
    Console(width=140).print(table)
    return good


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stories", default="wiped,hole,failover,sentinel,absent")
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--rate", type=float, default=30)
    options = parser.parse_args()
    if not asyncio.run(run(options.stories.split(","), options.times, options.rate)):
        sys.exit("not all of it holds")


if __name__ == "__main__":
    main()
