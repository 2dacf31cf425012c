"""Where the rows of a step lie: what any attention needs to know of it, made once a step, without torch.

numpy is allowed in this module of the core alone: a layout is a handful of arrays that go to a device as they are.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from argosy_worker.core.batch import SequenceSlice
from argosy_worker.core.blocks import NULL_BLOCK

Ints = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True, kw_only=True)
class StepLayout:
    """A step of S slices and R rows (tokens), one slice after another. All arrays are int32."""

    positions: Ints
    """[R]: position of each row in its sequence."""
    cu_rows: Ints
    """[S + 1]: slice i has the rows cu_rows[i] .. cu_rows[i + 1]."""
    context_lens: Ints
    """[S]: tokens of each sequence after the step; its rows are the last ones."""
    block_table: Ints
    """[S, most blocks]: physical blocks of each sequence, filled up with the null block; where a window has passed,
    it stands in the place of blocks."""
    slots: Ints
    """[R]: where each row's keys and values go: block x block size + place in the block."""
    block_size: int


def make_layout(slices: Sequence[SequenceSlice], block_size: int) -> StepLayout:
    """The layout of a step of at least one slice."""
    if all(len(s.tokens) == 1 for s in slices):
        return _single(slices, block_size)
    counts = np.array([len(s.tokens) for s in slices], dtype=np.int32)
    starts = np.array([s.start for s in slices], dtype=np.int32)
    cu_rows = np.zeros(len(slices) + 1, dtype=np.int32)
    np.cumsum(counts, out=cu_rows[1:])
    context_lens = starts + counts
    used = -(-context_lens // block_size)
    block_table = np.full((len(slices), int(used.max())), NULL_BLOCK, dtype=np.int32)
    for row, s, size in zip(block_table, slices, used, strict=True):
        row[:size] = s.table[:size]
    owner = np.repeat(np.arange(len(slices), dtype=np.int32), counts)
    positions = np.arange(cu_rows[-1], dtype=np.int32) - np.repeat(cu_rows[:-1] - starts, counts)
    slots = block_table[owner, positions // block_size] * block_size + positions % block_size
    return StepLayout(
        positions=positions,
        cu_rows=cu_rows,
        context_lens=context_lens,
        block_table=block_table,
        slots=slots,
        block_size=block_size,
    )


def _single(slices: Sequence[SequenceSlice], block_size: int) -> StepLayout:
    """The same where each slice has one row, as in most steps: one array is filled, and cut."""
    count = len(slices)
    places = [divmod(s.start, block_size) for s in slices]
    width = max(places)[0] + 1
    numbers = [s.start for s in slices]
    numbers += range(count + 1)
    numbers += [s.start + 1 for s in slices]
    numbers += [s.table[block] * block_size + within for s, (block, within) in zip(slices, places, strict=True)]
    for s, (block, _) in zip(slices, places, strict=True):
        numbers += s.table[: block + 1]
        numbers += [NULL_BLOCK] * (width - block - 1)
    whole = np.array(numbers, dtype=np.int32)
    ends = (count, 2 * count + 1, 3 * count + 1, 4 * count + 1)
    return StepLayout(
        positions=whole[: ends[0]],
        cu_rows=whole[ends[0] : ends[1]],
        context_lens=whole[ends[1] : ends[2]],
        slots=whole[ends[2] : ends[3]],
        block_table=whole[ends[3] :].reshape(count, width),
        block_size=block_size,
    )
