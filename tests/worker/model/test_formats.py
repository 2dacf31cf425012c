"""Dequantization equals the reference implementation of the gguf package, bit for bit."""

import gguf
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from argosy_worker.compute.quant.formats import from_bytes, from_plain
from argosy_worker.compute.quant.layout import BLOCKS

HALVES = {
    "Q2_K": (80, 82),
    "Q3_K": (108,),
    "Q4_1": (0, 2),
    "Q5_1": (0, 2),
    "Q4_K": (0, 2),
    "Q5_K": (0, 2),
    "Q6_K": (208,),
    "MXFP4": (),
}
GGUF = [name for name in BLOCKS if name in gguf.GGMLQuantizationType.__members__]


@pytest.mark.parametrize("name", GGUF)
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
    rows = torch.tensor([5, 0, 5])
    assert same_bits(matrix.dequantize(), expected)
    assert same_bits(matrix.select(rows), expected[rows])
    assert same_bits(matrix.permuted(torch.arange(5, -1, -1)).dequantize(), expected[::-1])


def same_bits(found, expected):
    """Also of zeros' signs; of numbers that are none only that they are none."""
    found, expected = found.numpy(), np.ascontiguousarray(expected)
    alike = (found.view(np.uint32) == expected.view(np.uint32)) | (np.isnan(found) & np.isnan(expected))
    return bool(alike.all())


@pytest.mark.parametrize("name", GGUF)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_any_bytes_give_the_bits_of_the_gguf_package(name, data):
    """Scales that are zero, tiny, huge, infinite or no number, too."""
    block, width = BLOCKS[name]
    count = max(1, 256 // block)
    raw = (
        np.frombuffer(data.draw(st.binary(min_size=count * width, max_size=count * width)), np.uint8)
        .reshape(1, -1)
        .copy()
    )
    for at in HALVES.get(name, (0,)) if block > 1 else ():
        special = data.draw(
            st.sampled_from((None, 0x0000, 0x8000, 0x0001, 0x83FF, 0x7BFF, 0xFBFF, 0x7C00, 0xFC00, 0x7E01))
        )
        if special is not None:
            raw.reshape(count, width)[:, at : at + 2] = [special & 255, special >> 8]
    with np.errstate(all="ignore"):
        expected = gguf.quants.dequantize(raw, gguf.GGMLQuantizationType[name])
    assert same_bits(
        from_bytes(name, torch.from_numpy(raw.ravel()), 1, count * block).dequantize(), expected.reshape(1, -1)
    )


def test_every_exponent_of_mxfp4():
    raw = np.tile(np.arange(17, dtype=np.uint8), (256, 1))
    raw[:, 0] = np.arange(256)
    expected = gguf.quants.dequantize(raw, gguf.GGMLQuantizationType.MXFP4)
    assert same_bits(from_bytes("MXFP4", torch.from_numpy(raw.ravel()), 256, 32).dequantize(), expected)


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2]
)
def test_plain_tensors_keep_their_values(dtype):
    x = torch.randn(4, 6).to(dtype)
    assert torch.equal(from_plain(x).dequantize(), x.float())


def test_wrong_sizes_are_refused():
    with pytest.raises(ValueError, match="no Q8_0 matrix"):
        from_bytes("Q8_0", torch.zeros(33, dtype=torch.uint8), 1, 32)
    with pytest.raises(ValueError, match="no Q8_0 matrix"):
        from_bytes("Q8_0", torch.zeros(34, dtype=torch.uint8), 1, 33)
