"""Which back end computes a model's attention, and why. Another one joins by standing in `KERNELS`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from argosy_api.errors import ModelUnsupportedError
from argosy_worker.compute.attention.backend import AttentionBackend
from argosy_worker.compute.attention.cache import PagedKvCache
from argosy_worker.compute.attention.paged import PagedTorch
from argosy_worker.compute.attention.rows import Rows
from argosy_worker.compute.config import LayerSpec
from argosy_worker.compute.triton import machine

_LARGEST_HEAD, _MOST_QUERIES = 256, 64


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


def _of_one_shape(spec: AttentionSpec) -> str | None:
    """Layers share one cache, so they need heads of one shape."""
    shapes = sorted({(layer.heads, layer.kv_heads, layer.head_dim) for layer in spec.layers})
    if len(shapes) > 1:
        return f"needs layers of one shape, asked for (heads, key/value heads, dimension) {shapes}"
    return None


class TritonAttention:
    """`PagedTriton`: all that the one on torch can, on GPUs."""

    name = "paged-triton"

    def __init__(self, gpu: Callable[[], machine.Gpu | str] = machine.present) -> None:
        """`gpu` finds it, or says why there is none."""
        self._gpu = gpu

    def refusal(self, spec: AttentionSpec) -> str | None:
        """Tiles have a head's dimension as a whole, and all queries of a key."""
        if spec.device != "cuda":
            return f"runs on cuda, asked for {spec.device}"
        if isinstance(found := self._gpu(), str):
            return found
        if largest := max((layer.head_dim for layer in spec.layers if layer.head_dim > _LARGEST_HEAD), default=0):
            return f"takes heads of up to {_LARGEST_HEAD}, asked for {largest}"
        if most := max((q for q in (y.heads // y.kv_heads for y in spec.layers) if q > _MOST_QUERIES), default=0):
            return f"takes up to {_MOST_QUERIES} queries of a key, asked for {most}"
        return _of_one_shape(spec)

    def make(self, cache: PagedKvCache, rows: Rows, layers: Sequence[LayerSpec]) -> AttentionBackend:
        """A back end over a cache."""
        from argosy_worker.compute.attention.triton_paged import PagedTriton  # noqa: PLC0415  # loads Triton

        del rows
        found = self._gpu()
        if isinstance(found, str):
            raise ModelUnsupportedError(f"{self.name}: {found}")
        return PagedTriton(cache, layers, multiprocessors=found.multiprocessors)


class TorchAttention:
    """`PagedTorch`: full attention and windows, soft-caps, sinks, one or more queries to a key, on every device."""

    name = "paged-torch"

    def refusal(self, spec: AttentionSpec) -> str | None:
        """Any shape, but one."""
        return _of_one_shape(spec)

    def make(self, cache: PagedKvCache, rows: Rows, layers: Sequence[LayerSpec]) -> AttentionBackend:
        """A back end over a cache."""
        return PagedTorch(cache, rows, layers)


KERNELS: tuple[AttentionKernel, ...] = (TritonAttention(), TorchAttention())


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
