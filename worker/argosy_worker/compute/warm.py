"""Steps that a worker with a GPU computes before it is ready, so that no request waits for a kernel to be compiled.

They are of all kinds that make a difference to kernels: prompts, drafts and single tokens, of one sequence and of many,
with keys that are cut and that are not, drawn and greedy. Keys and values go to the null block, which nobody sees.
"""

from collections.abc import Iterator

from argosy_api.limits import MAX_LOGPROBS
from argosy_api.params import SamplingParams
from argosy_worker.core.batch import Runner, SequenceSlice, StepBatch
from argosy_worker.core.blocks import NULL_BLOCK

_TOKENS = (1, 4, 16, 32, 200)
_LONG = 4096
_MANY = 96
"""Sequences that fill a GPU without cut keys."""
_WAYS = (SamplingParams(temperature=0), SamplingParams(), SamplingParams(temperature=0.8, top_p=0.9, top_k=40))

_HEAVY = SamplingParams(temperature=0.8, top_p=0.9, logprobs=MAX_LOGPROBS)
"""All tokens are sorted, and the log-probabilities of many are told."""


def warm(runner: Runner, *, block_size: int, longest: int, tokens: int) -> None:
    """Compute them; `longest` is the model's context, `tokens` what a step may have."""
    for batch in steps(block_size=block_size, longest=longest, tokens=tokens):
        runner.launch(batch).result()


def steps(*, block_size: int, longest: int, tokens: int) -> Iterator[StepBatch]:
    """Of all kinds, within these limits."""
    for count in _TOKENS:
        if count > min(longest, tokens):
            continue
        for start in sorted({0, min(_LONG, longest) - count}):
            for sequences in sorted({1, max(1, min(_MANY, tokens // count))}):
                yield StepBatch([_slice(count, start, block_size, _WAYS[i % len(_WAYS)]) for i in range(sequences)])


def largest(*, block_size: int, longest: int, tokens: int, sequences: int) -> Iterator[StepBatch]:
    """Those that take most memory: one full of prompts, and one of as many sequences as may run, each with a token.

    All are drawn in the way that takes most.
    """
    whole, rest = divmod(tokens, longest)
    counts = [longest] * whole + [rest] * (rest > 0)
    yield StepBatch([_slice(count, 0, block_size, _HEAVY) for count in counts])
    start = min(_LONG, longest) - 1
    yield StepBatch([_slice(1, start, block_size, _HEAVY) for _ in range(min(sequences, tokens))])


def _slice(count: int, start: int, block_size: int, params: SamplingParams) -> SequenceSlice:
    """The last of `count` tokens from position `start` on is sampled; nobody has their keys and values."""
    return SequenceSlice(
        request_id="",
        tokens=[0] * count,
        start=start,
        table=[NULL_BLOCK] * -(-(start + count) // block_size),
        sample_rows=range(count - 1, count),
        params=params,
    )
