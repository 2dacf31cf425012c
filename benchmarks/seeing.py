"""What request log and metrics cost: processor time of router and worker with them, and without, in one run.

    python benchmarks/seeing.py [--rounds 20] [--requests 200] [--tokens 64]

Without: the log at WARNING, and counting, setting and observing made to do nothing, of prometheus_client and of
`argosy_api.plain_metrics`, before either process imports it; so are the calls that lead to nothing else. Nothing in
Argosy turns metrics off; the benchmark does it from outside. Streams over HTTP, 16 at a
time, of a `sim://` worker that computes nothing and takes 2 ms for a step: all that is measured is overhead, so the
share is larger than with a real model. Both stacks are up and are asked in turn: the processor time of the same work
moves by ten per cent and more with what else the machine does.
"""

import argparse
import asyncio
import contextlib
import os
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import processes
from rich.console import Console
from rich.table import Table

URI = "sim://bench?prefill_tps=10000000&decode_ms=2&kv_blocks=16384"
AT_ONCE, WARM, TOKENS = 16, 200, 64
WITHOUT = """
from argosy_api import plain_metrics
from prometheus_client import Counter, Gauge, Histogram
from prometheus_client.metrics import MetricWrapperBase

def nothing(*_, **__):
    pass

class Nothing:
    inc = dec = set = observe = staticmethod(nothing)

for kind, names in ((Counter, ["inc"]), (Gauge, ["inc", "dec", "set", "set_function"]), (Histogram, ["observe"])):
    for name in names:
        setattr(kind, name, nothing)
MetricWrapperBase.labels = lambda self, *_, **__: self
for kind in (plain_metrics.Counter, plain_metrics.Gauge, plain_metrics.Histogram):
    kind.labels = lambda *_, one=Nothing(): one
"""
ROUTER = """
from argosy_router.recent import Recent

Recent.ended = nothing
"""
WORKER = """
from argosy_worker.engine.metrics import WorkerMetrics

for name in ("finished", "whole", "speculation", "moved"):
    setattr(WorkerMetrics, name, nothing)
"""
"""What only counts; the rest also says what load reports do."""


@contextlib.contextmanager
def blind(process: str) -> Iterator[None]:
    """One that begins meanwhile sees and says nothing. `process`: ROUTER or WORKER."""
    before = dict(os.environ)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "sitecustomize.py").write_text(WITHOUT + process)
        os.environ["PYTHONPATH"] = os.pathsep.join([folder, *filter(None, [before.get("PYTHONPATH")])])
        os.environ["ARGOSY_LOG_LEVEL"] = "WARNING"
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(before)


async def ask(port: int, requests: int, tokens: int) -> None:
    """So many streams, each with a prompt of its own."""
    left = list(range(requests))

    async def connection(session: aiohttp.ClientSession) -> None:
        while left:
            body = {
                "model": "bench", "prompt": f"{left.pop()}: " + "lorem ipsum dolor sit amet " * 8,
                "max_tokens": tokens, "ignore_eos": True, "stream": True,
            }  # fmt: skip
            async with session.post(f"http://127.0.0.1:{port}/v1/completions", json=body) as answer:
                if answer.status != 200:
                    raise SystemExit(await answer.text())
                async for _ in answer.content.iter_any():
                    pass

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        await asyncio.gather(*(connection(session) for _ in range(AT_ONCE)))


Stack = tuple[processes.Running, processes.Running]
"""Router and worker."""


@contextlib.contextmanager
def stack(*, seeing: bool) -> Iterator[Stack]:
    """Both, warm."""
    with contextlib.ExitStack() as both:
        with contextlib.nullcontext() if seeing else blind(WORKER):
            worker = both.enter_context(processes.worker(URI))
        with contextlib.nullcontext() if seeing else blind(ROUTER):
            router = both.enter_context(processes.router([worker]))
        asyncio.run(ask(router.http_port, WARM, TOKENS))
        if not seeing and any(sees(process) for process in (router, worker)):
            raise SystemExit("what should count nothing counts")
        yield router, worker


def sees(process: processes.Running) -> bool:
    """Whether anything has been counted there."""
    return any(value for name, value in process.metrics().items() if name.startswith("argosy_"))


def cost(both: Stack, requests: int, tokens: int) -> list[float]:
    """Processor seconds of router and worker for 1,000 requests."""
    before = [one.cpu_seconds for one in both]
    asyncio.run(ask(both[0].http_port, requests, tokens))
    return [(one.cpu_seconds - was) * 1000 / requests for one, was in zip(both, before, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--tokens", type=int, default=TOKENS)
    options = parser.parse_args()
    pairs = []
    with stack(seeing=True) as seeing, stack(seeing=False) as unseeing:
        for number in range(options.rounds):
            order = (seeing, unseeing) if number % 2 else (unseeing, seeing)
            found = {id(both): cost(both, options.requests, options.tokens) for both in order}
            pairs.append((found[id(seeing)], found[id(unseeing)]))
    table = Table("processor seconds for 1,000 requests", "with", "without", "more, median (least to most)")
    for index, name in enumerate(("router", "worker")):
        seen, unseen = ([pair[side][index] for pair in pairs] for side in (0, 1))
        more = [a / b - 1 for a, b in zip(seen, unseen, strict=True)]
        table.add_row(
            name, f"{statistics.median(seen):.2f}", f"{statistics.median(unseen):.2f}",
            f"{statistics.median(more):+.1%} ({min(more):+.1%} to {max(more):+.1%})",
        )  # fmt: skip
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
