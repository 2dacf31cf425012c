"""The decoder: one class for all families, configured by `DecoderConfig`.

Rows are tokens of any sequences; who attends to what is the attention back end's. On the CPU every operation treats a
row on its own, in a fixed order (see `attention.paged`, `quant.int8_cpu`, `quant.fp32_cpu`, `elementwise`), so a row's
bits do not depend on its company.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812  # the name that torch users know
from torch import Tensor

from argosy_worker.compute.attention.backend import AttentionBackend
from argosy_worker.compute.config import DecoderConfig
from argosy_worker.compute.elementwise import aligned
from argosy_worker.compute.layer import Layer, Step
from argosy_worker.compute.quant.formats import QuantTensor
from argosy_worker.compute.quant.linear import Linear
from argosy_worker.compute.rope import frequencies, rotation


class Decoder:
    """Computes hidden states and logits. Holds weights only; the cache is the attention's."""

    def __init__(
        self,
        config: DecoderConfig,
        *,
        embed: QuantTensor,
        layers: Sequence[Layer],
        final_norm: Tensor,
        head: Linear,
        dtype: torch.dtype,
    ) -> None:
        self.config = config
        self._embed, self._layers, self._final_norm, self._head = embed, layers, final_norm, head
        self._ropes = {rope: frequencies(rope, final_norm.device) for rope in config.ropes}
        self.dtype = dtype

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self._final_norm.device

    def hidden(self, tokens: Tensor, positions: Tensor, attention: AttentionBackend) -> Tensor:
        """Run all layers: int [rows], int [rows] -> [rows, hidden] before the final norm.

        `attention` is prepared for the step; its cache gets the rows' keys and values.
        """
        x = self._embed.select(tokens).to(self.dtype)
        if self.config.embed_scale != 1:
            x = x * self.config.embed_scale
        step = Step({rope: rotation(of, positions, self.dtype) for rope, of in self._ropes.items()}, attention)
        for layer in self._layers:
            x = layer(x, step)
        return x

    def logits(self, hidden: Tensor) -> Tensor:
        """Final norm and LM head: [n, hidden] -> fp32 [n, vocab]."""
        normed = F.rms_norm(hidden, (hidden.shape[-1],), self._final_norm, self.config.rms_eps)
        logits = self._head(normed).float()
        if self.config.logit_divisor != 1:
            logits = logits / self.config.logit_divisor
        if cap := self.config.logit_softcap:
            logits = aligned(torch.Tensor.tanh_, (logits / cap).contiguous()) * cap
        return logits
