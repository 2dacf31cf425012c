"""How often requests may be sent once more, so that workers that die do not multiply the load. Pure.

The caller gives the time (monotonic seconds).
"""

from collections import deque
from collections.abc import Iterable

from argosy_api import limits

WINDOW_S = 10.0
SHARE = 1.0
"""Of the requests that are under way or came in the window so many may be sent once more in it: each of a fleet's
workers can die within it and every stream goes on, and no storm makes more than twice the work."""
FLOOR = 10
"""So many always: where there are few requests, a share of them says nothing."""
SAME_PLACE = 32
"""Tokens: two workers that died within so many of them, on one answer, died at the same place."""
QUARANTINE_S = 600.0


class RetryBudget:
    """Of one deployment, in one router."""

    def __init__(self) -> None:
        self._came: deque[tuple[int, int]] = deque()
        """(second, requests that came in it)."""
        self._retried: deque[tuple[int, int]] = deque()

    def came(self, now: float) -> None:
        """A request came."""
        _count(self._came, now)

    def take(self, now: float, *, in_flight: int) -> bool:
        """Whether one more request may be sent once more; counts it then. `in_flight`: requests under way."""
        most = FLOOR + SHARE * (in_flight + _total(self._came, now))
        if _total(self._retried, now) >= most:
            return False
        _count(self._retried, now)
        return True


def _count(seconds: deque[tuple[int, int]], now: float) -> None:
    second = int(now)
    count = seconds.pop()[1] if seconds and seconds[-1][0] == second else 0
    seconds.append((second, count + 1))
    _total(seconds, now)


def _total(seconds: deque[tuple[int, int]], now: float) -> int:
    while seconds and seconds[0][0] <= now - WINDOW_S:
        seconds.popleft()
    return sum(count for _, count in seconds)


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
