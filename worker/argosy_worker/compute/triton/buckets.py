"""Steps that are alike are computed by one recorded graph: which steps these are, and what fills them up. Pure.

A graph has fixed launches on fixed memory. What differs from step to step is in arrays: positions, lengths, tables. So
a step of sequences with equally many tokens each, few of them, is filled up to a `Bucket` with sequences in the null
block, whose keys nobody reads. Keys are bounded by the bucket, too, as they decide into how many ranges they are cut.
"""

from dataclasses import dataclass

import numpy as np

from argosy_worker.core.blocks import NULL_BLOCK
from argosy_worker.core.layout import Ints, StepLayout

MOST_SEQUENCES = 256
MOST_TOKENS = 8
"""Of a sequence: one, or one and a draft."""
_LEAST_KEYS = 1024
_OF_ONE = 2048
"""Keys that drafts of one sequence are expected to have at most."""


@dataclass(frozen=True, slots=True)
class Bucket:
    """Steps that one graph computes."""

    sequences: int
    tokens: int
    """Of each sequence in the step."""
    keys: int
    """That a sequence has at most."""

    @property
    def rows(self) -> int:
        """Of the step."""
        return self.sequences * self.tokens


def bucket_of(layout: StepLayout, longest: int) -> Bucket | None:
    """The least one that a step fits into; None where it fits into none. `longest`: the model's context."""
    counts = np.diff(layout.cu_rows)
    sequences, tokens = len(counts), int(counts[0])
    if sequences > MOST_SEQUENCES or tokens > MOST_TOKENS or bool((counts != tokens).any()):
        return None
    keys = max(_LEAST_KEYS, 1 << (int(layout.context_lens.max()) - 1).bit_length())
    return Bucket(_up(sequences), tokens, max(min(keys, longest), int(layout.context_lens.max())))


def likely(longest: int, room: int, most: int) -> list[Bucket]:
    """Those worth recording before they are met, the smallest first: single tokens, and drafts of one sequence.

    Args:
        longest: the model's context.
        room: keys that the cache holds.
        most: buckets that are wanted.

    """
    keys = {min(_LEAST_KEYS << i, longest) for i in range(longest.bit_length())}
    sizes = {_up(count) for count in range(1, MOST_SEQUENCES + 1)}
    found = [Bucket(n, 1, k) for n in sizes for k in keys if n == 1 or n * k <= room]
    found += [Bucket(1, tokens, k) for tokens in range(2, MOST_TOKENS + 1) for k in keys if tokens <= k <= _OF_ONE]
    return sorted(found, key=lambda one: (one.rows * one.keys, one.rows))[:most]


def _up(sequences: int) -> int:
    """Powers of two up to 8, then a quarter more at most."""
    step = max(1, 1 << max(0, (sequences - 1).bit_length() - 3))
    return 1 << (sequences - 1).bit_length() if sequences <= 8 else -(-sequences // step) * step


def filled(layout: StepLayout, bucket: Bucket) -> StepLayout:
    """The step with as many sequences, and as wide a table, as its bucket has."""
    more, tokens, size = bucket.sequences - len(layout.context_lens), bucket.tokens, layout.block_size
    table = np.full((bucket.sequences, -(-bucket.keys // size)), NULL_BLOCK, dtype=np.int32)
    held = layout.block_table
    table[: len(held), : held.shape[1]] = held
    places = np.tile(np.arange(tokens, dtype=np.int32), more)
    return StepLayout(
        positions=_joined(layout.positions, places),
        cu_rows=np.arange(bucket.sequences + 1, dtype=np.int32) * tokens,
        context_lens=_joined(layout.context_lens, np.full(more, tokens, dtype=np.int32)),
        block_table=table,
        slots=_joined(layout.slots, NULL_BLOCK * size + places % size),
        block_size=size,
    )


def nothing(block_size: int) -> StepLayout:
    """A step of no sequences, to be `filled`."""
    none = np.zeros(0, dtype=np.int32)
    return StepLayout(
        positions=none,
        cu_rows=none,
        context_lens=none,
        block_table=none.reshape(0, 0),
        slots=none,
        block_size=block_size,
    )


def _joined(first: Ints, second: Ints) -> Ints:
    return np.concatenate((first, second)).astype(np.int32)
