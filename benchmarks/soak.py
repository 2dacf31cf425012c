"""A router under mixed load and faults for a long time: does it keep memory, tasks or file descriptors?

    python benchmarks/soak.py [--minutes 30] [--rate 10] [--every 20] [--workers 3] [--out soak.json]
                              [--kinds gRPC,HTTP,leaves,never,nonsense] [--logs FOLDER] [--inside FILE [--places]]

Streams over gRPC, each held against the oracle, and over HTTP; clients that leave in mid-answer, that never read, and
that ask for nonsense. Workers are killed, stopped and drained in turn, each fault verified (`chaos.py`). Every
`SAMPLE_S` seconds the benchmark looks at the router's resident memory (without and with its child processes), tasks,
file descriptors, threads and bytes held. The slope of memory is that of a straight line by least squares through what
came after the warm-up: the first fifth of the run, and at least two minutes. When the load has ended, tasks and file
descriptors must be as few as before it.

`--logs` keeps the log of each process in that folder. `--inside` has the router look at itself every minute, into a
file with one line of JSON for each look, and tells by allocator and type of object what it has more of at the end than
after the warm-up; with `--places`, also by line of code, at the price of a slower and larger router (`inside.py`).
"""

import argparse
import asyncio
import contextlib
import json
import random
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import aiohttp
import grpc
import inside
import psutil
from chaos import ALL, Happened, disturb
from chaos_fleet import RouterSlot, Slot, fleet
from chaos_history import MODEL, History, ask, some_request, wrongs
from storm import gauge

from argosy_api.v1 import worker_pb2_grpc as rpc

SAMPLE_S = 5.0
INSIDE_S = 60
KINDS = ("gRPC", "HTTP", "leaves", "never", "nonsense")
SETTLE_S = 120.0
"""Clients that do not read are given up after 30 s."""
SILENT_S = (5.0, 20.0)
WARM_SHARE, WARM_LEAST_S = 0.2, 120.0
MOST_SLOPE = 0.2
"""MB a minute."""


@dataclass(frozen=True, slots=True)
class Sample:
    """Of the router at one time: seconds, bytes and numbers."""

    at: float
    resident: int
    resident_all: int
    """With its child processes."""
    tasks: int
    descriptors: int
    threads: int
    held: int


@dataclass(slots=True)
class Soak:
    """What came of a run."""

    before: Sample
    samples: list[Sample] = field(default_factory=list)
    after: Sample | None = None
    histories: list[History] = field(default_factory=list)
    happened: list[Happened] = field(default_factory=list)
    asked: dict[str, int] = field(default_factory=dict)  # by kind
    problems: list[str] = field(default_factory=list)

    @property
    def left(self) -> dict[str, int]:
        """Tasks and file descriptors more than before."""
        after = self.after or self.before
        return {
            "tasks": max(0, after.tasks - self.before.tasks),
            "descriptors": max(0, after.descriptors - self.before.descriptors),
            "held": after.held,
        }

    def slopes(self) -> dict[str, float]:
        """Growth a minute: MB of memory, and tasks and file descriptors."""
        late = settled(self.samples)

        def of(value: Callable[[Sample], float]) -> float:
            return slope([(s.at / 60, value(s)) for s in late])

        memory = {"resident_mb": of(lambda s: s.resident / 1e6), "resident_all_mb": of(lambda s: s.resident_all / 1e6)}
        return {**memory, "tasks": of(lambda s: s.tasks), "descriptors": of(lambda s: s.descriptors)}


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Of the straight line by least squares; 0 for fewer than two points."""
    if len(points) < 2:
        return 0.0
    x0 = sum(x for x, _ in points) / len(points)
    spread = sum((x - x0) ** 2 for x, _ in points)
    return sum((x - x0) * y for x, y in points) / spread if spread else 0.0


def settled(samples: Sequence[Sample]) -> list[Sample]:
    """Those after the warm-up."""
    if not samples:
        return []
    whole = samples[-1].at
    warm = max(WARM_SHARE * whole, min(WARM_LEAST_S, whole / 2))
    return [sample for sample in samples if sample.at >= warm]


async def look(router: RouterSlot, began: float) -> Sample:
    """The router now."""
    process = psutil.Process(router.process.pid)
    page, own, everyone = f"http://127.0.0.1:{router.metrics_port}/metrics", process.memory_info().rss, 0
    for child in process.children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            everyone += child.memory_info().rss
    descriptors = (
        process.num_fds()
    )  # before the connections that ask for the page, of which the router yet sees the end
    tasks, held = await gauge(page, "argosy_router_tasks"), await gauge(page, "argosy_router_held_bytes")
    at = time.monotonic() - began
    return Sample(at, own, own + everyone, tasks, descriptors, process.num_threads(), held)


class Load:
    """Requests of all kinds."""

    def __init__(
        self,
        router: RouterSlot,
        soak: Soak,
        rng: random.Random,
        silent_s: tuple[float, float],
        kinds: Collection[str] = KINDS,
    ) -> None:
        """`silent_s`: how long those stay who never read."""
        self._router, self._soak, self._rng, self._silent_s, self._only = router, soak, rng, silent_s, kinds
        self._kinds: list[tuple[str, Callable[[], Coroutine[None, None, None]], int]] = [
            ("gRPC", self._checked, 6), ("HTTP", self._http, 4), ("leaves", self._leaves, 2),
            ("never", self._never_reads, 1), ("nonsense", self._nonsense, 2),
        ]  # fmt: skip

    async def run(self, rate: float, seconds: float) -> None:
        """So many a second at random times (open loop), each of some kind; until all have ended."""
        names = [kind for kind, _, weight in self._kinds if kind in self._only for _ in range(weight)]
        makers = {kind: make for kind, make, _ in self._kinds}
        tasks: set[asyncio.Task[None]] = set()
        due = time.monotonic()
        end = due + seconds
        address, self._base = f"127.0.0.1:{self._router.port}", f"http://127.0.0.1:{self._router.http_port}"
        async with grpc.aio.insecure_channel(address) as channel, aiohttp.ClientSession() as self._session:
            self._stub: rpc.InferenceAsyncStub = rpc.InferenceStub(channel)
            while (due := due + self._rng.expovariate(rate)) < end:
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                name = self._rng.choice(names)
                self._soak.asked[name] = self._soak.asked.get(name, 0) + 1
                tasks.add(task := asyncio.create_task(makers[name]()))
                task.add_done_callback(tasks.discard)
            await asyncio.gather(*tasks)

    def _body(self, **more: object) -> dict[str, object]:
        prompt = [self._rng.randrange(32, 127) for _ in range(self._rng.randrange(8, 200))]
        return {"model": MODEL, "prompt": prompt, "max_tokens": 60, "ignore_eos": True, "stream": True, **more}

    async def _checked(self) -> None:
        history = some_request(self._rng)
        await ask(self._stub, history)
        self._soak.problems += wrongs(history)

    async def _http(self) -> None:
        try:
            async with self._session.post(self._base + "/v1/completions", json=self._body()) as answer:
                if not (await answer.read()).endswith(b"data: [DONE]\n\n"):
                    self._soak.problems.append(f"over HTTP: {answer.status}, without its end")
        except aiohttp.ClientError as error:
            self._soak.problems.append(f"over HTTP: {error!r}")

    async def _leaves(self) -> None:
        try:
            async with self._session.post(self._base + "/v1/completions", json=self._body(max_tokens=2000)) as answer:
                await answer.content.readany()
                answer.close()
        except aiohttp.ClientError as error:
            self._soak.problems.append(f"before it could leave: {error!r}")

    async def _never_reads(self) -> None:
        body = json.dumps(self._body(n=4, max_tokens=8000)).encode()
        quiet, loop = socket.socket(), asyncio.get_running_loop()
        with contextlib.closing(quiet):
            quiet.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            quiet.setblocking(False)
            await loop.sock_connect(quiet, ("127.0.0.1", self._router.http_port))
            head = f"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n".encode()
            await loop.sock_sendall(quiet, head + body)
            await asyncio.sleep(self._rng.uniform(*self._silent_s))

    async def _nonsense(self) -> None:
        wrong = self._rng.choice([{"temperature": -1}, {"max_tokens": "many"}, {"model": "another"}, {"prompt": 7}])
        async with self._session.post(self._base + "/v1/completions", json=self._body(**wrong)) as answer:
            if answer.status not in (400, 404):
                self._soak.problems.append(f"nonsense was answered with {answer.status}")
            await answer.read()


async def soak(
    *,
    minutes: float,
    rate: float,
    every: float,
    workers: int = 3,
    warm_s: float = 10.0,
    silent_s: tuple[float, float] = SILENT_S,
    seed: int = 1,
    kinds: Collection[str] = KINDS,
    router_program: Sequence[str] = ("-m", "argosy_router"),
    logs: Path | None = None,
) -> Soak:
    """A run of so many minutes, with a fault every so many seconds."""
    rng = random.Random(seed)
    async with fleet(workers, 1, 20, router=router_program, logs=logs) as (worker_slots, router_slots):
        (router,) = router_slots
        if not isinstance(router, RouterSlot):
            raise TypeError("no router")
        warm = Soak(await look(router, time.monotonic()))
        await Load(router, warm, rng, silent_s, kinds).run(rate, warm_s)  # tokenizers, connections, what is made once
        await quiet_again(router)
        began = time.monotonic()
        result = Soak(await look(router, began), problems=warm.problems)
        async with disturbed(worker_slots, every, rng, result), sampled(router, began, result):
            await Load(router, result, rng, silent_s, kinds).run(rate, 60 * minutes)
        await quiet_again(router)
        result.after = await look(router, began)
    return result


async def quiet_again(router: RouterSlot) -> None:
    """Until it has as few tasks and descriptors as it comes to, or for so long."""
    end, lowest, since = time.monotonic() + SETTLE_S, 1 << 60, time.monotonic()
    while time.monotonic() < min(end, since + 10.0):
        now = await look(router, 0.0)
        if (many := now.tasks + now.descriptors) < lowest or now.held:
            lowest, since = min(many, lowest), time.monotonic()
        await asyncio.sleep(0.5)


@contextlib.asynccontextmanager
async def disturbed(workers: Sequence[Slot], every: float, rng: random.Random, result: Soak) -> AsyncIterator[None]:
    """Faults while it lasts; the last of them is over at the end."""
    nemesis = asyncio.create_task(
        disturb(workers, [], kinds=ALL, every=every, rng=random.Random(rng.random()), done=result.happened)
    )
    try:
        yield
    finally:
        nemesis.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await nemesis
    for slot in workers:
        slot.wake()
        await slot.serving()


@contextlib.asynccontextmanager
async def sampled(router: RouterSlot, began: float, result: Soak) -> AsyncIterator[None]:
    async def again() -> None:
        while True:
            result.samples.append(await look(router, began))
            await asyncio.sleep(SAMPLE_S)

    task = asyncio.create_task(again())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def tell_inside(path: Path) -> list[str]:
    """What the router had more of at its last look than after the warm-up, for people."""
    looks = [json.loads(line) for line in path.read_text().splitlines()]
    late = [one for one in looks if one["at"] >= WARM_SHARE * looks[-1]["at"]] if looks else []
    return inside.told(late[0], late[-1]) if len(late) > 1 else ["inside: too few looks"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--rate", type=float, default=10)
    parser.add_argument("--every", type=float, default=20)
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--inside", type=Path)
    parser.add_argument("--places", action="store_true")
    parser.add_argument("--logs", type=Path)
    parser.add_argument("--kinds", type=lambda text: text.split(","), default=KINDS)
    options = parser.parse_args()
    program = ["-m", "argosy_router"]
    if options.inside is not None:
        program = [inside.__file__, str(options.inside), str(INSIDE_S), str(int(options.places))]
    found = asyncio.run(
        soak(
            minutes=options.minutes, rate=options.rate, every=options.every, workers=options.workers,
            kinds=options.kinds, router_program=program, logs=options.logs,
        )
    )  # fmt: skip
    slopes = found.slopes()
    if options.out is not None:
        told = {
            "minutes": options.minutes, "asked": found.asked, "faults": [f.what for f in found.happened],
            "problems": found.problems, "slopes_a_minute": slopes, "left": found.left, "before": asdict(found.before),
            "after": None if found.after is None else asdict(found.after),
            "samples": [asdict(sample) for sample in found.samples],
        }  # fmt: skip
        options.out.write_text(json.dumps(told, indent=1) + "\n")
    late = settled(found.samples)
    print(f"{sum(found.asked.values())} requests, {len(found.happened)} faults, {len(found.problems)} problems")
    print(f"memory {late[0].resident / 1e6:.1f} MB after the warm-up, {late[-1].resident / 1e6:.1f} MB at the end:")
    print(f"  {slopes['resident_mb']:+.3f} MB a minute, with child processes {slopes['resident_all_mb']:+.3f}")
    print(f"tasks {slopes['tasks']:+.2f}, descriptors {slopes['descriptors']:+.2f} a minute; left: {found.left}")
    for problem in found.problems[:20]:
        print(" ", problem)
    if options.inside is not None:
        print(*tell_inside(options.inside), sep="\n")
    if found.problems or any(found.left.values()) or not found.happened:
        sys.exit("something failed, or is left, or no fault happened")
    if slopes["resident_mb"] > MOST_SLOPE:
        sys.exit(f"memory grows by more than {MOST_SLOPE} MB a minute")


if __name__ == "__main__":
    main()
