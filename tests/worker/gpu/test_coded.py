"""Activations in 8 bits: their codes, wherever they are made, and products of whole numbers, to the last bit."""

from dataclasses import replace

import pytest
import torch
from kernels_here import DEVICE
from layers import layer_spec

from argosy_api.params import SamplingParams
from argosy_worker.compute.attention.cache import PagedKvCache
from argosy_worker.compute.attention.kv_types import KV_TYPES
from argosy_worker.compute.attention.triton_paged import PagedTriton
from argosy_worker.compute.fused_layer import FusedLayer
from argosy_worker.compute.layer import LayerWeights
from argosy_worker.compute.mlp import DenseMlp
from argosy_worker.compute.quant.formats import from_plain
from argosy_worker.compute.quant.groups_cuda import CodedTriton, WeightOnlyTriton
from argosy_worker.compute.quant.linear import LinearSpec, choose
from argosy_worker.compute.quant.packer import KERNELS
from argosy_worker.compute.quant.precision import resolve
from argosy_worker.compute.stack import Stack
from argosy_worker.compute.triton import paths
from argosy_worker.compute.triton.linear import Packed, by_codes
from argosy_worker.compute.triton.machine import Gpu
from argosy_worker.compute.triton.paths import LinearTile, Path, coded_path
from argosy_worker.compute.triton.rows import (
    Code,
    Codes,
    Gate,
    add_norm,
    add_norm_codes,
    code_rows,
    gated,
    gated_codes,
    norm,
    norm_codes,
)
from argosy_worker.core.batch import SequenceSlice
from argosy_worker.core.layout import make_layout

SMALL = Gpu(name="one", capability=(8, 0), multiprocessors=4)


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def meant(x, code):
    """Codes and scales of bf16 rows, by torch."""
    highest = 127 if code == Code.INT8 else 448
    scale = (x.float().abs().amax(1) / highest).clamp_min(1e-30)
    scaled = x.float() / scale[:, None]
    return (scaled.round().to(torch.int8) if code == Code.INT8 else scaled.to(torch.float8_e4m3fn)), scale


@pytest.mark.parametrize("code", list(Code))
def test_codes_are_those_of_the_rounded_rows_wherever_they_are_made(code):
    x, part = (numbers(3, 200, seed=i).bfloat16().to(DEVICE) for i in range(2))
    weight = torch.rand(200).bfloat16().to(DEVICE)
    total, made = add_norm_codes(x, part, weight, 1e-6, 0.5, code)
    plain_total, plain = add_norm(x, part, weight, 1e-6, 0.5)
    assert torch.equal(total, plain_total)
    for found, rows in (
        (made, plain),
        (norm_codes(x, weight, 1e-6, code), norm(x, weight, 1e-6)),
        (gated_codes(x, Gate.SILU, code), gated(x, Gate.SILU)),
        (gated_codes(x, Gate.CLAMP, code, alpha=1.7, limit=1.0), gated(x, Gate.CLAMP, alpha=1.7, limit=1.0)),
        (code_rows(x, code), x),
        (code_rows(x[:, 3:77], code), x[:, 3:77]),
    ):
        codes, scales = meant(rows.cpu(), code)
        assert found.codes.dtype == codes.dtype
        assert torch.allclose(found.scales.cpu(), scales, rtol=1e-6)
        step = scales[:, None] * (1 if code == Code.INT8 else 32)
        assert ((found.codes.cpu().float() - codes.float()).abs() * scales[:, None] <= step).all()
        assert (found.codes.cpu().float() == codes.float()).float().mean() > 0.99


@pytest.mark.filterwarnings("ignore:invalid value")
def test_a_row_that_is_no_number_has_a_scale_that_is_none():
    x = torch.ones(4, 70).bfloat16()
    x[0, 5], x[1, 69], x[2] = torch.nan, torch.inf, 0
    found = code_rows(x.to(DEVICE), Code.INT8)
    assert found.scales.isfinite().tolist() == [False, False, True, True]
    assert found.codes[2].count_nonzero() == 0
    assert torch.equal(found.codes[3].cpu(), torch.full((70,), 127, dtype=torch.int8))


@pytest.mark.parametrize(("splits", "bias"), [(1, True), (3, True), (2, False)])
def test_products_of_whole_numbers_are_exact(splits, bias):
    """Rows, outputs and inputs that fill no tile."""
    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.randint(-127, 128, (n, 144), dtype=torch.int8, generator=generator) for n in (37, 41))
    ones, scale = torch.full((37,), 0.5), torch.full((1, 41), 0.25)
    added = torch.arange(41).bfloat16() if bias else None
    held = Packed(
        weight=weight.to(DEVICE), scale=scale.to(DEVICE), middle=None, bias=None if added is None else added.to(DEVICE),
        inputs=144, group=0,
    )  # fmt: skip
    way = Path(LinearTile(32, 32, 32, 4, 2), splits, coded=True)
    found = by_codes(Codes(x.to(DEVICE), ones.to(DEVICE)), held, way, torch.float32).cpu()
    expected = (x.long() @ weight.long().t()).float() * 0.125
    assert torch.equal(found, expected if added is None else expected + added.float())


def spec(**change):
    asked = LinearSpec(
        role="qkv", formats=("F32",), in_features=256, out_features=64, weights="int8", group=0, compute="int8",
        device="cuda", isa=frozenset(),
    )  # fmt: skip
    return replace(asked, **change)


def test_many_rows_get_8_bits_and_few_keep_16():
    matrix = from_plain(numbers(64, 256))
    coded = CodedTriton(lambda: SMALL).pack(spec(), [matrix], torch.ones(64), DEVICE)
    held = WeightOnlyTriton(lambda: SMALL).pack(spec(), [matrix], torch.ones(64), DEVICE)
    x = numbers(70, 256, seed=1).bfloat16()
    few, many = coded(x[:3].to(DEVICE)).cpu(), coded(x.to(DEVICE)).cpu()
    assert torch.equal(few, held(x[:3].to(DEVICE)).cpu())
    exact = x.float() @ matrix.dequantize().t() + 1
    assert many.dtype == torch.bfloat16
    assert torch.allclose(many.float(), exact, atol=0.6, rtol=0.02)
    assert (many.float() - exact).pow(2).mean() < 0.02**2 * exact.pow(2).mean()


def test_who_computes_int8_on_a_gpu_is_said_with_reasons():
    kernels = (CodedTriton(lambda: SMALL), WeightOnlyTriton(lambda: SMALL))
    assert {"coded-triton", "weights-triton"} <= {kernel.name for kernel in KERNELS}
    for change, name, reason in (
        ({}, "coded-triton", "many rows in 8 bits"),
        ({"compute": "bf16"}, "weights-triton", "asked for weights int8 computed as bf16"),
        ({"group": 32}, "weights-triton", "a scale for each output, asked for groups of 32"),
        ({"role": "head"}, "weights-triton", "logits decide between tokens"),
        ({"in_features": 1 << 17}, "weights-triton", "exceed 32 bits"),
    ):
        choice = choose(spec(**change), kernels)
        assert choice.kernel.name == name
        assert reason in choice.report
    assert CodedTriton(lambda: "torch finds no CUDA device").can_run(spec()) == (False, "torch finds no CUDA device")
    found = resolve("int8", None, "int8", "cuda", integers=False)
    assert (found.weights, found.compute) == ("int8", "int8")
    assert resolve("int8", None, "auto", "cuda", integers=False).compute == "bf16"


@pytest.mark.parametrize(("rows", "tile"), [(65, 64), (256, 64), (257, 128), (8192, 128)])
def test_a_path_of_whole_numbers_fills_the_gpu(rows, tile):
    found = coded_path(rows=rows, outputs=4096, inputs=4096, multiprocessors=132)
    assert found.coded
    assert found.tile.rows == tile
    programs = -(-rows // tile) * (4096 // found.tile.outputs)
    assert programs * found.splits >= 132
    assert found.splits == 1 or programs < 2 * 132


class Hidden:
    """A linear whose layer does not know that it takes codes."""

    def __init__(self, linear):
        self._linear = linear

    def __call__(self, x):
        return self._linear(x)


def test_a_layer_that_makes_codes_itself_gives_the_same_bits(monkeypatch):
    monkeypatch.setattr(paths, "_CODED_FROM", 1)
    asked = layer_spec(hidden=64, heads=2, kv_heads=1, head_dim=32, ffn=96)
    linears = {
        role: CodedTriton(lambda: SMALL).pack(
            spec(role=role, in_features=inputs, out_features=outputs),
            [from_plain(numbers(outputs, inputs, seed=i) * inputs**-0.5)], None, DEVICE,
        )
        for i, (role, outputs, inputs) in enumerate(
            (("qkv", 128, 64), ("o", 64, 64), ("gate_up", 192, 64), ("down", 64, 96))
        )
    }  # fmt: skip
    one = torch.ones(64).bfloat16().to(DEVICE)
    x = numbers(5, 64, seed=9).bfloat16().to(DEVICE)
    piece = SequenceSlice(
        request_id="", tokens=[0] * 5, start=0, table=[1], sample_rows=range(0), params=SamplingParams()
    )
    results = []
    for hide in (False, True):
        held = {role: Hidden(linear) if hide else linear for role, linear in linears.items()}
        cache = PagedKvCache(
            layers=1, blocks=2, block_size=16, kv_heads=1, head_dim=32, dtype=torch.bfloat16, device=DEVICE,
            kind=KV_TYPES["bf16"],
        )  # fmt: skip
        attention = PagedTriton(cache, [asked], multiprocessors=4)
        mlp = DenseMlp(held["gate_up"], held["down"], "silu")
        weights = LayerWeights(qkv=held["qkv"], o=held["o"], mlp=mlp, attn_norm=one, mlp_norm=one)
        stack = Stack([FusedLayer(asked, 0, weights)], [asked], dtype=torch.bfloat16, device=DEVICE)
        attention.prepare(make_layout([piece], 16))
        results.append(stack(x.clone(), torch.arange(5, device=DEVICE), attention, None))
    assert torch.equal(*results)
