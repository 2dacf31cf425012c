"""Grids, plain rounding, searched scales, GPTQ, and the bytes of blocks."""

import gguf
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from argosy_worker.compute.quant.formats import dequantize
from argosy_worker.quantize import blocks
from argosy_worker.quantize.gptq import round_plainly, search, solve
from argosy_worker.quantize.grids import decode, encode, integers, plain
from argosy_worker.quantize.hf_out import pack_int4
from argosy_worker.quantize.targets import GGUF

GRIDS = [target for target in GGUF.values() if target.grid is not None]


SMALL = [target for target in GRIDS if not target.grid.outer]
"""With blocks of 32."""


def weights(seed, rows=24, cols=96):
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.randn(rows, cols, generator=generator) * torch.rand(rows, 1, generator=generator)
    matrix[0] = 0
    matrix[1, :32] = 3.5
    return matrix


def inputs(seed, cols=96, count=600):
    """Correlated, some of them much larger than the others."""
    generator = torch.Generator().manual_seed(seed)
    mixed = torch.randn(count, cols, generator=generator) @ torch.randn(cols, cols, generator=generator)
    return mixed * torch.rand(cols, generator=generator).square() * 0.3


@pytest.mark.parametrize("target", SMALL, ids=lambda t: t.name)
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_blocks_mean_what_they_say(target, seed):
    """The gguf package, and our loader, read the very numbers that were chosen; whole matrices and a permutation alike."""
    for coded in (
        round_plainly(weights(seed), target.grid, 32),
        search(weights(seed), torch.rand(96), target.grid, 32),
    ):
        packed = blocks.pack(target.format, coded)
        kind = gguf.GGMLQuantizationType[target.format]
        assert np.array_equal(gguf.quants.dequantize(packed.raw.numpy(), kind), coded.dequantize().numpy())
        assert torch.equal(dequantize(target.format, packed.raw, 96), coded.dequantize())


@pytest.mark.parametrize("target", [t for t in GRIDS if t.grid.outer], ids=lambda t: t.name)
@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 10**6), shift=st.sampled_from([0.0, 2.0, -2.0]))
def test_k_quants_mean_what_they_say(target, seed, shift):
    """The same of blocks of 256, also where all weights of a group lie on one side of zero, and are all zero."""
    matrix = weights(seed, rows=6, cols=512)
    matrix[2:4] += shift
    matrix[4, :300] = 0
    importance = torch.rand(512, generator=torch.Generator().manual_seed(seed))
    start = search(matrix, importance, target.grid, target.group)
    for coded in (
        round_plainly(matrix, target.grid, target.group), start, solve(matrix, torch.diag(importance), start)
    ):  # fmt: skip
        packed = blocks.pack(target.format, coded)
        kind = gguf.GGMLQuantizationType[target.format]
        assert np.array_equal(gguf.quants.dequantize(packed.raw.numpy(), kind), coded.dequantize().numpy())
        assert torch.equal(dequantize(target.format, packed.raw, 512), coded.dequantize())
        assert (coded.dequantize()[0] == 0).all()
        near = {"q4_k": 0.16, "q5_k": 0.08, "q6_k": 0.05}[target.name]
        assert (coded.dequantize() - matrix).norm() <= near * matrix.norm()


@pytest.mark.parametrize("name", ["q8_0", "q5_1", "q5_0", "q4_1", "q4_0"])
def test_plain_rounding_is_that_of_llama_cpp(name):
    """Byte by byte what the gguf package writes, which is what ggml's reference writes."""
    matrix = weights(7, rows=64, cols=256)
    target = GGUF[name]
    ours = blocks.pack(target.format, round_plainly(matrix, target.grid, 32)).raw.numpy()
    theirs = gguf.quants.quantize(matrix.numpy(), gguf.GGMLQuantizationType[target.format])
    assert np.array_equal(ours, theirs)


@pytest.mark.parametrize("target", [t for t in GRIDS if len(t.methods) > 1], ids=lambda t: t.name)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_each_method_beats_the_simpler_one(target, seed):
    """Mean squared change of a layer's output on its inputs: gptq < search < plain."""
    cols = 256 if target.grid.outer else 96
    matrix, x = weights(seed, cols=cols), inputs(seed, cols=cols)
    hessian = x.T @ x

    def change(coded):
        return (x @ (coded.dequantize() - matrix).T).square().mean().item()

    plain = change(round_plainly(matrix, target.grid, target.group))
    searched = change(search(matrix, hessian.diagonal(), target.grid, target.group))
    solved = change(solve(matrix, hessian, search(matrix, hessian.diagonal(), target.grid, target.group)))
    assert solved < searched < plain


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), offset=st.booleans(), signed=st.booleans())
def test_a_searched_scale_is_never_worse(seed, offset, signed):
    """Weighted squared error of each row."""
    grid = integers(0, 15, offset=True) if offset else integers(-8, 7, signed=signed)
    matrix = weights(seed, cols=32)
    weight = torch.rand(32, generator=torch.Generator().manual_seed(seed)) ** 4
    scale, low = plain(matrix, grid)
    scale, low = grid.stored(scale), None if low is None else grid.stored(low)

    def error(values):
        return ((values - matrix).square() * weight).sum(1)

    rounded = decode(encode(matrix, scale, low, grid), scale, low, grid)
    searched = search(matrix, weight, grid, 32).dequantize()
    assert (error(searched) <= error(rounded) * (1 + 1e-6) + 1e-12).all()


def test_whole_rows_share_a_scale():
    x = inputs(3)
    coded = solve(weights(3), x.T @ x, round_plainly(weights(3), integers(-128, 127, signed=False), 0))
    assert coded.scale.shape == (24, 1)
    assert (x @ (coded.dequantize() - weights(3)).T).norm() < 0.02 * (x @ weights(3).T).norm()


def test_inputs_that_are_always_zero():
    """Nothing is known of them: their weights are rounded, and stay finite."""
    x = inputs(4)
    x[:, 10:20] = 0
    matrix = weights(4)
    found = solve(matrix, x.T @ x, round_plainly(matrix, integers(-8, 7), 32)).dequantize()
    assert found.isfinite().all()
    assert (found - matrix)[:, 10:20].abs().max() <= matrix.abs().max() / 7


def test_int4_codes_in_words():
    codes = torch.arange(16, dtype=torch.uint8).view(1, 16)
    packed = pack_int4(codes)
    assert packed.dtype == torch.int32
    assert [int(word) & 0xFFFFFFFF for word in packed[0]] == [0x76543210, 0xFEDCBA98]
