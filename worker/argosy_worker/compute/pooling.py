"""Hidden states of a prompt into its embedding. No torch.

The rows come in the chunks in which steps compute them. They are added one after another, so that the sum does not
depend on how the prompt was cut.
"""

import numpy as np
import numpy.typing as npt

from argosy_worker.core.pool import Pooling

Floats = npt.NDArray[np.float32]


class HiddenPool:
    """Of one request. `pooling`: which rows of the prompt, of `length` tokens, make its embedding."""

    def __init__(self, pooling: Pooling, length: int) -> None:
        self._pooling, self._length = pooling, length
        self._sum: npt.NDArray[np.float64] | None = None
        self._next = 0

    @property
    def missing(self) -> bool:
        """Whether rows that a prefix hit would leave out are still to come."""
        return self._pooling is not Pooling.LAST and self._next < (1 if self._pooling is Pooling.CLS else self._length)

    def wanted(self, start: int, count: int) -> range:
        """Which of `count` rows, at positions from `start` on, belong to it; positions from 0 on come anew."""
        first = self._length - 1 if self._pooling is Pooling.LAST else 0
        end = 1 if self._pooling is Pooling.CLS else self._length
        if start > 0:
            first = max(first, self._next)  # a step that failed for another request is computed again
        return range(max(first - start, 0), min(end - start, count))

    def add(self, position: int, rows: Floats) -> None:
        """Rows that are wanted: [n, hidden] after the final norm, the first of them at `position`."""
        if position == 0 or self._pooling is Pooling.LAST or self._sum is None:
            self._sum = np.zeros(rows.shape[-1], dtype=np.float64)
        for row in rows:
            self._sum += row
        self._next = position + len(rows)

    def vector(self) -> list[float]:
        """The embedding, of the length 1. Only when all rows are there."""
        if self._sum is None:
            return []
        found: list[float] = (self._sum / np.linalg.norm(self._sum)).tolist()
        return found


def normed(hidden: Floats, weight: Floats, eps: float) -> Floats:
    """RMSNorm of fp32 rows [n, hidden], each by itself."""
    found = np.empty_like(hidden)
    for i, row in enumerate(hidden):
        found[i] = row * np.float32(1 / np.sqrt(np.mean(np.square(row, dtype=np.float64)) + eps)) * weight
    return found
