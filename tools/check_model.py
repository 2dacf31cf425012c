"""Compare a model's answers on one device and compute mode with fp32 on the CPU, and time it.

    python tools/check_model.py MODEL [--device cuda] [--compute bf16] [--tokens 128]

Prints the kernels, the mean difference of the log-probabilities of a fixed pseudo-random prompt, and rough speeds.
"""

import argparse
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch is loaded

from argosy_api.params import SamplingParams
from argosy_worker.core.batch import Runner, SequenceSlice, StepBatch
from argosy_worker.models import LoadedModel, load_model

_BLOCK = 16


def _prompt(model: LoadedModel, count: int) -> list[int]:
    return [(i * 7919 + 13) % model.facts.vocab_size for i in range(count)]


def _slice(tokens: list[int], start: int, *, sample: bool, table: range, targets: list[int]) -> StepBatch:
    params = SamplingParams(temperature=0, prompt_logprobs=0 if targets else None)
    part = SequenceSlice(
        request_id="check",
        tokens=tokens,
        start=start,
        table=table,
        sample_rows=range(len(tokens) - 1, len(tokens)) if sample else range(0),
        params=params,
        prompt_targets=targets,
    )
    return StepBatch([part])


def _scores(model: LoadedModel, count: int) -> list[float]:
    prompt = _prompt(model, count)
    blocks = -(-count // _BLOCK)
    batch = _slice(prompt, 0, sample=False, table=range(1, blocks + 1), targets=prompt[1:])
    return [score.logprob for score in model.make_runner(blocks, _BLOCK).launch(batch).result()[0].prompt_logprobs]


def _speeds(model: LoadedModel, count: int) -> tuple[float, float]:
    """Tokens per second of one prompt, and of one stream's decoding after it."""
    prompt = _prompt(model, count)
    blocks = -(-2 * count // _BLOCK)
    table, runner = range(1, blocks + 1), model.make_runner(blocks, _BLOCK)
    prefill = _slice(prompt, 0, sample=True, table=table, targets=[])
    runner.launch(prefill).result()
    begin = time.perf_counter()
    token = _token(runner, prefill)
    middle = time.perf_counter()
    for position in range(count, 2 * count):
        token = _token(runner, _slice([token], position, sample=True, table=table, targets=[]))
    end = time.perf_counter()
    return count / (middle - begin), count / (end - middle)


def _token(runner: Runner, batch: StepBatch) -> int:
    output = runner.launch(batch).result()[0]
    if not output.tokens:
        raise RuntimeError(output.error)
    return output.tokens[0]


def main() -> None:
    """Run the comparison from the command line."""
    parser = argparse.ArgumentParser(prog="python tools/check_model.py", description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--compute", default="auto")
    parser.add_argument("--tokens", type=int, default=128)
    args = parser.parse_args()
    tested = load_model(args.model, device=args.device, compute=args.compute)
    for role, report in tested.kernels.items():
        sys.stdout.write(f"{role}: {report}\n")
    reference = load_model(args.model, device="cpu", compute="fp32")
    pairs = zip(_scores(tested, args.tokens), _scores(reference, args.tokens), strict=True)
    difference = sum(abs(a - b) for a, b in pairs) / (args.tokens - 1)
    prefill, decode = _speeds(tested, args.tokens)
    facts = tested.facts
    sys.stdout.write(
        f"{facts.compute} on {facts.device}: log-probabilities differ from fp32 on the CPU by {difference:.5f} (mean); "
        f"prefill {prefill:.0f}, decode {decode:.0f} tokens/s\n"
    )


if __name__ == "__main__":
    main()
