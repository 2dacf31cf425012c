"""The layout of a step says for every row whose it is, where it stands and where its keys go."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from argosy_api.params import SamplingParams
from argosy_worker.core.batch import SequenceSlice
from argosy_worker.core.blocks import NULL_BLOCK
from argosy_worker.core.layout import make_layout


@st.composite
def steps(draw):
    size, most = draw(st.integers(1, 9)), draw(st.sampled_from((1, 20)))
    slices, block = [], 1
    for _ in range(draw(st.integers(1, 6))):
        start, count = draw(st.integers(0, 40)), draw(st.integers(1, most))
        blocks = -(-(start + count) // size) + draw(st.integers(0, 2))
        table = draw(st.permutations(range(block, block + blocks)))
        block += blocks
        slices.append(
            SequenceSlice(
                request_id="r",
                tokens=[0] * count,
                start=start,
                table=table,
                sample_rows=range(0),
                params=SamplingParams(),
            )
        )
    return slices, size


@given(steps())
def test_every_row_has_its_place(step):
    slices, size = step
    layout = make_layout(slices, size)
    arrays = (layout.positions, layout.cu_rows, layout.context_lens, layout.block_table, layout.slots)
    assert {array.dtype for array in arrays} == {np.dtype(np.int32)}
    row = 0
    for i, s in enumerate(slices):
        assert layout.cu_rows[i] == row
        assert layout.context_lens[i] == s.start + len(s.tokens)
        used = -(-(s.start + len(s.tokens)) // size)
        assert layout.block_table[i, :used].tolist() == list(s.table[:used])
        assert (layout.block_table[i, used:] == NULL_BLOCK).all()
        for position in range(s.start, s.start + len(s.tokens)):
            assert layout.positions[row] == position
            assert layout.slots[row] == s.table[position // size] * size + position % size
            row += 1
    assert layout.cu_rows[-1] == row == len(layout.positions) == len(layout.slots)
