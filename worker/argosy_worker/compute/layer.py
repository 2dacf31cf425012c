"""A layer is what a kernel computes: its description, the kernels that may, and the reasons for the choice.

A native or fused layer takes the place of `TorchLayer` by joining `KERNELS`; windows and experts are kinds of layers
that can be described, and are refused with the reason until a kernel computes them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F  # noqa: N812  # the name that torch users know
from torch import Tensor

from argosy_api.errors import ModelUnsupportedError
from argosy_worker.compute.attention.backend import AttentionBackend
from argosy_worker.compute.config import Dense, LayerSpec
from argosy_worker.compute.elementwise import aligned
from argosy_worker.compute.quant.linear import Linear, Verdict
from argosy_worker.compute.rope import Rotation, rotate


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerWeights:
    """Packed linears of one layer, and its norms as vectors in the compute type."""

    attn_norm: Tensor
    qkv: Linear
    o: Linear
    mlp_norm: Tensor
    gate_up: Linear
    down: Linear
    q_norm: Tensor | None = None
    k_norm: Tensor | None = None


class Step(NamedTuple):
    """What all layers share in a step."""

    rotation: Rotation
    attention: AttentionBackend


class Layer(Protocol):
    """One layer of a decoder."""

    def __call__(self, x: Tensor, step: Step) -> Tensor:
        """[rows, hidden] -> [rows, hidden]. Writes the rows' keys and values."""
        ...


class LayerKernel(Protocol):
    """Makes layers of some kinds."""

    name: str

    def can_run(self, spec: LayerSpec) -> Verdict:
        """Whether this kernel can compute `spec`."""
        ...

    def pack(self, spec: LayerSpec, number: int, weights: LayerWeights) -> Layer:
        """Layer `number` of a decoder."""
        ...


class TorchLayer:
    """RMSNorm, attention with rotary positions, SwiGLU: some 20 torch operations around the linears."""

    def __init__(self, spec: LayerSpec, number: int, weights: LayerWeights) -> None:
        self._spec, self._number, self._weights = spec, number, weights

    def __call__(self, x: Tensor, step: Step) -> Tensor:
        """Compute the layer."""
        spec, w = self._spec, self._weights
        heads, both = spec.heads, spec.heads + spec.kv_heads
        qkv = w.qkv(self._norm(x, w.attn_norm)).view(len(x), -1, spec.head_dim)
        qk = rotate(self._query_key_norm(qkv[:, :both]), step.rotation)
        attended = step.attention.attend(self._number, qk[:, :heads], qk[:, heads:], qkv[:, both:])
        x = w.o(attended.view(len(x), -1)).add_(x)
        gate_up = w.gate_up(self._norm(x, w.mlp_norm))
        gate = aligned(_silu_, gate_up[:, : spec.ffn].contiguous())
        return w.down(gate.mul_(gate_up[:, spec.ffn :])).add_(x)

    def _norm(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.rms_norm(x, (x.shape[-1],), weight, self._spec.rms_eps)

    def _query_key_norm(self, qk: Tensor) -> Tensor:
        w, heads = self._weights, self._spec.heads
        if w.q_norm is None or w.k_norm is None:
            return qk
        return torch.cat((self._norm(qk[:, :heads], w.q_norm), self._norm(qk[:, heads:], w.k_norm)), 1)


def _silu_(x: Tensor) -> Tensor:
    return F.silu(x, inplace=True)


class TorchLayers:
    """Layers of torch operations, on every device."""

    name = "layer-torch"

    def can_run(self, spec: LayerSpec) -> Verdict:
        """Run layers with a dense feed-forward part."""
        if not isinstance(spec.mlp, Dense):
            return Verdict(ok=False, reason=f"has dense feed-forward layers only, asked for {spec.mlp}")
        return Verdict(ok=True, reason="torch operations around the linears")

    def pack(self, spec: LayerSpec, number: int, weights: LayerWeights) -> Layer:
        """Keep the weights as they are."""
        return TorchLayer(spec, number, weights)


KERNELS: tuple[LayerKernel, ...] = (TorchLayers(),)


def choose_layer(spec: LayerSpec, kernels: Sequence[LayerKernel] = KERNELS) -> tuple[LayerKernel, str]:
    """The first kernel that can run a layer, with the reason.

    Raises:
        ModelUnsupportedError: none can; the message has every kernel's reason.

    """
    refused: list[str] = []
    for kernel in kernels:
        verdict = kernel.can_run(spec)
        if verdict.ok:
            return kernel, f"{kernel.name} ({verdict.reason})" + "".join(f"; refused: {r}" for r in refused)
        refused.append(f"{kernel.name} ({verdict.reason})")
    raise ModelUnsupportedError("no kernel computes the model's layers: " + ", ".join(refused))
