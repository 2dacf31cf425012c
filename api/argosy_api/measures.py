"""What routers measure of the requests that one revision's workers get, in a form that adds up over routers."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

FIRST_S = 1e-4
GROWTH = 1.1
BUCKETS = 150
"""Bounds of times: FIRST_S * GROWTH**i seconds, up to about 150 s; what is above counts into the last bucket."""


def _empty() -> list[int]:
    return [0] * BUCKETS


def bucket(seconds: float) -> int:
    """Which bucket a time counts into."""
    if seconds <= FIRST_S:
        return 0
    return min(BUCKETS - 1, math.ceil(math.log(seconds / FIRST_S) / math.log(GROWTH)))


def median(counts: Sequence[int]) -> float | None:
    """Half of the times are below this, within 5 %, in seconds; None without any."""
    total, below = sum(counts), 0
    for i, count in enumerate(counts):
        below += count
        if total and 2 * below >= total:
            return float(FIRST_S * GROWTH ** (i - 0.5))
    return None


@dataclass(slots=True)
class Measures:
    """Counts since the trial began."""

    requests: int = 0
    """Attempts: a request that failed at one worker and went to another counts at both."""
    errors: int = 0
    """Of these, ended by the worker's fault."""
    ttft: list[int] = field(default_factory=_empty)
    """Times to the first token, in buckets."""
    itl: list[int] = field(default_factory=_empty)
    """Each request's mean time between tokens, in buckets."""

    def plus(self, other: "Measures") -> "Measures":
        """Both together."""
        return Measures(
            self.requests + other.requests,
            self.errors + other.errors,
            [a + b for a, b in zip(self.ttft, other.ttft, strict=True)],
            [a + b for a, b in zip(self.itl, other.itl, strict=True)],
        )

    def check(self) -> "Measures":
        """Itself, if it can be.

        Raises:
            TypeError, ValueError: no counts, or not as many as there are buckets.

        """
        counts = [self.requests, self.errors, *self.ttft, *self.itl]
        if {len(self.ttft), len(self.itl)} != {BUCKETS} or min(counts) < 0:
            raise ValueError("these are no measures")
        return self


@dataclass(slots=True)
class Trial:
    """A canary and the workers beside it, over the same time."""

    revision: str
    """Of the canary."""
    canary: Measures = field(default_factory=Measures)
    stable: Measures = field(default_factory=Measures)

    def plus(self, other: "Trial") -> "Trial":
        """Both together, as two routers measured it."""
        return Trial(self.revision, self.canary.plus(other.canary), self.stable.plus(other.stable))
