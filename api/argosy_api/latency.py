"""Counts of times in fixed bins, so that what several processes measured can be put together."""

import math
from collections.abc import Mapping

_PER_OCTAVE = 4
_FIRST_S = 0.001
BINS = 76
"""The last one begins at some 440 s."""

Counts = Mapping[int, int]
"""Bin -> how many times lie in it; bins without any are left out."""


def bin_of(seconds: float) -> int:
    """The bin that a time lies in: bin i ends at 1 ms x 2^(i/4), so that a quantile is at most 19 % too high."""
    if seconds <= _FIRST_S:
        return 0
    return min(BINS - 1, math.ceil(_PER_OCTAVE * math.log2(seconds / _FIRST_S)))


def end_of(place: int) -> float:
    """Where a bin ends, in seconds."""
    return float(_FIRST_S * 2.0 ** (place / _PER_OCTAVE))


def added(parts: list[Counts]) -> dict[int, int]:
    """All of them together."""
    total: dict[int, int] = {}
    for part in parts:
        for place, count in part.items():
            total[place] = total.get(place, 0) + count
    return total


def quantile(counts: Counts, share: float) -> float | None:
    """The end of the bin in which the quantile lies, in seconds; None where nothing was counted."""
    left = share * sum(counts.values())
    if not left:
        return None
    place = 0
    for place in sorted(counts):
        left -= counts[place]
        if left <= 0:
            break
    return end_of(place)
