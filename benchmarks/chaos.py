"""Workers and routers are killed, stopped, drained and restarted under load, and every stream is compared with the
oracle, token by token.

    python benchmarks/chaos.py [--faults kill|stop|drain|all|router|roll] [--requests 2000] [--rate 15] [--every 5]

Real processes: routers and simulated workers, whose next token is a hash of all before it. Requests come at random
times (open loop), greedy, seeded and with penalties. One fault at a time, each verified to have happened; what ended is
started again at its port, as the kubelet would. `kill`, `stop` and `drain` happen to workers behind one router, which
is asked by plain gRPC calls. `router` kills one of two routers, and `roll` restarts all workers and routers in turn, by
SIGTERM; then the client library asks. A run without faults, or at a lower rate than planned, proves nothing and fails,
as does one with a failed, wrong or unfinished stream.
"""

import argparse
import asyncio
import contextlib
import random
import statistics
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass

import grpc
from chaos_fleet import Slot, fleet
from chaos_history import History, ask, ask_client, some_request, wrongs

from argosy import AsyncClient
from argosy_api.v1 import worker_pb2_grpc as rpc

LEAST_RATE = 0.8
"""Of the planned rate."""
ALL = ("kill", "stop", "drain")
ROUTERS = frozenset({"router", "roll"})
"""Faults that routers have, too."""

Asking = Callable[[History], Awaitable[None]]


async def disturb(
    workers: Sequence[Slot],
    routers: Sequence[Slot],
    *,
    kinds: Sequence[str],
    every: float,
    rng: random.Random,
    done: list["Happened"],
) -> None:
    """A fault every so many seconds, each at one who is well, until it is cancelled."""
    for i in range(1 << 30):
        await asyncio.sleep(every)
        kind = kinds[i % len(kinds)]
        if kind == "roll":
            everyone = [*workers, *routers]
            slot, fault = everyone[i % len(everyone)], "drain"
        elif kind == "router":
            slot, fault = rng.choice(routers), "kill"
        else:
            slot, fault = rng.choice(workers), kind
        began = time.monotonic()
        await slot.happens(fault, rng)
        happened = Happened(kind, f"{fault} of {'a router' if slot in routers else 'a worker'}", began)
        done.append(happened)
        await slot.serving()
        happened.over = time.monotonic()


@contextlib.asynccontextmanager
async def asking(routers: Sequence[Slot], *, by_client: bool) -> AsyncIterator[Asking]:
    """How requests are sent."""
    addresses = [f"127.0.0.1:{router.port}" for router in routers]
    if by_client:
        async with AsyncClient(*addresses) as client:
            yield lambda history: ask_client(client, history)
    else:
        async with grpc.aio.insecure_channel(addresses[0]) as channel:
            stub: rpc.InferenceAsyncStub = rpc.InferenceStub(channel)
            yield lambda history: ask(stub, history)


@dataclass(slots=True)
class Happened:
    """A fault."""

    kind: str
    what: str
    began: float
    over: float = float("inf")
    """When who was hit served again."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a run."""

    histories: list[History]
    happened: list[Happened]
    seconds: float

    @property
    def faults(self) -> list[str]:
        return [fault.kind for fault in self.happened]

    @property
    def failures(self) -> list[str]:
        return [problem for history in self.histories for problem in wrongs(history)]

    def longest(self, count: int) -> list[str]:
        """The longest gaps, and what had happened before each."""
        found = []
        for history in self.histories:
            pairs = zip(history.chunks, history.chunks[1:], strict=False)
            found += [(b[0] - a[0], a[0]) for a, b in pairs if b[1] != a[1]]
        lines = []
        for gap, at in sorted(found, reverse=True)[:count]:
            before = [f for f in self.happened if f.began <= at + gap]
            told = "; ".join(f"{f.what} {1e3 * (at - f.began):+.0f} ms" for f in before[-2:])
            lines.append(f"{1e3 * gap:.0f} ms, its last token came after {told}")
        return lines

    @property
    def gaps(self) -> list[float]:
        return sorted(gap for history in self.histories for gap in history.resumed)


async def run(
    *,
    requests: int,
    rate: float,
    every: float,
    kinds: Sequence[str],
    workers: int = 4,
    decode_ms: float = 20,
    seed: int = 1,
    least_faults: int = 1,
) -> Outcome:
    """Requests at this rate a second, and faults of these kinds in turn; more requests until so many have happened."""
    rng, histories, faults, tasks = random.Random(seed), [], [], []
    of_routers = not ROUTERS.isdisjoint(kinds)
    async with (
        fleet(workers, 2 if of_routers else 1, decode_ms) as (worker_slots, router_slots),
        asking(router_slots, by_client=of_routers) as send,
    ):
        began = time.monotonic()
        nemesis = asyncio.create_task(
            disturb(worker_slots, router_slots, kinds=kinds, every=every, rng=random.Random(seed + 1), done=faults)
        )
        due = began
        while len(histories) < requests or len(faults) < least_faults:
            due += rng.expovariate(rate)
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            histories.append(some_request(rng))
            tasks.append(asyncio.ensure_future(send(histories[-1])))
            if nemesis.done():
                nemesis.result()
        seconds = time.monotonic() - began
        await asyncio.gather(*tasks)
        nemesis.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await nemesis
    return Outcome(histories, faults, seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", choices=[*ALL, "all", "router", "roll"], default="kill")
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--rate", type=float, default=15)
    parser.add_argument("--every", type=float, default=5)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--decode-ms", type=float, default=20)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    kinds = list(ALL) if options.faults == "all" else [options.faults]
    outcome = asyncio.run(
        run(
            requests=options.requests, rate=options.rate, every=options.every, kinds=kinds, workers=options.workers,
            decode_ms=options.decode_ms, seed=options.seed,
        )
    )  # fmt: skip
    failures, gaps = outcome.failures, outcome.gaps
    failed = sum(bool(history.error) for history in outcome.histories)
    counts = ", ".join(f"{outcome.faults.count(kind)} x {kind}" for kind in kinds)
    print(f"{len(outcome.histories)} streams at {len(outcome.histories) / outcome.seconds:.1f}/s; faults: {counts}")
    print(f"failed {failed}, wrong {len(failures) - failed}; went on elsewhere: {len(gaps)} times")
    for line in outcome.longest(5) if gaps else ():
        print("  longest:", line)
    if len(gaps) > 1:
        cuts = statistics.quantiles(gaps, n=100, method="inclusive")
        print(f"gap p50 {1e3 * cuts[49]:.0f} ms, p99 {1e3 * cuts[98]:.0f} ms, longest {1e3 * gaps[-1]:.0f} ms")
    for problem in failures[:20]:
        print(" ", problem)
    if failures:
        sys.exit("streams failed")
    if not gaps or not outcome.faults or len(outcome.histories) / outcome.seconds < LEAST_RATE * options.rate:
        sys.exit("this run proves nothing: too few faults, or too low a rate")


if __name__ == "__main__":
    main()
