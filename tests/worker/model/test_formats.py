"""Dequantization equals the reference implementation of the gguf package, bit for bit."""

import gguf
import numpy as np
import pytest
import torch

from argosy_worker.compute.quant.formats import from_bytes, from_plain
from argosy_worker.compute.quant.layout import BLOCKS

HALVES = {"Q4_1": (0, 2), "Q5_1": (0, 2), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,)}


@pytest.mark.parametrize("name", BLOCKS)
def test_equals_gguf_package(name):
    rng = np.random.default_rng(3)
    block, width = BLOCKS[name]
    kind = gguf.GGMLQuantizationType[name]
    assert gguf.GGML_QUANT_SIZES[kind] == (block, width)
    if block == 1:
        raw = gguf.quants.quantize(rng.standard_normal((6, 512)).astype(np.float32), kind).view(np.uint8).reshape(6, -1)
    else:
        raw = rng.integers(0, 256, (6 * 512 // block, width), dtype=np.uint8)
        for at in HALVES.get(name, (0,)):  # fp16 scales of a sensible size
            raw[:, at : at + 2] = rng.standard_normal(len(raw)).astype(np.float16).view(np.uint8).reshape(-1, 2)
        raw = raw.reshape(6, -1)
    expected = gguf.quants.dequantize(raw, kind).reshape(6, 512)
    matrix = from_bytes(name, torch.from_numpy(raw.ravel().copy()), 6, 512)
    assert np.array_equal(matrix.dequantize().numpy(), expected)
    rows = torch.tensor([5, 0, 5])
    assert np.array_equal(matrix.select(rows).numpy(), expected[rows])
    assert np.array_equal(matrix.permuted(torch.arange(5, -1, -1)).dequantize().numpy(), expected[::-1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_plain_tensors_keep_their_values(dtype):
    x = torch.randn(4, 6).to(dtype)
    assert torch.equal(from_plain(x).dequantize(), x.float())


def test_wrong_sizes_are_refused():
    with pytest.raises(ValueError, match="no Q8_0 matrix"):
        from_bytes("Q8_0", torch.zeros(33, dtype=torch.uint8), 1, 32)
    with pytest.raises(ValueError, match="no Q8_0 matrix"):
        from_bytes("Q8_0", torch.zeros(34, dtype=torch.uint8), 1, 33)
