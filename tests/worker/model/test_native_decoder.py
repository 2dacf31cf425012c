"""What the native decoder does itself around the kernels' calls."""

import numpy as np
import pytest

from argosy_worker.compute.native.decoder import NativeDecoder
from argosy_worker.compute.quant.formats import QuantTensor

SIZES = {"Q8_0": 34, "Q4_1": 20}


@pytest.mark.parametrize("kind", SIZES)
def test_embedded_rows_are_those_of_the_table(kind):
    """To the bit, in memory of their own, whatever the format."""
    rng = np.random.default_rng(3)
    blocks = rng.integers(0, 256, (50, 4, SIZES[kind]), dtype=np.uint8)
    blocks[..., :2] = rng.standard_normal((50, 4)).astype(np.float16).view(np.uint8).reshape(50, 4, 2)
    blocks[..., 2:4] = 0
    table = QuantTensor(kind, blocks.reshape(50, -1), 128)
    decoder = NativeDecoder(config=None, crew=None, embed=table, layers=(), final_norm=None, head=None)
    tokens = np.array([7, 0, 49, 7], dtype=np.int64)
    found = decoder.embedded(tokens)
    assert found.dtype == np.float32
    assert found.tobytes() == table.select(tokens).tobytes()
    found[:] = 0
    assert decoder.embedded(tokens).any()
