"""Whether the index tells the truth: what was predicted of each prompt, against what its worker found. Pure.

The caller gives the time (monotonic seconds). Kept for the last minutes, in parts.
"""

from collections import deque
from dataclasses import dataclass

from argosy_api.routes import IndexTruth

WINDOW_S = 300.0
_PART_S = 10.0


@dataclass(slots=True)
class _Part:
    number: int
    requests: int = 0
    predicted: int = 0
    found: int = 0
    missed: int = 0
    unforeseen: int = 0


class IndexHealth:
    """Of one deployment."""

    def __init__(self) -> None:
        self._parts: deque[_Part] = deque()

    def compared(self, *, predicted: int, found: int, now: float) -> None:
        """A prompt was computed: cached tokens as predicted, and as the worker found them."""
        part = self._part(now)
        part.requests += 1
        part.predicted += predicted
        part.found += found
        part.missed += max(0, predicted - found)
        part.unforeseen += max(0, found - predicted)

    def told(self, now: float) -> IndexTruth:
        """What a router says of it."""
        self._forget(now)
        return IndexTruth(
            requests=sum(p.requests for p in self._parts),
            predicted=sum(p.predicted for p in self._parts),
            found=sum(p.found for p in self._parts),
            missed=sum(p.missed for p in self._parts),
            unforeseen=sum(p.unforeseen for p in self._parts),
        )

    def _part(self, now: float) -> _Part:
        number = int(now // _PART_S)
        if not self._parts or self._parts[-1].number != number:
            self._parts.append(_Part(number))
            self._forget(now)
        return self._parts[-1]

    def _forget(self, now: float) -> None:
        oldest = int((now - WINDOW_S) // _PART_S)
        while self._parts and self._parts[0].number <= oldest:
            self._parts.popleft()
