"""Layers on GPUs, with Triton's kernels between the products: one for each norm, for the gates, and for all that
happens to queries, keys and values on their way into attention. Loads Triton.
"""

from torch import Tensor

from argosy_worker.compute.attention.triton_paged import PagedTriton
from argosy_worker.compute.config import LayerSpec
from argosy_worker.compute.fused_mlp import FusedMlp, of_codes
from argosy_worker.compute.layer import LayerWeights, Step
from argosy_worker.compute.mlp import Adds, DenseMlp, Mlp, adapted
from argosy_worker.compute.triton.attention import NOTHING, Turn
from argosy_worker.compute.triton.rows import add_norm, add_norm_codes, norm, norm_codes


class FusedLayer:
    """What `TorchLayer` computes, for attention by `PagedTriton`."""

    def __init__(self, spec: LayerSpec, number: int, weights: LayerWeights) -> None:
        self._spec, self._number, self._weights = spec, number, weights
        self._mlp: Mlp = weights.mlp
        if isinstance(weights.mlp, DenseMlp):
            self._mlp = FusedMlp(weights.mlp.gate_up, weights.mlp.down, weights.mlp.activation)

    @property
    def waits(self) -> str:
        """Why a graph cannot have this layer, where one of its parts says so; empty: it can."""
        w, mlp = self._weights, self._mlp
        inner = (mlp.gate_up, mlp.down) if isinstance(mlp, FusedMlp) else ()
        return next((found for part in (w.qkv, w.o, mlp, *inner) if (found := getattr(part, "waits", ""))), "")

    def __call__(self, x: Tensor, step: Step) -> Tensor:
        """Compute the layer."""
        w, spec = self._weights, self._spec
        adds = None if step.adapted is None else step.adapted.layer(self._number)
        part = self._norm(self._attend(x, step, adds), w.post_attn_norm)
        if w.mlp_norm is None:
            x = x.add(part, alpha=spec.residual_scale)
            made = self._mlp(x, adds)
        elif isinstance(self._mlp, FusedMlp) and (wide := of_codes(self._mlp.gate_up, len(x), adds)) is not None:
            x, codes = add_norm_codes(x, part, w.mlp_norm, spec.rms_eps, spec.residual_scale, wide.code)
            made = self._mlp.after(wide.of_codes(codes))
        else:
            x, normed = add_norm(x, part, w.mlp_norm, spec.rms_eps, spec.residual_scale)
            made = self._mlp(normed, adds)
        return x.add(self._norm(made, w.post_mlp_norm), alpha=spec.residual_scale)

    def _attend(self, x: Tensor, step: Step, adds: Adds) -> Tensor:
        spec, w = self._spec, self._weights
        if not isinstance(step.attention, PagedTriton):
            raise TypeError("a fused layer attends by Triton's kernels")
        if w.attn_norm is not None and (coded := of_codes(w.qkv, len(x), adds)) is not None:
            qkv = coded.of_codes(norm_codes(x, w.attn_norm, spec.rms_eps, coded.code))
        else:
            qkv = adapted(w.qkv, "qkv", self._norm(x, w.attn_norm), adds)
        qkv = qkv.view(len(x), -1, spec.head_dim)
        heads, both = spec.heads, spec.heads + spec.kv_heads
        attended = step.attention.turn_and_attend(
            self._number, qkv[:, :heads], qkv[:, heads:both], qkv[:, both:], self._turn(step), w.sinks
        )
        return adapted(w.o, "o", attended.view(len(x), -1), adds)

    def _turn(self, step: Step) -> Turn:
        spec, w = self._spec, self._weights
        if spec.rope is None and not spec.qk_norm:
            return NOTHING
        rotation = None if spec.rope is None else step.rotations[spec.rope]
        return Turn(
            cos=None if rotation is None else rotation.cos,
            sin=None if rotation is None else rotation.sin,
            q_weight=w.q_norm,
            k_weight=w.k_norm,
            eps=spec.rms_eps,
        )

    def _norm(self, x: Tensor, weight: Tensor | None) -> Tensor:
        return x if weight is None else norm(x, weight, self._spec.rms_eps)
