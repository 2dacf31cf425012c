"""`quantization.weights: int8` and `int4`, with their groups, on the native kernels."""

import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from argosy_worker.compute.native.crew import Crew
from argosy_worker.compute.native.linear import NativeLinears
from argosy_worker.compute.native.model import NativeModel
from argosy_worker.compute.quant.eight import rounded
from argosy_worker.compute.quant.formats import QuantTensor, from_bytes, from_plain
from argosy_worker.compute.quant.four import blocks_of
from argosy_worker.compute.quant.precision import (
    NATIVE,
    OWN_INT4,
    OWN_INT8,
    Precision,
    of_head,
    of_shape,
    own_form,
    resolve,
)
from argosy_worker.core.facts import EXACT
from argosy_worker.models.build import load_model

pytestmark = pytest.mark.skipif(shutil.which("c++") is None, reason="there was no compiler to build them with")


def floats(rows, cols, seed=0):
    return np.random.default_rng(seed).standard_normal((rows, cols)).astype(np.float32)


def held(parts, weights, group):
    """What a linear of these parts multiplies with: its products with unit vectors."""
    linear = NativeLinears(Crew(1)).made(parts, None, weights, group)
    return linear(np.eye(parts[0].cols, dtype=np.float32)).T


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        (("int8", None, "auto"), (OWN_INT8, 32)), (("int8", 128, "auto"), (OWN_INT8, 128)),
        (("int4", None, "auto"), (OWN_INT4, 32)), (("int4", 64, "auto"), (OWN_INT4, 64)),
        (("int8", None, "int8"), ("int8", 0)), (("int4", 64, "bf16"), ("int4", 64)), (("fp16", None, "auto"), ("fp16", 0)),
    ],
)  # fmt: skip
def test_what_the_kernels_take(asked, found):
    """An arithmetic that is asked for by name is torch's."""
    precision = resolve(*asked, "cpu", integers=True, native=True)
    assert (precision.weights, precision.group) == found
    assert resolve(*asked, "cpu", integers=True, native=False).weights not in NATIVE


def test_the_head_of_four_bits_has_eight_and_odd_shapes_are_torchs():
    four = resolve("int4", 64, "auto", "cpu", integers=True, native=True)
    assert of_head(four, "cpu", integers=True) == Precision(weights=OWN_INT8, group=32, compute="int8")
    assert of_shape(four, 64, 32, "cpu", integers=True) == four
    assert of_shape(four, 48, 32, "cpu", integers=True).weights == "int8"


@pytest.mark.parametrize(("weights", "steps"), [(OWN_INT8, 127), (OWN_INT4, 7.5)])
@settings(max_examples=20, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 9), st.sampled_from([32, 64, 128, 256])), seed=st.integers(0, 99),
    shift=st.floats(-3, 3, width=32),
)  # fmt: skip
def test_rounded_weights_are_off_by_half_a_step_at_most(weights, steps, shape, seed, shift):
    blocks, group = shape
    values = floats(16, 32 * blocks, seed) + np.float32(shift)
    found = held([from_plain(values)], weights, group)
    for begin in range(0, values.shape[1], group):
        part, near = values[:, begin : begin + group], found[:, begin : begin + group]
        span = np.abs(part).max(1) if weights == OWN_INT8 else (part.max(1) - part.min(1)) / 2
        # and what fp16 takes from the scale and the minimum
        allowed = span / steps / 2 + 2**-9 * np.abs(part).max(1)
        assert (np.abs(part - near).max(1) <= allowed).all()


def test_a_group_shares_its_scale():
    values = floats(16, 32 * 5)
    scales = rounded(from_plain(values), 64).raw.reshape(16, 5, 34)[..., :2].copy().view(np.float16)[..., 0]
    assert (scales[:, 0] == scales[:, 1]).all()
    assert (scales[:, 2] == scales[:, 3]).all()
    assert (scales[:, 4] != scales[:, 3]).any()
    heads = blocks_of(from_plain(values), 16, 64).reshape(16, 5, 20)[..., :4]
    assert (heads[:, 0] == heads[:, 1]).all()
    assert (heads[:, 4] != heads[:, 3]).any()


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q4_K", "INT4"])
def test_numbers_of_four_bits_are_kept(kind):
    rng = np.random.default_rng(3)
    if kind == "INT4":
        scale, zero = rng.random((16, 4), dtype=np.float32), rng.integers(0, 16, (16, 4)).astype(np.float32)
        matrix = QuantTensor("INT4", rng.integers(0, 16, (16, 256), dtype=np.uint8), 256, scale, zero)
    else:
        size = {"Q4_0": 18 * 8, "Q4_1": 20 * 8, "Q4_K": 144}[kind]
        raw = rng.integers(0, 256, (16, size), dtype=np.uint8)
        blocks = raw.reshape(16, -1, size if kind == "Q4_K" else size // 8)
        halves = {"Q4_0": 1, "Q4_1": 2, "Q4_K": 2}[kind]
        blocks[..., : 2 * halves] = rng.random((*blocks.shape[:2], halves)).astype(np.float16).view(np.uint8)
        matrix = from_bytes(kind, raw.reshape(-1), 16, 256)
    assert np.allclose(held([matrix], OWN_INT4, 32), matrix.dequantize(), rtol=1e-6, atol=1e-6)
    assert own_form([kind], OWN_INT4).bits == 4


@pytest.mark.parametrize("groups", [1, 2, 8])
def test_numbers_of_eight_bits_are_kept(groups):
    """Of a checkpoint with a scale for each output, or for groups of whole blocks; where fp16 has the scales."""
    rng = np.random.default_rng(4)
    numbers = rng.integers(-127, 128, (16, 256), dtype=np.int8)
    scale = rng.integers(1, 2048, (16, groups)).astype(np.float32) / 4096
    matrix = QuantTensor("INT8", numbers.view(np.uint8), 256, scale)
    kept = rounded(matrix).raw.reshape(16, 8, 34)[..., 2:].view(np.int8).reshape(16, 256)
    assert (kept == numbers).all()
    assert np.allclose(held([matrix], OWN_INT8, 32), matrix.dequantize(), rtol=1e-6, atol=1e-6)
    numbers[3, 40] = -128  # the kernels have no such number
    other = QuantTensor("INT8", numbers.view(np.uint8), 256, scale)
    assert np.abs(rounded(other).dequantize() - other.dequantize()).max() <= 0.6 * scale.max()
    tiny = QuantTensor("INT8", numbers.view(np.uint8), 256, scale * np.float32(1e-9))
    assert np.isfinite(rounded(tiny).dequantize()).all()


def test_a_row_without_range_and_one_of_no_numbers():
    values = floats(16, 64)
    values[0], values[1], values[2, 3] = 0, 2.5, np.nan
    for weights in (OWN_INT8, OWN_INT4):
        found = held([from_plain(values)], weights, 32)
        assert (found[0] == 0).all()
        assert np.allclose(found[1], 2.5, rtol=1e-2)
        assert np.isfinite(found[3:]).all()


@pytest.mark.parametrize(("weights", "group"), [("int8", 64), ("int4", None)])
def test_models_are_native_exact_and_of_their_own(weights, group, smollm_path):
    loaded = load_model(smollm_path, weights=weights, group_size=group, threads=1)
    assert isinstance(loaded, NativeModel)
    assert loaded.facts.exactness == EXACT
    assert f"{weights.removeprefix('int')}-bit weights" in loaded.kernels["qkv"]
    assert "8-bit weights" in loaded.kernels["head"]
    assert loaded.facts.fingerprint != load_model(smollm_path, threads=1).facts.fingerprint
