"""When requests join the running ones: three ways to form batches. Pure; the scheduler asks before it admits anybody.

    continuous  who finds room joins in any step, and leaves when done
    dynamic     a batch begins when `size` requests wait, or when the first of them has waited `wait_s`
    static      a batch begins when `size` requests wait; so that the last few are answered too, a smaller one begins
                once nobody has come for `wait_s`

A dynamic or static batch runs to its end before the next one begins, so the places of those who are done stay empty.
The way decides when a token is computed, never which token.
"""

from dataclasses import dataclass
from enum import StrEnum
from math import inf


class Batching(StrEnum):
    """How batches form."""

    CONTINUOUS = "continuous"
    DYNAMIC = "dynamic"
    STATIC = "static"


@dataclass(frozen=True, slots=True, kw_only=True)
class Forming:
    """How batches form, of which size, and how long a smaller one is waited with."""

    mode: Batching = Batching.CONTINUOUS
    size: int = 8
    """Requests of a dynamic (at most) or static batch."""
    wait_s: float = 0.1

    def begins_at(self, waiting: int, oldest: float, newest: float) -> float:
        """When those who wait may begin while nobody runs: minus infinity for at once.

        `oldest`, `newest`: the first and the last arrival among them, in seconds of the clock that the answer is in.
        """
        if self.mode is Batching.CONTINUOUS or waiting >= self.size:
            return -inf
        return self.wait_s + (oldest if self.mode is Batching.DYNAMIC else newest)

    def places(self, waiting: int, *, left: int, running: bool, begins: bool) -> int:
        """How many of those who wait may join now.

        `left`: places of the batch under way that nobody has taken yet. `begins`: whether `begins_at` has passed.
        """
        if self.mode is Batching.CONTINUOUS:
            return waiting
        if running or left:
            return min(left, waiting)
        return min(self.size, waiting) if begins else 0
