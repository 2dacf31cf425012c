"""How often requests may be sent once more, so that servers that die do not multiply the load. Pure.

The router has such a budget for each deployment, the Python client for its routers. The caller gives the time
(monotonic seconds).
"""

from collections import deque

WINDOW_S = 10.0
SHARE = 1.0
"""Of the requests that are under way or came in the window so many may be sent once more in it: each of several servers
can die within it and every stream goes on, and no storm makes more than twice the work."""
FLOOR = 10
"""So many always: where there are few requests, a share of them says nothing."""


class RetryBudget:
    """Of all requests that share their servers."""

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
    _forget(seconds, now)


def _total(seconds: deque[tuple[int, int]], now: float) -> int:
    _forget(seconds, now)
    return sum(count for _, count in seconds)


def _forget(seconds: deque[tuple[int, int]], now: float) -> None:
    while seconds and seconds[0][0] <= now - WINDOW_S:
        seconds.popleft()
