"""Linears with weights of 4 and 8 bits by Triton: every path, against the weights as floats."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kernels_here import DEVICE

from argosy_worker.compute.quant.formats import from_plain
from argosy_worker.compute.quant.groups_cuda import WeightOnlyTriton
from argosy_worker.compute.quant.linear import LinearSpec
from argosy_worker.compute.quant.rounding import int4, int8
from argosy_worker.compute.triton.linear import Packed, by_path, floats, pack_grid, pack_int4
from argosy_worker.compute.triton.machine import Gpu
from argosy_worker.compute.triton.paths import Path, path, tile_for

SMALL = Gpu(name="one", capability=(8, 0), multiprocessors=4)


def spec(weights, group, inputs, outputs, role="qkv"):
    return LinearSpec(
        role=role, formats=("F32",), in_features=inputs, out_features=outputs, weights=weights, group=group,
        compute="bf16", device="cuda", isa=frozenset(),
    )  # fmt: skip


def packed(bits, group, outputs, inputs, *, bias=False, seed=0):
    """Weights on the device, and as they are meant: fp32."""
    generator = torch.Generator().manual_seed(seed)
    matrix = from_plain(torch.randn(outputs, inputs, generator=generator))
    added = torch.randn(outputs, generator=generator).bfloat16() if bias else None
    if bits == 4:
        numbers, scale, middle = int4(matrix, group)
        meant = (numbers.float().view(outputs, -1, group) - 8) * scale.float()[..., None] + middle.float()[..., None]
        weight, middle = pack_int4(numbers, group), pack_grid(middle, inputs, group).to(DEVICE)
        scale = pack_grid(scale, inputs, group)
    else:
        weight, scale = int8(matrix, group)
        meant, middle = weight.float().view(outputs, -1, group or inputs) * scale[..., None], None
        scale = scale.t().contiguous()
    held = Packed(
        weight=weight.to(DEVICE), scale=scale.to(DEVICE), middle=middle, bias=None if added is None else added.to(DEVICE),
        inputs=inputs, group=group,
    )  # fmt: skip
    return held, meant.reshape(outputs, inputs), added


CASES = [(4, 32), (4, 64), (4, 128), (8, 0), (8, 32), (8, 128)]


@pytest.mark.parametrize(("bits", "group"), CASES)
@pytest.mark.parametrize(("rows", "splits", "bias"), [(1, 1, True), (3, 3, True), (17, 2, False), (40, 1, False)])
def test_the_product_is_that_of_the_weights(bits, group, rows, splits, bias):
    """Outputs that fill no tile, and inputs that fill no block of the kernel's."""
    inputs = 3 * max(group, 32) if group != 128 else 384
    held, meant, added = packed(bits, group, 70, inputs, bias=bias)
    x = torch.randn(rows, inputs, generator=torch.Generator().manual_seed(1)).bfloat16()
    found = by_path(x.to(DEVICE), held, Path(tile_for(rows, bits, group), splits), torch.float32).cpu()
    expected = x.float() @ meant.t()
    if added is not None:
        expected += added.float()
    assert torch.allclose(found, expected, atol=2e-3, rtol=2e-3)


@pytest.mark.parametrize(("bits", "group"), CASES)
def test_weights_as_floats(bits, group):
    held, meant, _ = packed(bits, group, 37, 2 * max(group, 48 if group == 0 else 32))
    assert torch.equal(floats(held, torch.bfloat16).cpu(), meant.bfloat16())


@pytest.mark.parametrize(("weights", "group"), [("int4", 32), ("int4", 128), ("int8", 0), ("int8", 64)])
def test_the_kernel_packs_what_rounding_gives(weights, group):
    """From parts of a layer to its results, whatever path is taken for the rows; logits are fp32."""
    parts = [from_plain(torch.randn(n, 256, generator=torch.Generator().manual_seed(n))) for n in (48, 16)]
    kernel = WeightOnlyTriton(lambda: SMALL)
    asked = spec(weights, group, 256, 64)
    assert kernel.can_run(asked).ok
    linear = kernel.pack(asked, parts, torch.ones(64), DEVICE)
    meant = []
    for part in parts:
        if weights == "int4":
            numbers, scale, middle = int4(part, group)
            grouped = (numbers.float().view(len(numbers), -1, group) - 8) * scale.float()[..., None]
            meant.append((grouped + middle.float()[..., None]).view(len(numbers), -1))
        else:
            numbers, scale = int8(part, group)
            meant.append((numbers.float().view(len(numbers), -1, group or 256) * scale[..., None]).view(-1, 256))
    for rows in (1, 70, 520):
        x = torch.randn(rows, 256, generator=torch.Generator().manual_seed(rows)).bfloat16()
        found = linear(x.to(DEVICE)).cpu()
        assert found.dtype == torch.bfloat16
        assert torch.allclose(found.float(), x.float() @ torch.cat(meant).t() + 1, atol=0.3, rtol=0.02)
    head = kernel.pack(spec(weights, group, 256, 64, "head"), parts, None, DEVICE)
    assert head(x[:1].to(DEVICE)).dtype == torch.float32


@given(
    st.integers(1, 5000), st.integers(1, 200_000), st.integers(1, 2000), st.sampled_from(CASES), st.integers(1, 200)
)  # fmt: skip
def test_a_path_covers_all_rows_and_inputs(rows, outputs, units, form, multiprocessors):
    bits, group = form
    inputs = units * max(group, 16)
    found = path(rows=rows, outputs=outputs, inputs=inputs, bits=bits, group=group, multiprocessors=multiprocessors)
    assert (found.tile is None) == (rows > 512)
    if found.tile is not None:
        assert found.tile.rows >= 16
        assert 1 <= found.splits <= max(1, inputs // found.tile.inputs // 4 + 1)
        assert not group or (found.tile.inputs // (2 if bits == 4 else 1)) <= group


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        (spec("int4", 32, 100, 64), "100 inputs in groups of 32: groupSize can be nothing"),
        (spec("int4", 128, 192, 64), "groupSize can be 32, 64"),
        (spec("int8", 0, 72, 64), "no multiple of 16"),
        (spec("none", 0, 64, 64), "asked for weights none computed as bf16 on cuda"),
    ],
)
def test_what_cannot_be_computed_is_refused_with_the_reason(asked, reason):
    verdict = WeightOnlyTriton(lambda: SMALL).can_run(asked)
    assert not verdict.ok
    assert reason in verdict.reason


def test_without_a_gpu_the_reason_is_its_absence():
    verdict = WeightOnlyTriton(lambda: "torch finds no CUDA device").can_run(spec("int4", 32, 64, 64))
    assert verdict == (False, "torch finds no CUDA device")
