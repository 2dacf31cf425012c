"""The decoder: one class for the whole Llama family, configured by `DecoderConfig`.

Rows are tokens of any sequences; who attends to what is in the AttentionPlan. q, k, v and gate, up are one linear
each. On the CPU every operation treats a row on its own, in a fixed order (see `attention.paged`, `quant.int8_cpu`,
`quant.float_torch`, `elementwise`), so a row's bits do not depend on its company.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812  # the name that torch users know
from torch import Tensor

from argosy_worker.compute.attention.paged import PagedKvCache, attend
from argosy_worker.compute.attention.plan import AttentionPlan
from argosy_worker.compute.elementwise import aligned
from argosy_worker.compute.quant.formats import QuantTensor
from argosy_worker.compute.quant.linear import Linear
from argosy_worker.models.config import DecoderConfig
from argosy_worker.models.rope import rotate


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """Weights of one layer; norms are vectors in the compute type."""

    attn_norm: Tensor
    qkv: Linear
    o: Linear
    mlp_norm: Tensor
    gate_up: Linear
    down: Linear
    q_norm: Tensor | None = None
    k_norm: Tensor | None = None


class Decoder:
    """Computes hidden states and logits. Holds weights only; the cache is the caller's."""

    def __init__(
        self,
        config: DecoderConfig,
        *,
        embed: QuantTensor,
        layers: list[Layer],
        final_norm: Tensor,
        head: Linear,
        rope: tuple[Tensor, Tensor],
        dtype: torch.dtype,
    ) -> None:
        self.config = config
        self._embed, self._layers, self._final_norm, self._head = embed, layers, final_norm, head
        self._cos, self._sin = rope
        self.dtype = dtype

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self._final_norm.device

    def hidden(self, tokens: Tensor, positions: Tensor, cache: PagedKvCache, plan: AttentionPlan) -> Tensor:
        """Run all layers: int64 [rows], int64 [rows] -> [rows, hidden] before the final norm. Writes the cache."""
        config = self.config
        x = self._embed.select(tokens).to(self.dtype)
        cos = self._cos.index_select(0, positions)[:, None]
        sin = self._sin.index_select(0, positions)[:, None]
        for number, layer in enumerate(self._layers):
            qkv = layer.qkv(self._norm(x, layer.attn_norm)).view(len(x), -1, config.head_dim)
            qk = self._query_key_norm(qkv[:, : config.heads + config.kv_heads], layer)
            qk = rotate(qk, cos, sin)
            kv = torch.cat((qk[:, config.heads :], qkv[:, config.heads + config.kv_heads :]), 1)
            cache.write(number, plan, kv)
            attended = attend(qk[:, : config.heads], cache, number, plan)
            x = layer.o(attended.view(len(x), -1)).add_(x)
            gate_up = layer.gate_up(self._norm(x, layer.mlp_norm))
            gate = aligned(_silu_, gate_up[:, : config.ffn].contiguous())
            x = layer.down(gate.mul_(gate_up[:, config.ffn :])).add_(x)
        return x

    def logits(self, hidden: Tensor) -> Tensor:
        """Final norm and LM head: [n, hidden] -> fp32 [n, vocab]."""
        return self._head(self._norm(hidden, self._final_norm)).float()

    def _norm(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.rms_norm(x, (x.shape[-1],), weight, self.config.rms_eps)

    def _query_key_norm(self, qk: Tensor, layer: Layer) -> Tensor:
        if layer.q_norm is None or layer.k_norm is None:
            return qk
        heads = self.config.heads
        return torch.cat((self._norm(qk[:, :heads], layer.q_norm), self._norm(qk[:, heads:], layer.k_norm)), 1)


def _silu_(x: Tensor) -> Tensor:
    return F.silu(x, inplace=True)
