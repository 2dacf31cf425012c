"""What a step costs the scheduler and the load report beside the model: milliseconds, by the number that waits.

    .venv/bin/python benchmarks/scheduler.py [TOKENS]

No model: the runner answers at once. TOKENS is the length of each prompt (8,000); 8 requests generate, and 256 tokens
of prompts are scheduled in each step.
"""

import statistics
import sys
import time

from argosy_api.blocks import root_id
from argosy_api.params import SamplingParams
from argosy_worker.core.batch import StepOutput
from argosy_worker.core.blocks import BlockPool
from argosy_worker.core.request import Request
from argosy_worker.core.scheduler import Scheduler, SchedulerConfig
from argosy_worker.engine.report import view_of

BLOCK = 16
STEPS = 200


def request(i: int, tokens: int, generate: int) -> Request:
    return Request(
        request_id=f"r{i}",
        prompt=[i % 50_000, *range(tokens - 1)],
        params=SamplingParams(temperature=0, max_tokens=generate),
        root=root_id("bench"),
        block_size=BLOCK,
        arrival=i / 1000,
        max_model_len=1 << 20,
    )


def measure(waiting: int, tokens: int) -> list[float]:
    scheduler = Scheduler(
        SchedulerConfig(max_batch_tokens=264, max_running=64, max_waiting=100_000), BlockPool(64 * 1024)
    )
    for i in range(8):
        scheduler.add(request(i, 16, 10 * STEPS))
    while scheduler.line:
        step(scheduler, 0.0)
    for i in range(8, 8 + waiting):
        scheduler.add(request(i, tokens, 16))
    return [step(scheduler, i / 50) for i in range(STEPS)]


def step(scheduler: Scheduler, now: float) -> float:
    began = time.perf_counter()
    made = scheduler.schedule(now)
    outputs = [StepOutput([7] if piece.sample_rows else []) for piece in made.batch.slices]
    scheduler.update(made, outputs)
    view_of(scheduler, accepted=0, prefill_rate=1000.0)
    return 1000 * (time.perf_counter() - began)


def main() -> None:
    tokens = int(sys.argv[1]) if len(sys.argv) > 1 else 8000
    print(f"prompts of {tokens} tokens; ms per step: waiting, median, p99")
    for waiting in (10, 100, 1000, 10_000):
        times = measure(waiting, tokens if waiting < 10_000 else min(tokens, 1000))
        print(f"{waiting:7d} {statistics.median(times):8.3f} {statistics.quantiles(times, n=100)[98]:8.3f}")


if __name__ == "__main__":
    main()
