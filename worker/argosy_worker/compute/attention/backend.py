"""What attention is to the rest: a cache of keys and values, and a way to attend over it.

How the rows of a layer attend is in its `LayerSpec`: `attention`, `scale`, `softcap`, `sinks`. A back end is made with
the specs of all layers; what it cannot compute is refused when a model is loaded (`kernels.py`).
"""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Protocol

from argosy_worker.core.batch import BlockStore
from argosy_worker.core.layout import StepLayout

if TYPE_CHECKING:
    from torch import Tensor

LAYOUT_VERSION = 1
"""An exported block is [layers, 2 (keys, values), kv_heads, block_size, head_dim], in the machine's byte order; behind
it, for types that have them, the scales: fp32 [layers, 2, kv_heads, block_size]. Native layers write keys in an
order of their own (argosy_cpu.h); workers that have them have another fingerprint than those that have not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KvSpec:
    """What a block holds. Blocks can move between caches of equal specs, and between no others."""

    layers: int
    kv_heads: int
    head_dim: int
    block_size: int
    dtype: str
    """`fp32`, `fp16`, `bf16`, `int8` or `fp8`: the elements of a block."""
    layout_version: int
    """Of the order of the elements in an exported block; another order gets another number."""

    def describe(self) -> str:
        """All of it in one line: equal where blocks can move from one cache to the other."""
        return " ".join(f"{name}={value}" for name, value in {**asdict(self), "order": sys.byteorder}.items())

    @property
    def rows(self) -> int:
        """Keys, and values, of one token and head in one block, over all layers."""
        return self.layers * 2 * self.kv_heads * self.block_size


class KvCache(BlockStore, Protocol):
    """Blocks of keys and values, numbered from 1; block 0 is the null block."""

    @property
    def spec(self) -> KvSpec:
        """What a block holds; its `describe` is the store's `layout`."""
        ...

    def elements(self, layer: int) -> Tensor:
        """What a layer holds: [blocks + 1, 2 (keys, values), kv_heads, block_size, head_dim]."""
        ...

    def scales(self, layer: int) -> Tensor | None:
        """Of each row of it, fp32 [blocks + 1, 2, kv_heads, block_size]; None where the type has none."""
        ...


class AttentionBackend(Protocol):
    """Causal attention of a step's rows over a paged cache. Owned by one thread."""

    @property
    def cache(self) -> KvCache:
        """The cache that it reads and writes."""
        ...

    @property
    def layout(self) -> StepLayout:
        """The step that was prepared last."""
        ...

    def prepare(self, layout: StepLayout) -> None:
        """Take up a step: what the layers share is computed here, once."""
        ...

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, sinks: Tensor | None = None) -> Tensor:
        """Store the rows' keys and values, and attend: q [rows, heads, head_dim], k and v [rows, kv_heads, head_dim].

        `sinks` are fp32 [heads], for layers whose spec has them: softmax over a row's scores and the head's sink.
        Returns [rows, heads, head_dim] in the type of q. Rows are those of the layout that was prepared last.
        """
        ...
