"""Which back end computes a model's attention, and why. Another one joins by standing in `KERNELS`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from argosy_api.errors import ModelUnsupportedError
from argosy_worker.compute.attention.backend import AttentionBackend
from argosy_worker.compute.attention.cache import PagedKvCache
from argosy_worker.compute.attention.paged import PagedTorch
from argosy_worker.compute.attention.rows import Rows
from argosy_worker.compute.config import LayerSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionSpec:
    """What is asked of a back end."""

    layers: tuple[LayerSpec, ...]
    device: str
    """`cpu` or `cuda`."""


class AttentionKernel(Protocol):
    """Makes back ends."""

    name: str

    def refusal(self, spec: AttentionSpec) -> str | None:
        """Why it cannot compute this; None where it can."""
        ...

    def make(self, cache: PagedKvCache, rows: Rows, layers: Sequence[LayerSpec]) -> AttentionBackend:
        """A back end over a cache."""
        ...


class TorchAttention:
    """`PagedTorch`: full attention and windows, soft-caps, sinks, one or more queries to a key, on every device."""

    name = "paged-torch"

    def refusal(self, spec: AttentionSpec) -> str | None:
        """Layers share one cache, so they need heads of one shape."""
        shapes = sorted({(layer.heads, layer.kv_heads, layer.head_dim) for layer in spec.layers})
        if len(shapes) > 1:
            return f"needs layers of one shape, asked for (heads, key/value heads, dimension) {shapes}"
        return None

    def make(self, cache: PagedKvCache, rows: Rows, layers: Sequence[LayerSpec]) -> AttentionBackend:
        """A back end over a cache."""
        return PagedTorch(cache, rows, layers)


KERNELS: tuple[AttentionKernel, ...] = (TorchAttention(),)


def choose_attention(spec: AttentionSpec, kernels: Sequence[AttentionKernel] = KERNELS) -> tuple[AttentionKernel, str]:
    """The first that can, and why: its name, and the reasons of those that cannot.

    Raises:
        ModelUnsupportedError: none can; the message has every reason.

    """
    refused: list[str] = []
    for kernel in kernels:
        reason = kernel.refusal(spec)
        if reason is None:
            return kernel, "; refused: ".join([kernel.name, *refused])
        refused.append(f"{kernel.name} ({reason})")
    raise ModelUnsupportedError("nothing computes the model's attention: " + ", ".join(refused))
