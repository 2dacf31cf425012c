"""Layers of Triton's kernels against those of torch, over a prompt and a step after it."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from kernels_here import DEVICE
from layers import layer_spec

from argosy_api.params import SamplingParams
from argosy_worker.compute.attention.cache import PagedKvCache
from argosy_worker.compute.attention.kernels import AttentionSpec, TritonAttention, choose_attention
from argosy_worker.compute.attention.kv_types import KV_TYPES
from argosy_worker.compute.attention.paged import PagedTorch
from argosy_worker.compute.attention.rows import Rows
from argosy_worker.compute.attention.triton_paged import PagedTriton
from argosy_worker.compute.config import Clamp, Window
from argosy_worker.compute.fused import FusedLayers
from argosy_worker.compute.layer import LayerWeights, TorchLayer
from argosy_worker.compute.mlp import DenseMlp
from argosy_worker.compute.rope_spec import Rope
from argosy_worker.compute.stack import Stack
from argosy_worker.compute.triton.machine import Gpu, refused
from argosy_worker.compute.triton.rows import Gate, add_norm, gated, norm
from argosy_worker.core.batch import SequenceSlice
from argosy_worker.core.layout import make_layout

CPU = torch.device("cpu")
H100 = Gpu(name="NVIDIA H100", capability=(9, 0), multiprocessors=132)
HIDDEN, FFN = 48, 80


class Product:
    def __init__(self, outputs, inputs, device, seed):
        weight = torch.randn(outputs, inputs, generator=torch.Generator().manual_seed(seed)) * inputs**-0.5
        self._weight = weight.to(device)

    def __call__(self, x):
        return F.linear(x, self._weight)


def weights(spec, device):
    def vector(size, seed):
        return (torch.rand(size, generator=torch.Generator().manual_seed(seed)) + 0.5).to(device)

    wide = spec.heads * spec.head_dim
    qkv = wide + 2 * spec.kv_heads * spec.head_dim
    gate_up, down = Product(2 * FFN, HIDDEN, device, 3), Product(HIDDEN, FFN, device, 4)
    return LayerWeights(
        qkv=Product(qkv, HIDDEN, device, 1),
        o=Product(HIDDEN, wide, device, 2),
        mlp=DenseMlp(gate_up, down, spec.activation),
        attn_norm=vector(HIDDEN, 5) if spec.norms != "after" else None,
        mlp_norm=vector(HIDDEN, 6) if spec.norms != "after" else None,
        post_attn_norm=vector(HIDDEN, 7) if spec.norms != "before" else None,
        post_mlp_norm=vector(HIDDEN, 8) if spec.norms != "before" else None,
        q_norm=vector(spec.head_dim, 9) if spec.qk_norm else None,
        k_norm=vector(spec.head_dim, 10) if spec.qk_norm else None,
        sinks=torch.linspace(-1, 2, spec.heads).to(device) if spec.sinks else None,
    )


def steps(spec, kind, *, fused):
    """Hidden states of a prompt of 20 tokens beside one of 3, and of one token more of each."""
    device = DEVICE if fused else CPU
    cache = PagedKvCache(
        layers=1, blocks=4, block_size=16, kv_heads=spec.kv_heads, head_dim=spec.head_dim, dtype=torch.float32,
        device=device, kind=KV_TYPES[kind],
    )  # fmt: skip
    if fused:
        attention = PagedTriton(cache, [spec], multiprocessors=4)
        layer = FusedLayers(TritonAttention(lambda: H100)).pack(spec, 0, weights(spec, device))
    else:
        attention, layer = PagedTorch(cache, Rows(4, 64), [spec]), TorchLayer(spec, 0, weights(spec, device))
    stack = Stack([layer], [spec], dtype=torch.float32, device=device)
    found = []
    for first, second in (((0, 20), (0, 3)), ((20, 21), (3, 4))):
        slices = [
            SequenceSlice(
                request_id="r", tokens=[0] * (end - begin), start=begin, table=table, sample_rows=range(0),
                params=SamplingParams(),
            )
            for (begin, end), table in ((first, [3, 1]), (second, [2]))
        ]  # fmt: skip
        layout = make_layout(slices, 16)
        attention.prepare(layout)
        rows = len(layout.positions)
        x = torch.randn(rows, HIDDEN, generator=torch.Generator().manual_seed(rows))
        found.append(stack(x.to(device), torch.from_numpy(layout.positions).to(device), attention).cpu())
    return torch.cat(found)


PLAIN = layer_spec(heads=4, kv_heads=2, head_dim=16, hidden=HIDDEN, ffn=FFN, rope=Rope(10_000.0, 16))


@pytest.mark.parametrize("kind", ["fp32", "int8"])
@pytest.mark.parametrize(
    "change",
    [
        {},
        {"qk_norm": "head", "activation": "gelu_tanh"},
        {"norms": "both", "softcap": 10.0, "residual_scale": 0.5, "attention": Window(7)},
        {"norms": "after", "rope": None},
        {"rope": None, "qk_norm": "head", "sinks": True, "activation": Clamp(1.702, 7.0)},
        {"rope": Rope(10_000.0, 8)},
    ],
)
def test_a_fused_layer_computes_what_torch_does(change, kind):
    spec = replace(PLAIN, **change)
    close = 1e-4 if kind == "fp32" else 3e-2  # a code more or less, where the last bit before it differs
    assert torch.allclose(steps(spec, kind, fused=True), steps(spec, kind, fused=False), atol=close, rtol=close)


@pytest.mark.parametrize(("rows", "columns"), [(1, 48), (3, 2048), (2, 2050)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_norms_and_gates(rows, columns, dtype):
    generator = torch.Generator().manual_seed(0)
    x, part = (torch.randn(rows, columns, generator=generator).to(dtype) for _ in range(2))
    weight = torch.rand(columns, generator=generator).to(dtype)
    close = {"atol": 1e-5, "rtol": 1e-5} if dtype == torch.float32 else {"atol": 2e-2, "rtol": 2e-2}
    there = [t.to(DEVICE) for t in (x, part, weight)]
    assert torch.allclose(norm(there[0], there[2], 1e-6).cpu(), F.rms_norm(x, (columns,), weight, 1e-6), **close)
    total, normed = add_norm(*there, 1e-6, 0.5)
    assert torch.allclose(total.cpu(), x + part * 0.5, **close)
    assert torch.allclose(normed.cpu(), F.rms_norm(x + part * 0.5, (columns,), weight, 1e-6), **close)
    gate, up = x.float().chunk(2, -1)
    for kind, expected in (
        (Gate.SILU, F.silu(gate) * up),
        (Gate.GELU_TANH, F.gelu(gate, approximate="tanh") * up),
        (Gate.CLAMP, gate.clamp(max=1) * (gate.clamp(max=1) * 1.7).sigmoid() * (up.clamp(-1, 1) + 1)),
    ):
        assert torch.allclose(gated(there[0], kind, alpha=1.7, limit=1.0).cpu(), expected.to(dtype), **close)


def test_who_computes_on_which_gpu_is_said_with_reasons():
    a100 = replace(H100, capability=(8, 0))
    assert refused((7, 5)) == "needs compute capability 8.0, the GPU has 7.5"
    assert refused(a100.capability) is None
    asked = AttentionSpec(layers=(PLAIN,), device="cuda")
    assert TritonAttention(lambda: a100).refusal(asked) is None
    assert TritonAttention(lambda: "torch finds no CUDA device").refusal(asked) == "torch finds no CUDA device"
    wide = AttentionSpec(layers=(replace(PLAIN, head_dim=512),), device="cuda")
    assert "heads of up to 256, asked for 512" in TritonAttention(lambda: a100).refusal(wide)
    many = AttentionSpec(layers=(replace(PLAIN, heads=200),), device="cuda")
    assert "up to 64 queries of a key, asked for 100" in TritonAttention(lambda: a100).refusal(many)
    kernel, report = choose_attention(AttentionSpec(layers=(PLAIN,), device="cpu"))
    assert (kernel.name, report) == ("paged-torch", "paged-torch; refused: paged-triton (runs on cuda, asked for cpu)")
    layers = FusedLayers(TritonAttention(lambda: a100))
    assert layers.can_run(PLAIN).ok
    assert "over each head" in layers.can_run(replace(PLAIN, qk_norm="width")).reason
    assert layers.can_run(replace(PLAIN, head_dim=512)).reason.startswith("takes heads of up to 256")
