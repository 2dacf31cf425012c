"""Weights of floats in 8 bits on GPUs: read as they are held, or multiplied by activations in 8 bits."""

from dataclasses import replace

import pytest
import torch
from kernels_here import DEVICE

from argosy_worker.compute.config import Experts
from argosy_worker.compute.experts import ExpertsSpec, GroupedTriton
from argosy_worker.compute.quant.float8_cuda import Float8Cuda
from argosy_worker.compute.quant.formats import from_plain
from argosy_worker.compute.quant.linear import LinearSpec
from argosy_worker.compute.quant.packer import KERNELS
from argosy_worker.compute.quant.precision import resolve
from argosy_worker.compute.quant.rounding import float8
from argosy_worker.compute.quant.sizes import linear_bytes
from argosy_worker.compute.triton.linear import Float8, by_path, floats, pack_float8
from argosy_worker.compute.triton.machine import Gpu
from argosy_worker.compute.triton.paths import Path, float8_product, tile_for
from argosy_worker.compute.triton.rows import Code, code_rows

A100, L4 = (Gpu(name="one", capability=found, multiprocessors=4) for found in ((8, 0), (8, 9)))


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def spec(**change):
    asked = LinearSpec(
        role="qkv", formats=("F32",), in_features=128, out_features=48, weights="fp8", group=0, compute="bf16",
        device="cuda", isa=frozenset(),
    )  # fmt: skip
    return replace(asked, **change)


def test_every_code_is_read_as_torch_reads_it():
    """In the product with few rows, and as floats."""
    codes = torch.arange(256, dtype=torch.uint8)
    codes[codes % 128 == 127] = 0  # NaN, which rounding does not give
    weight = codes.view(torch.float8_e4m3fn).view(16, 16)
    held = pack_float8(weight.to(DEVICE), torch.full((16, 1), 0.5, device=DEVICE), None)
    eye = torch.eye(16).bfloat16().to(DEVICE)
    expected = weight.float() * 0.5
    assert torch.equal(floats(held, torch.bfloat16).cpu().float(), expected)
    found = by_path(eye, held, Path(tile_for(16, 8, 0)), torch.float32).cpu()
    assert torch.equal(found.t(), expected)


@pytest.mark.parametrize(("gpu", "coded"), [(A100, False), (L4, True)])
def test_many_rows_are_multiplied_as_codes_where_the_gpu_can(gpu, coded):
    matrix = from_plain(numbers(48, 128))
    linear = Float8Cuda(lambda: gpu).pack(spec(), [matrix], torch.ones(48), DEVICE)
    assert isinstance(linear, Float8)
    codes, scale = float8(matrix)
    meant = codes.float() * scale
    x = numbers(66, 128, seed=1).bfloat16()
    assert linear.takes_codes(66) is coded
    assert not linear.takes_codes(64)
    few = linear(x[:2].to(DEVICE)).cpu()
    assert torch.allclose(few.float(), x[:2].float() @ meant.t() + 1, atol=0.1, rtol=0.01)
    if coded:
        rows = code_rows(x.to(DEVICE), Code.E4M3)
        x = (rows.codes.float() * rows.scales[:, None]).cpu()
        found = linear.of_codes(rows).cpu()
        assert found.dtype == torch.bfloat16
        assert torch.allclose(found.float(), x @ meant.t() + 1, atol=0.1, rtol=0.01)
        assert torch.equal(linear(numbers(66, 128, seed=1).bfloat16().to(DEVICE)).cpu(), found)


def test_logits_are_fp32_and_their_rows_keep_16_bits():
    head = Float8Cuda(lambda: L4).pack(spec(role="head"), [from_plain(numbers(48, 128))], None, DEVICE)
    assert not isinstance(head, Float8)
    assert head(numbers(1, 128).bfloat16().to(DEVICE)).dtype == torch.float32


@pytest.mark.parametrize(
    ("rows", "outputs", "inputs", "capability", "coded"),
    [
        (65, 4096, 4096, (9, 0), True),
        (64, 4096, 4096, (9, 0), False),
        (8192, 4096, 4096, (8, 9), True),
        (8192, 4096, 4096, (8, 6), False),
        (8192, 4104, 4096, (9, 0), False),
        (8192, 4096, 4104, (9, 0), False),
    ],
)
def test_the_choice_is_by_rows_shape_and_gpu(rows, outputs, inputs, capability, coded):
    assert float8_product(rows=rows, outputs=outputs, inputs=inputs, capability=capability) is coded


def test_who_computes_fp8_is_said_with_reasons():
    assert "float8-cuda" in [kernel.name for kernel in KERNELS]
    assert Float8Cuda(lambda: L4).can_run(spec()) == (True, "e4m3; many rows in e4m3 by torch, few in bf16")
    assert "from 8.9 on, the GPU has 8.0" in Float8Cuda(lambda: A100).can_run(spec()).reason
    for kernel, change, reason in (
        (Float8Cuda(lambda: L4), {"device": "cpu"}, "asked for weights fp8 computed as bf16 on cpu"),
        (Float8Cuda(lambda: L4), {"in_features": 72}, "72 inputs are no multiple of 16"),
        (Float8Cuda(lambda: "torch finds no CUDA device"), {}, "torch finds no CUDA device"),
    ):
        verdict = kernel.can_run(spec(**change))
        assert not verdict.ok
        assert reason in verdict.reason
    found = resolve("fp8", None, "auto", "cuda", integers=False)
    assert (found.weights, found.compute) == ("fp8", "bf16")
    assert linear_bytes(rows=48, cols=128, weights="fp8", group=0, compute="bf16") == 48 * 128 + 4 * 48


def test_experts_of_fp8_are_computed_one_by_one():
    asked = ExpertsSpec(
        experts=Experts(4, 2), activation="silu", gate_up=spec(role="gate_up"), down=spec(role="down")
    )  # fmt: skip
    verdict = GroupedTriton(lambda: L4).can_run(asked)
    assert not verdict.ok
    assert "asked for weights fp8" in verdict.reason
