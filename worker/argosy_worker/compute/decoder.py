"""The decoder: one class for all families, configured by `DecoderConfig`.

Rows are tokens of any sequences; who attends to what is the attention back end's. On the CPU every operation treats a
row on its own, in a fixed order (see `attention.paged`, `quant.int8_cpu`, `quant.fp32_cpu`, `elementwise`), so a row's
bits do not depend on its company.
"""

import torch
import torch.nn.functional as F  # noqa: N812  # the name that torch users know
from torch import Tensor

from argosy_worker.compute.adapted import Adapted
from argosy_worker.compute.attention.backend import AttentionBackend
from argosy_worker.compute.config import DecoderConfig
from argosy_worker.compute.elementwise import aligned
from argosy_worker.compute.native.linear import NativeLinear
from argosy_worker.compute.pooling import Floats, normed
from argosy_worker.compute.quant.formats import QuantTensor
from argosy_worker.compute.quant.linear import Linear
from argosy_worker.compute.shared import SharedHead
from argosy_worker.compute.stack import Stack


class Decoder:
    """Computes hidden states and logits. Holds weights only; the cache is the attention's."""

    def __init__(
        self,
        config: DecoderConfig,
        *,
        embed: QuantTensor,
        stack: Stack,
        final_norm: Tensor,
        head: Linear,
    ) -> None:
        self.config, self.stack = config, stack
        self._embed, self._final_norm, self._head = embed, final_norm, head

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self._final_norm.device

    def hidden(
        self, tokens: Tensor, positions: Tensor, attention: AttentionBackend, adapted: Adapted | None = None
    ) -> Tensor:
        """Run all layers: int [rows], int [rows] -> [rows, hidden] before the final norm.

        `attention` is prepared for the step; its cache gets the rows' keys and values.
        """
        return self.stack(self.embedded(tokens), positions, attention, adapted)

    def embedded(self, tokens: Tensor) -> Tensor:
        """What the first layer gets: int [rows] -> [rows, hidden]."""
        x: Tensor = self._embed.select(tokens).to(self.stack.dtype)
        return x * self.config.embed_scale if self.config.embed_scale != 1 else x

    def normed(self, hidden: Tensor) -> Floats:
        """After the final norm: [n, hidden] -> fp32 [n, hidden], of numpy."""
        return normed(hidden.float().cpu().numpy(), self._final_norm.float().cpu().numpy(), self.config.rms_eps)

    def logits(self, hidden: Tensor) -> Tensor:
        """Final norm and LM head: [n, hidden] -> fp32 [n, vocab]."""
        norm, eps = self._final_norm, self.config.rms_eps
        if isinstance(self._head, NativeLinear) and hidden.dtype == torch.float32:
            logits: Tensor = self._head.normed(hidden, norm, eps)  # the bits of a model that is native as a whole
        elif isinstance(self._head, SharedHead) and self._head.norms:
            logits = self._head(hidden)
        else:
            logits = self._head(F.rms_norm(hidden, (hidden.shape[-1],), norm, eps)).float()
        if self.config.logit_divisor != 1:
            logits = logits / self.config.logit_divisor
        if cap := self.config.logit_softcap:
            logits = aligned(torch.Tensor.tanh_, (logits / cap).contiguous()) * cap
        return logits
