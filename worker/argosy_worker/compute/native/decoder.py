"""A model on the native kernels: its weights. No torch."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from argosy_worker.compute.config import DecoderConfig
from argosy_worker.compute.native.crew import Crew
from argosy_worker.compute.native.linear import NativeLinear
from argosy_worker.compute.native.stack import Floats, Parts
from argosy_worker.compute.quant.formats import QuantTensor

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class NativeDecoder:
    """All that steps read but the cache."""

    config: DecoderConfig
    crew: Crew
    embed: QuantTensor
    """Of numpy."""
    layers: Sequence[Parts]
    final_norm: Floats
    head: NativeLinear

    def embedded(self, tokens: Ints) -> Floats:
        """The rows of the embedding: int64 [n] -> fp32 [n, hidden], its own memory.

        As `QuantTensor.select` has them; blocks of Q8_0 with less Python around numpy's work.
        """
        if self.embed.format != "Q8_0":
            found: Floats = self.embed.select(tokens)
            return found
        blocks = self.embed.raw[tokens].reshape(-1, 34)
        scales = blocks[:, :2].copy().view(np.float16).astype(np.float32)
        rows: Floats = np.multiply(blocks[:, 2:].view(np.int8), scales, dtype=np.float32).reshape(len(tokens), -1)
        return rows
