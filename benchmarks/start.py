"""What a worker on a CPU takes to start and to be there, and how much of a step is Python.

    python benchmarks/start.py [--rounds 5] [--threads 2]
    python benchmarks/beside.py OTHER_CHECKOUT -- start.py

SmolLM2-135M-Instruct Q4_1, whose file lies in the page cache. Ready is when the worker's gRPC health says so. The KV
cache has 256 MiB, which the worker takes at its start (`engine.kvCacheMemory`); `beside` is what is resident less the
weights and that. A step's Python is that of scheduler and runner without the calls of native kernels: most of it is
waiting for memory that the kernels have driven out of the caches, so it is measured between real steps.
"""

import argparse
import asyncio
import json
import os
import random
import statistics
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import processes
import smoke
from rich.console import Console
from rich.table import Table

from argosy_api.blocks import root_id
from argosy_api.model_uri import ModelUri
from argosy_api.params import SamplingParams
from argosy_api.resource import EngineSpec

CACHE = 256 << 20
STEPS, FIRST = 200, 20


def start(threads: int) -> dict[str, float]:
    """Of one worker, from its start to its end."""
    engine = EngineSpec(threads=threads, kv_cache_memory="256Mi")
    with processes.worker(smoke.MODEL, engine=engine) as worker:
        found = {"ready (s)": worker.ready_after_s, "ready (s of processors)": worker.cpu_seconds}
        with urllib.request.urlopen(f"http://127.0.0.1:{worker.metrics_port}/state", timeout=10) as answer:
            weights = json.loads(answer.read())["model"]["weightsBytes"]

        def beside() -> float:
            return (worker.resident_bytes - weights - CACHE) / 1e6

        found["resident (MB)"] = worker.resident_bytes / 1e6
        found["beside weights and cache (MB)"] = beside()

        async def load() -> None:
            await smoke.many_streams(smoke.argosy(worker.port), random.Random(1))

        asyncio.run(load())
        found["the same after 16 streams (MB)"] = beside()
    return found


class Timed:
    """The library of the kernels, with the time that is spent in it."""

    def __init__(self, library: Any) -> None:
        self.library, self.seconds = library, 0.0

    def __getattr__(self, name: str) -> Callable[..., Any]:
        function = getattr(self.library, name)

        def call(*arguments: Any) -> Any:
            begun = time.perf_counter()
            try:
                return function(*arguments)
            finally:
                self.seconds += time.perf_counter() - begun

        return call


def python_of_a_step(streams: int, threads: int) -> float:
    """Median of decode steps, ms."""
    from argosy_worker.compute.native.crew import Crew
    from argosy_worker.core.blocks import BlockPool
    from argosy_worker.core.request import Request
    from argosy_worker.core.scheduler import Scheduler, SchedulerConfig
    from argosy_worker.fetch import uri as sources
    from argosy_worker.models import load_model

    made: list[Crew] = []
    begin = Crew.__init__
    Crew.__init__ = lambda crew, *args, **more: (begin(crew, *args, **more), made.append(crew))[0]  # type: ignore[method-assign,assignment]
    path = sources.resolve(ModelUri.parse(smoke.MODEL), cache_dir=Path("unused"), progress=lambda *_: None)
    runner = load_model(path, device="cpu", threads=threads).make_runner(1024, 16)
    (crew,) = made
    timed = Timed(crew._library)  # noqa: SLF001
    crew._library = timed  # type: ignore[assignment]  # noqa: SLF001
    scheduler, rng = Scheduler(SchedulerConfig(), BlockPool(1024)), random.Random(1)
    params = SamplingParams(max_tokens=2 * STEPS, temperature=0, ignore_eos=True)
    for i in range(streams):
        scheduler.add(
            Request(
                request_id=f"r{i}", prompt=smoke.prompt(smoke.PROMPT, rng), params=params, root=root_id("m"),
                block_size=16, arrival=0.0, max_model_len=2048,
            )
        )  # fmt: skip
    found: list[float] = []
    for _ in range(FIRST + STEPS):
        timed.seconds, begun = 0.0, time.perf_counter()
        step = scheduler.schedule(0.0)
        scheduler.update(step, runner.launch(step.batch).result())
        found.append(time.perf_counter() - begun - timed.seconds)
    return 1e3 * statistics.median(found[FIRST:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    start(options.threads)  # the file, and the libraries', into the page cache
    rounds = [start(options.threads) for _ in range(options.rounds)]
    table = Table("figure", "median", "least - most")
    for name in rounds[0]:
        values = [found[name] for found in rounds]
        table.add_row(name, f"{statistics.median(values):.2f}", f"{min(values):.2f} - {max(values):.2f}")
    for streams in (1, 16):
        table.add_row(f"Python of a step of {streams} (ms)", f"{python_of_a_step(streams, options.threads):.3f}", "")
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
