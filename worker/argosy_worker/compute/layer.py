"""A layer is what a kernel computes: its description, the kernels that may, and the reasons for the choice.

A native or fused layer takes the place of `TorchLayer` by joining `KERNELS`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F  # noqa: N812  # the name that torch users know
from torch import Tensor

from argosy_worker.compute.adapted import Adapted
from argosy_worker.compute.attention.backend import AttentionBackend
from argosy_worker.compute.config import LayerSpec
from argosy_worker.compute.mlp import Adds, Mlp, adapted
from argosy_worker.compute.quant.linear import Linear, Verdict, first_able
from argosy_worker.compute.rope import Rotation, rotate
from argosy_worker.compute.rope_spec import Rope


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerWeights:
    """Packed linears of one layer, its second part, and its norms as vectors in the compute type."""

    qkv: Linear
    o: Linear
    mlp: Mlp
    attn_norm: Tensor | None = None
    post_attn_norm: Tensor | None = None
    mlp_norm: Tensor | None = None
    post_mlp_norm: Tensor | None = None
    q_norm: Tensor | None = None
    k_norm: Tensor | None = None
    sinks: Tensor | None = None
    """fp32 [heads]."""


class Step(NamedTuple):
    """What all layers share in a step."""

    rotations: Mapping[Rope, Rotation]
    attention: AttentionBackend
    adapted: Adapted | None = None
    """What adapters add to linears; None where no row has one."""


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
    """RMSNorms, attention with rotary positions, a feed-forward part: torch operations around the linears."""

    def __init__(self, spec: LayerSpec, number: int, weights: LayerWeights) -> None:
        self._spec, self._number, self._weights = spec, number, weights

    def __call__(self, x: Tensor, step: Step) -> Tensor:
        """Compute the layer."""
        w = self._weights
        adds = None if step.adapted is None else step.adapted.layer(self._number)
        x = self._add(x, self._attend(self._norm(x, w.attn_norm), step, adds), w.post_attn_norm)
        return self._add(x, w.mlp(self._norm(x, w.mlp_norm), adds), w.post_mlp_norm)

    def _attend(self, x: Tensor, step: Step, adds: Adds) -> Tensor:
        spec, w = self._spec, self._weights
        heads, both = spec.heads, spec.heads + spec.kv_heads
        qkv = adapted(w.qkv, "qkv", x, adds).view(len(x), -1, spec.head_dim)
        qk = self._query_key_norm(qkv[:, :both])
        if spec.rope is not None:
            qk = rotate(qk, step.rotations[spec.rope])
        attended = step.attention.attend(self._number, qk[:, :heads], qk[:, heads:], qkv[:, both:], w.sinks)
        return adapted(w.o, "o", attended.view(len(x), -1), adds)

    def _add(self, x: Tensor, part: Tensor, norm: Tensor | None) -> Tensor:
        part = self._norm(part, norm)
        if self._spec.residual_scale != 1:
            part = part * self._spec.residual_scale
        return part.add_(x)

    def _norm(self, x: Tensor, weight: Tensor | None) -> Tensor:
        return x if weight is None else F.rms_norm(x, (x.shape[-1],), weight, self._spec.rms_eps)

    def _query_key_norm(self, qk: Tensor) -> Tensor:
        spec, w = self._spec, self._weights
        if not spec.qk_norm:
            return qk
        q, k = qk[:, : spec.heads], qk[:, spec.heads :]
        if spec.qk_norm == "width":
            q, k = q.flatten(1), k.flatten(1)
        normed = self._norm(q, w.q_norm), self._norm(k, w.k_norm)
        return torch.cat([x.view(len(qk), -1, spec.head_dim) for x in normed], 1)


class TorchLayers:
    """Layers of torch operations, on every device."""

    name = "layer-torch"

    def can_run(self, spec: LayerSpec) -> Verdict:
        """Run all that a spec can say; attention is its back end's."""
        del spec
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
    return first_able(kernels, lambda kernel: kernel.can_run(spec), "layers")
