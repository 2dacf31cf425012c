"""How many answers begin in a second while more are wanted than workers can take. Pure; times are monotonic seconds.

Only what is measured while there is contention says what workers can do; before, it says what clients wanted. A few
seconds in which nothing begins say little: so it is when a worker has died, and those that are left take its requests.
"""

from collections import deque

WINDOW_S = 5.0
LEAST_S = 1.0
"""Of contention before anything is said."""
FEW = 5
"""Answers that have begun, of which the latest are reckoned with however long ago that was."""
STALL_S = 20.0
"""Of contention in which fewer than that have begun before anything is said."""


class Pace:
    """Of one deployment."""

    def __init__(self) -> None:
        self._since: float | None = None
        self._begun: deque[float] = deque()

    def contended(self, *, yes: bool, now: float) -> None:
        """Whether more is wanted than workers can take."""
        if not yes:
            self._since = None
            self._begun.clear()
        elif self._since is None:
            self._since = now

    def began(self, now: float) -> None:
        """An answer's first token has come."""
        if self._since is not None:
            self._begun.append(now)

    def rate(self, now: float) -> float | None:
        """Answers that begin in a second; None where that is not known."""
        if self._since is None or (measured := now - self._since) < LEAST_S:
            return None
        begun = self._begun
        while len(begun) > FEW and now - begun[0] > WINDOW_S:
            begun.popleft()
        if len(begun) < FEW:
            return None if measured < STALL_S else max(1, len(begun)) / measured
        return len(begun) / min(measured, max(WINDOW_S, now - begun[0]))
