"""Which tiles a step has, and into how many ranges keys are cut: for every step, on every GPU."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from argosy_worker.compute.triton.tiles import (
    CHUNK,
    MOST_SPLITS,
    SHORT_RANGE,
    Heads,
    Launch,
    invariant_tile,
    least_rows,
    plan,
    splits,
    tile_for,
)

SHAPES = st.builds(
    lambda kv_heads, queries, dim, width: Heads(
        heads=kv_heads * queries, kv_heads=kv_heads, head_dim=dim, width=width
    ),
    st.integers(1, 8), st.integers(1, 64), st.sampled_from((16, 32, 64, 80, 96, 128, 256)), st.sampled_from((2, 4)),
)  # fmt: skip
STEPS = st.lists(st.tuples(st.integers(1, 300), st.integers(0, 5000)), min_size=1, max_size=12)


def planned(shape, step, **options):
    counts = np.array([count for count, _ in step], dtype=np.int32)
    cu_rows = np.concatenate(([0], np.cumsum(counts))).astype(np.int32)
    lengths = np.array([count + before for count, before in step], dtype=np.int32)
    return plan(shape, cu_rows, lengths, **options)


@given(SHAPES, STEPS, st.booleans())
def test_every_token_is_in_one_tile(shape, step, invariant):
    found = planned(shape, step, invariant=invariant)
    seen = []
    for launch in found.launches:
        tokens = launch.tile.rows // shape.queries
        assert tokens >= 1
        here = slice(launch.begin, launch.begin + launch.count)
        for sequence, block in zip(found.sequence[here].tolist(), found.block[here].tolist(), strict=True):
            last = min((block + 1) * tokens, step[sequence][0])
            mine = range(block * tokens, last)
            assert 1 <= len(mine) <= launch.tokens
            assert sum(step[sequence]) <= launch.keys
            seen += [(sequence, token) for token in mine]
    assert sorted(seen) == [(i, token) for i, (count, _) in enumerate(step) for token in range(count)]


@given(SHAPES, STEPS, STEPS)
def test_an_invariant_plan_has_one_shape_for_all_steps(shape, first, second):
    tiles = [planned(shape, step, invariant=True).launches for step in (first, second)]
    assert {launch.tile for launches in tiles for launch in launches} == {invariant_tile(shape)}


@given(
    SHAPES, st.tuples(st.integers(1, 5000), st.integers(1, 100_000)), st.integers(1, 200),
    st.sampled_from((0, 1, 128, 4096)), st.booleans(),
)  # fmt: skip
def test_cuts_fill_the_gpu_and_no_more(shape, size, multiprocessors, window, invariant):
    (tiles, keys), tile = size, tile_for(shape, 1)
    launch = Launch(tile=tile, begin=0, count=tiles, tokens=tile.rows // shape.queries, keys=keys)
    found = splits(launch, shape.kv_heads, multiprocessors, window, invariant=invariant)
    programs = tiles * shape.kv_heads
    if programs >= 2 * multiprocessors:
        assert found == 1
    elif invariant:  # each cut is a program: all that a tile sees must lie in them, wherever it begins
        seen = min(keys, window + launch.tokens + tile.keys) if window else keys
        assert found * CHUNK >= seen
    else:
        assert found <= max(1, -(-keys // SHORT_RANGE))
        assert found <= MOST_SPLITS
        assert programs * (found - 1) < 2 * multiprocessors


@pytest.mark.parametrize("tokens", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("batch", [1, 8, 64, 256])
def test_long_contexts_are_cut_at_any_batch_and_number_of_draft_tokens(batch, tokens):
    """With 8 key/value heads and 132 multiprocessors: 4 sequences fill a third of the GPU, 64 more than all of it."""
    shape = Heads(heads=32, kv_heads=8, head_dim=128, width=2)
    found = planned(shape, [(tokens, 32_000)] * batch)
    [launch] = found.launches
    cuts = splits(launch, 8, 132, 0)
    assert (cuts > 1) == (launch.count * 8 < 264)


@given(SHAPES)
def test_rows_of_a_tile_suit_tensor_cores(shape):
    for tokens in (1, 2, 5, 16, 100, 5000):
        rows = tile_for(shape, tokens).rows
        assert rows >= 16
        assert rows & (rows - 1) == 0
        assert rows >= least_rows(shape.queries) >= shape.queries
