"""The check at start finds kernels whose rows depend on their company; another one is taken, or the model says so."""

import pytest
import torch

from argosy_worker.compute.attention import rows
from argosy_worker.compute.exactness import Check
from argosy_worker.compute.quant.formats import from_plain
from argosy_worker.compute.quant.fp32_cpu import Fp32OneDnn, Fp32Tiles
from argosy_worker.compute.quant.isa import limited
from argosy_worker.compute.quant.linear import LinearSpec, Verdict
from argosy_worker.compute.quant.packer import Packer
from argosy_worker.core.facts import EXACT

SPEC = LinearSpec(
    role="down", formats=("F32",), in_features=64, out_features=48, weights="none", group=0, compute="fp32",
    device="cpu", isa=frozenset(),
)  # fmt: skip
CPU = torch.device("cpu")


class Careless:
    """A product whose last bits change with the number of rows, from `limit` rows on."""

    name = "careless"

    def __init__(self, limit):
        self.limit = limit

    def can_run(self, spec):
        return Verdict(ok=True, reason="runs anything")

    def pack(self, spec, parts, bias, device):
        weight = parts[0].dequantize()
        return lambda x: x @ weight.T * (1 + (2**-20 if len(x) >= self.limit else 0))


def packed(*kernels):
    check = Check(2)
    packer = Packer(kernels, check)
    weight = from_plain(torch.ones(48, 64))
    packer.pack(SPEC, [weight], None, CPU)
    packer.pack(SPEC, [weight], None, CPU)
    return packer.reports["down"], check


@pytest.mark.parametrize("limit", [2, 16, 32])
def test_another_kernel_is_taken(limit):
    report, check = packed(Careless(limit), Fp32Tiles())
    assert report.startswith("fp32-tiles")
    assert "careless (not exact here: " in report
    assert check.verdict == EXACT


def test_without_another_kernel_the_model_says_so():
    report, check = packed(Careless(16))
    assert "not exact here" in report
    assert check.verdict.startswith("down: ")
    assert len(check.problems) == 1


def test_a_place_in_the_product_is_found():
    class Places(Careless):
        def pack(self, spec, parts, bias, device):
            weight = parts[0].dequantize()
            return lambda x: x @ weight.T * (1 + torch.arange(len(x))[:, None] * 2**-20)

    assert packed(Places(0))[1].verdict != EXACT


@pytest.mark.parametrize("kernel", [Fp32OneDnn(), Fp32Tiles()], ids=lambda k: k.name)
def test_fp32_kernels_compute_the_product(kernel):
    torch.manual_seed(0)
    parts, bias = [from_plain(torch.randn(20, 64)), from_plain(torch.randn(28, 64))], torch.randn(48)
    x = torch.randn(37, 64)
    weight = torch.cat([part.dequantize() for part in parts])
    expected = (x.double() @ weight.double().T + bias).float()
    linear = kernel.pack(SPEC, parts, bias, CPU)
    for count in (1, 2, 17, 37):
        assert torch.allclose(linear(x[:count]), expected[:count], atol=1e-4)


SHAPE = rows.Shape(kv_heads=2, queries=3, head_dim=32, tile=128)


def careless_bmm(limit):
    """Rows are independent but for what is wrong here; torch's own are not on every processor."""

    def bmm(a, b, **out):
        y = torch.zeros(*a.shape[:2], b.shape[2])
        for i in range(b.shape[1]):
            y += a[:, :, i, None] * b[:, i, None]
        return y * (1 + 2**-20) if a.shape[1] >= limit else y

    return bmm


@pytest.mark.parametrize(
    ("limit", "expected"), [(8, rows.Rows(8, 64)), (13, rows.Rows(16, 64)), (100, rows.Rows(16, 5))]
)
def test_attention_takes_sizes_that_are_alike(monkeypatch, limit, expected):
    """Where rows change from 8, 13 or 100 rows on: sizes from there on, or one size for all."""
    monkeypatch.setattr(torch, "bmm", careless_bmm(limit))
    found, problem = rows.choose.__wrapped__(SHAPE, 1)
    assert problem is None
    assert found == expected


def test_attention_that_cannot_be_exact_says_so(monkeypatch):
    real = torch.bmm
    monkeypatch.setattr(torch, "bmm", lambda a, b: real(a, b) * (1 + torch.arange(a.shape[1])[:, None] * 2**-20))
    _, problem = rows.choose.__wrapped__(SHAPE, 1)
    assert "depend on their place" in problem


@pytest.mark.parametrize(
    ("limit", "left"),
    [
        ({}, {"avx2", "avx512", "avx512_vnni", "amx_tile"}),
        ({"ONEDNN_MAX_CPU_ISA": "avx2"}, {"avx2"}),
        ({"DNNL_MAX_CPU_ISA": "AVX512_CORE"}, {"avx2", "avx512"}),
        ({"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_VNNI"}, {"avx2", "avx512", "avx512_vnni"}),
        ({"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_AMX"}, {"avx2", "avx512", "avx512_vnni", "amx_tile"}),
        ({"ONEDNN_MAX_CPU_ISA": "SSE41"}, set()),
    ],
)
def test_a_limit_of_onednn_counts(limit, left):
    assert limited({"avx2", "avx512", "avx512_vnni", "amx_tile"}, limit) == left
