"""Who looks at logits and picks tokens, as runners see it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from argosy_worker.arrays import Array, like
from argosy_worker.core.batch import TokenLogprob
from argosy_worker.sampling.rows import Row


class Picked(NamedTuple):
    """Of n rows of logits."""

    tokens: list[int]
    """[n]; of rows that are not fine they mean nothing."""
    fine: list[bool]
    """[n]: whether each row, as the model gave it, is finite."""
    marks: list[bool]
    """What was to be told besides."""


@dataclass(frozen=True, slots=True)
class Sampler:
    """Logits are fp32 [n, vocab], and stay as they are."""

    healthy: Callable[[Array], list[bool]]
    """Whether each row, as the model gave it, is finite."""
    pick: Callable[[Array, Sequence[Row]], list[int]]
    """A token for each row; all rows are healthy."""
    logprobs: Callable[[Array, Sequence[int], Sequence[int]], list[TokenLogprob]]
    """Log-probability of `tokens[i]` and of the `tops[i]` best tokens under row i."""
    at_once: Callable[[Array, Sequence[Row], Array | None], Picked] | None = None
    """All of `sample` in one answer, where answers are slow to come."""

    def sample(self, logits: Array, rows: Sequence[Row], marks: Array | None = None) -> Picked:
        """A token for each row that is fine. `marks`: bool [m], of the device that the logits are on."""
        if self.at_once is not None:
            return self.at_once(logits, rows, marks)
        fine = self.healthy(logits)
        kept = [i for i, ok in enumerate(fine) if ok]
        tokens = [0] * len(rows)
        if kept:
            some = logits if len(kept) == len(rows) else logits[like(logits, np.array(kept))]
            for i, token in zip(kept, self.pick(some, [rows[i] for i in kept]), strict=True):
                tokens[i] = token
        return Picked(tokens, fine, told(marks))


def told(marks: Array | None) -> list[bool]:
    """What an array of bool says."""
    return [] if marks is None else [bool(mark) for mark in marks.tolist()]
