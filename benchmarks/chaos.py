"""Workers are killed, stopped and drained under load, and every stream is compared with the oracle, token by token.

    python benchmarks/chaos.py [--faults kill|stop|drain|all] [--requests 2000] [--rate 15] [--every 5] [--workers 4]

Real processes: one router and simulated workers, whose next token is a hash of all before it. Requests come at random
times (open loop), greedy, seeded and with penalties. One fault at a time, each verified to have happened; a worker that
ended is started again at its port, as the kubelet would. A run without faults, or at a lower rate than planned, proves
nothing and fails, as does one with a failed, wrong or unfinished stream.
"""

import argparse
import asyncio
import contextlib
import os
import random
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import processes

from argosy_api.convert import params_to_proto
from argosy_api.params import SamplingParams
from argosy_api.resource import DrainSpec, EngineSpec, ModelSpec
from argosy_api.v1 import worker_pb2 as pb
from argosy_api.v1 import worker_pb2_grpc as rpc
from argosy_api.worker_spec import WorkerSpec
from argosy_worker import sim

URI = "sim://bench?prefill_tps=20000&decode_ms={decode_ms}&kv_blocks=4096&check=1"
LEAST_RATE = 0.8
"""Of the planned rate."""
STOPPED_S = (2.0, 6.0)
DRAIN_S = 0
"""For the streams of a worker that drains: none of them ends there."""
NEVER_S = 60.0


# --- what clients saw


@dataclass(slots=True)
class History:
    """One request, and all that its client got."""

    prompt: list[int]
    params: SamplingParams
    chunks: list[tuple[float, int, int, list[int]]] = field(default_factory=list)
    """(when, attempt, index, tokens)."""
    text: str = ""
    finished: bool = False
    completion_tokens: int = 0
    error: str = ""

    @property
    def resumed(self) -> list[float]:
        """Seconds between the last token of an attempt and the first one of the next, for each time it went on."""
        pairs = zip(self.chunks, self.chunks[1:], strict=False)
        return [later[0] - earlier[0] for earlier, later in pairs if later[1] != earlier[1]]


def wrongs(history: History) -> list[str]:
    """What is wrong with what a client got; nothing where it is the oracle's answer, each token once, in order."""
    if history.error:
        return [f"failed: {history.error}"]
    found, tokens, attempt = [], [], 0
    for _, number, index, more in history.chunks:
        if index != len(tokens):
            found.append(f"token {index} came when {len(tokens)} was due")
        if number < attempt:
            found.append(f"attempt {number} spoke after attempt {attempt}")
        attempt = max(attempt, number)
        tokens += more
    if tokens != sim.oracle(history.prompt, history.params.max_tokens, history.params):
        found.append("other tokens than the oracle's")
    if history.text.encode() != bytes(tokens):
        found.append("the text is not that of the tokens")
    if not history.finished:
        found.append("ended without a finish reason")
    elif history.completion_tokens != history.params.max_tokens:
        found.append(f"usage says {history.completion_tokens} tokens")
    return found


def some_request(rng: random.Random) -> History:
    prompt = [rng.randrange(32, 127) for _ in range(rng.randrange(8, 200))]
    kind = rng.randrange(3)
    return History(
        prompt,
        SamplingParams(
            max_tokens=rng.randrange(8, 96),
            temperature=float(kind > 0),
            seed=rng.randrange(1 << 40) if kind else None,
            frequency_penalty=0.5 if kind == 2 else 0.0,
        ),
    )


async def ask(stub: "rpc.InferenceAsyncStub", history: History) -> None:
    request = pb.InferenceRequest(
        model="bench", tokens=pb.TokenIds(ids=history.prompt), sampling=params_to_proto(history.params)
    )
    try:
        async for chunk in stub.Generate(request, timeout=NEVER_S):
            history.text += chunk.text
            history.finished = chunk.finish_reason == pb.FINISH_REASON_LENGTH
            history.completion_tokens = chunk.usage.completion_tokens
            if chunk.token_ids:
                history.chunks.append((time.monotonic(), chunk.attempt, chunk.index, list(chunk.token_ids)))
    except grpc.aio.AioRpcError as error:
        history.error = f"{error.code().name}: {error.details()}"


# --- workers and what happens to them


class Slot:
    """A worker at one port, again and again."""

    def __init__(self, decode_ms: float) -> None:
        self.port, self._metrics_port = processes.free_port(), processes.free_port()
        model = ModelSpec(uri=URI.format(decode_ms=decode_ms), served_name="bench")
        spec = WorkerSpec(model=model, engine=EngineSpec(), drain=DrainSpec(timeout_seconds=DRAIN_S))
        self._argument = spec.argument()
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def process(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise RuntimeError("the worker was not started")
        return self._process

    def start(self) -> None:
        environment = {
            "ARGOSY_HOST": "127.0.0.1",
            "ARGOSY_GRPC_PORT": str(self.port),
            "ARGOSY_METRICS_PORT": str(self._metrics_port),
            "ARGOSY_REDIS_URL": "",
            "ARGOSY_NAMESPACE": "default",
            "ARGOSY_DEPLOYMENT": "bench",
            "ARGOSY_WORKER_ID": f"bench-{self.port}",
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", "argosy_worker", self._argument],
            env={**os.environ, **environment}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def end(self) -> None:
        self.process.send_signal(signal.SIGCONT)
        self.process.kill()
        self.process.wait()

    async def serving(self) -> None:
        """Until it answers again, and is known to be well."""
        async with grpc.aio.insecure_channel(f"127.0.0.1:{self.port}") as channel:
            while True:
                with contextlib.suppress(grpc.aio.AioRpcError):
                    await rpc.WorkerStub(channel).GetModel(pb.GetModelRequest(), timeout=1)
                    return
                await asyncio.sleep(0.05)

    async def happens(self, fault: str, rng: random.Random) -> None:
        """One fault, verified. Raises RuntimeError where it did not happen."""
        if fault == "stop":
            self.process.send_signal(signal.SIGSTOP)
            await self._until_state("T")
            await asyncio.sleep(rng.uniform(*STOPPED_S))
            self.process.send_signal(signal.SIGCONT)
            await self._until_state("SRD")
            return
        number = signal.SIGKILL if fault == "kill" else signal.SIGTERM
        self.process.send_signal(number)
        code = await asyncio.to_thread(self.process.wait, 30)
        if code not in ((-signal.SIGKILL,) if fault == "kill" else (0, -signal.SIGTERM)):
            raise RuntimeError(f"{fault} did not happen: the worker ended with {code}")
        self.start()

    async def _until_state(self, wanted: str) -> None:
        until = time.monotonic() + 5
        while (Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()[0]) not in wanted:
            if time.monotonic() > until:
                raise RuntimeError("the worker's process did not change its state")
            await asyncio.sleep(0.01)


async def disturb(
    slots: Sequence[Slot], kinds: Sequence[str], every: float, rng: random.Random, done: list[str]
) -> None:
    """A fault every so many seconds, each at a worker that is well, until it is cancelled."""
    for i in range(1 << 30):
        await asyncio.sleep(every)
        slot, kind = rng.choice(slots), kinds[i % len(kinds)]
        await slot.happens(kind, rng)
        done.append(kind)
        await slot.serving()


@contextlib.asynccontextmanager
async def fleet(count: int, decode_ms: float) -> AsyncIterator[tuple[list[Slot], "rpc.InferenceAsyncStub"]]:
    """Workers and a router that knows them all."""
    slots = [Slot(decode_ms) for _ in range(count)]
    try:
        await asyncio.gather(*(slot.serving() for slot in slots))
        members = [processes.Running(slot.process, slot.port, 0.0) for slot in slots]
        with processes.router(members) as router:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{router.port}") as channel:
                stub: rpc.InferenceAsyncStub = rpc.InferenceStub(channel)
                while True:
                    first = some_request(random.Random(1))
                    await ask(stub, first)
                    if not first.error:
                        break
                    await asyncio.sleep(0.1)
                await asyncio.sleep(2)  # the reports of all workers are there
                yield slots, stub
    finally:
        for slot in slots:
            slot.end()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a run."""

    histories: list[History]
    faults: list[str]
    seconds: float

    @property
    def failures(self) -> list[str]:
        return [problem for history in self.histories for problem in wrongs(history)]

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
    async with fleet(workers, decode_ms) as (slots, stub):
        began = time.monotonic()
        nemesis = asyncio.create_task(disturb(slots, kinds, every, random.Random(seed + 1), faults))
        due = began
        while len(histories) < requests or len(faults) < least_faults:
            due += rng.expovariate(rate)
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            histories.append(some_request(rng))
            tasks.append(asyncio.create_task(ask(stub, histories[-1])))
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
    parser.add_argument("--faults", choices=["kill", "stop", "drain", "all"], default="kill")
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--rate", type=float, default=15)
    parser.add_argument("--every", type=float, default=5)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--decode-ms", type=float, default=20)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    kinds = ["kill", "stop", "drain"] if options.faults == "all" else [options.faults]
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
    print(f"failed {failed}, wrong {len(failures) - failed}; went on at another worker: {len(gaps)} times")
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
