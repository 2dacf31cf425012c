"""What LoRA adapters add to a model's linears, for the rows of some requests: up (down x). No torch.

A row's part is made by the same operations in the same order, whatever rows are computed with it and whichever adapters
these have: a request's answer is the same alone as beside others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from argosy_worker.core.batch import SequenceSlice

Floats = npt.NDArray[np.float32]
ROLES = ("qkv", "o", "gate_up", "down")
"""Linears that adapters may add to, in the kernels' order."""
PARTS: Mapping[str, tuple[str, ...]] = {
    "qkv": ("q", "k", "v"), "o": ("o",), "gate_up": ("gate", "up"), "down": ("down",),
}  # fmt: skip
"""What follows one another in the outputs of each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Up:
    """To one part of a linear's outputs."""

    first: int
    """Its first row of `down`."""
    begin: int
    """The part's first output."""
    matrix: Floats
    """fp32 [rank, outputs of the part], with the adapter's scale in it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LowRank:
    """What is added to one linear of one layer."""

    down: Floats
    """fp32 [rank of all parts together, in]."""
    ups: tuple[Up | None, ...]
    """For each of the linear's PARTS; None: nothing is added there."""

    @property
    def nbytes(self) -> int:
        """Memory that it takes."""
        return self.down.nbytes + sum(up.matrix.nbytes for up in self.ups if up is not None)


class LoadedAdapter:
    """An adapter in memory; it never changes. Compared by identity."""

    def __init__(self, digest: str, layers: int, added: Mapping[tuple[int, str], LowRank]) -> None:
        """`added`: by number of the layer and role of the linear."""
        self.digest, self.layers, self.added = digest, layers, added

    @cached_property
    def most_rank(self) -> int:
        """Rows of the largest `down`."""
        return max((len(of.down) for of in self.added.values()), default=0)

    @cached_property
    def nbytes(self) -> int:
        """Memory that it takes."""
        return sum(of.nbytes for of in self.added.values())


@dataclass(frozen=True, eq=False)
class StepAdapters:
    """Which adapters the rows of a step have."""

    adapters: tuple[LoadedAdapter, ...]
    rows: npt.NDArray[np.int32]
    """[R]: place of each row's adapter in `adapters`; -1: it has none."""

    @classmethod
    def of(cls, slices: Sequence[SequenceSlice]) -> StepAdapters | None:
        """Of a step; None where no row has an adapter."""
        places: dict[LoadedAdapter, int] = {}
        numbers: list[int] = []
        for s in slices:
            place = -1
            if s.adapter is not None:
                if not isinstance(s.adapter, LoadedAdapter):
                    raise TypeError("an adapter of another kind of runner")
                place = places.setdefault(s.adapter, len(places))
            numbers += [place] * len(s.tokens)
        return cls(tuple(places), np.array(numbers, dtype=np.int32)) if places else None

    @property
    def most_rank(self) -> int:
        """Of all of them."""
        return max(adapter.most_rank for adapter in self.adapters)
