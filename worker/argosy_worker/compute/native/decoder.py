"""A model on the native kernels: its weights. No torch."""

from collections.abc import Sequence
from dataclasses import dataclass

from argosy_worker.compute.config import DecoderConfig
from argosy_worker.compute.native.crew import Crew
from argosy_worker.compute.native.linear import NativeLinear
from argosy_worker.compute.native.stack import Floats, Parts
from argosy_worker.compute.quant.formats import QuantTensor


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
