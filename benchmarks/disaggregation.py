"""Equal workers against prefill and decode workers, of the same number and speed: both in one run, simulated.

    python benchmarks/disaggregation.py [--seconds 20] [--prompts-per-second 1.5]

Streams that generate all the time, and long prompts that come meanwhile. What a stream's reader sees is the gap between
two tokens; what a long prompt's reader sees is the time to its first token.
"""

import argparse
import asyncio
import contextlib
import random
import statistics
import time
from collections.abc import Iterator, Sequence

import grpc
import processes
from rich.console import Console
from rich.table import Table

from argosy_api.v1 import worker_pb2 as pb
from argosy_api.v1 import worker_pb2_grpc as rpc
from argosy_api.worker_spec import Role

URI = "sim://bench?prefill_tps=4000&decode_ms=10&kv_blocks=8192"
STREAMS, LONG = 6, 3000
SHAPES: dict[str, Sequence[Role]] = {
    "4 equal": ("", "", "", ""),
    "2 prefill + 2 decode": ("prefill", "prefill", "decode", "decode"),
}


async def stream(stub: "rpc.InferenceAsyncStub", rng: random.Random, gaps: list[float], until: float) -> None:
    while time.perf_counter() < until:
        last = None
        async for _ in stub.Generate(_request([rng.randrange(32, 127) for _ in range(50)], 200)):
            now = time.perf_counter()
            if last is not None:
                gaps.append(now - last)
            last = now


async def long_prompt(stub: "rpc.InferenceAsyncStub", prompt: list[int], firsts: list[float]) -> None:
    begun, seen = time.perf_counter(), False
    async for _ in stub.Generate(_request(prompt, 4)):
        if not seen:
            firsts.append(time.perf_counter() - begun)
            seen = True


def _request(prompt: list[int], new: int) -> pb.InferenceRequest:
    sampling = pb.SamplingParams(max_tokens=new, temperature=0)
    return pb.InferenceRequest(model="bench", tokens=pb.TokenIds(ids=prompt), sampling=sampling)


async def run(port: int, options: argparse.Namespace) -> tuple[list[float], list[float]]:
    rng, gaps, firsts = random.Random(3), [], []
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub: rpc.InferenceAsyncStub = rpc.InferenceStub(channel)
        while True:  # until the router knows its workers and has measured them
            warm: list[float] = []
            with contextlib.suppress(grpc.aio.AioRpcError):
                await asyncio.gather(
                    *(long_prompt(stub, [rng.randrange(32, 127) for _ in range(LONG)], warm) for _ in range(4))
                )
            if len(warm) == 4:
                break
            await asyncio.sleep(0.2)
        until = time.perf_counter() + options.seconds
        tasks = [asyncio.create_task(stream(stub, rng, gaps, until)) for _ in range(STREAMS)]
        while time.perf_counter() < until:
            await asyncio.sleep(rng.expovariate(options.prompts_per_second))
            tasks.append(asyncio.create_task(long_prompt(stub, [rng.randrange(32, 127) for _ in range(LONG)], firsts)))
        await asyncio.gather(*tasks)
    return gaps, firsts


@contextlib.contextmanager
def fleet(roles: Sequence[Role]) -> Iterator[int]:
    with contextlib.ExitStack() as stack:
        workers = [stack.enter_context(processes.worker(URI, role=role)) for role in roles]
        yield stack.enter_context(processes.router(workers)).port


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--prompts-per-second", type=float, default=1.5)
    options = parser.parse_args()
    table = Table(title=f"{STREAMS} streams, prompts of {LONG} tokens, simulated workers; milliseconds")
    for head in ("workers", "gap median", "gap p90", "gap p99", "first token of a long prompt, median", "p90"):
        table.add_column(head, justify="right")
    for name, roles in SHAPES.items():
        with fleet(roles) as port:
            gaps, firsts = asyncio.run(run(port, options))
        of_gaps, of_firsts = (statistics.quantiles(values, n=100) for values in (gaps, firsts))
        cells = (of_gaps[49], of_gaps[89], of_gaps[98], of_firsts[49], of_firsts[89])
        table.add_row(name, *(f"{1e3 * cell:.0f}" for cell in cells))
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
