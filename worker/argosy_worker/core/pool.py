"""What a request that wants its prompt's embedding has beside its tokens."""

from collections.abc import Sequence
from enum import StrEnum
from typing import Any, Protocol


class Pooling(StrEnum):
    """How hidden states of a prompt's tokens become one vector, after the model's final norm."""

    MEAN = "mean"
    LAST = "last"
    CLS = "cls"
    """The first token's."""


class Pool(Protocol):
    """Takes the rows that make an embedding, as steps compute them. Of the engine thread."""

    @property
    def missing(self) -> bool:
        """Whether rows that a prefix hit would leave out are still to come."""
        ...

    def wanted(self, start: int, count: int) -> range:
        """Which of `count` rows, at positions from `start` on, belong to it."""
        ...

    def add(self, position: int, rows: Any) -> None:
        """Rows that are wanted: fp32 [n, hidden] after the final norm, the first of them at `position`."""
        ...

    def vector(self) -> Sequence[float]:
        """The embedding, of the length 1. Only when all rows are there."""
        ...
