"""Which requests are not sent once more, because workers die of them. Pure.

The caller gives the time (monotonic seconds).
"""

from collections.abc import Iterable

from argosy_api import limits

SAME_PLACE = 32
"""Tokens: two workers that died within so many of them, on one answer, died at the same place."""
QUARANTINE_S = 600.0


def same_place(deaths: Iterable[int], position: int) -> bool:
    """Whether a worker that died at this token of an answer died where another one had died before it."""
    return any(position - other < SAME_PLACE for other in deaths)


class Quarantine:
    """Prompts that killed two workers, by their digest: nobody else is given them for a while."""

    def __init__(self) -> None:
        self._until: dict[bytes, float] = {}

    def add(self, digest: bytes, now: float) -> None:
        """Two workers died of it."""
        self._until.pop(digest, None)
        self._until[digest] = now + QUARANTINE_S
        while len(self._until) > limits.MAX_QUARANTINED:
            del self._until[next(iter(self._until))]

    def holds(self, digest: bytes, now: float) -> bool:
        """Whether it is here."""
        return self._until.get(digest, now) > now

    def __len__(self) -> int:
        return len(self._until)
