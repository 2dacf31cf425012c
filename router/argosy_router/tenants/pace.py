"""How many answers begin in a second while more are wanted than workers can take. Pure; times are monotonic seconds.

Only what is measured while there is contention says what workers can do; before, it says what clients wanted.
"""

from collections import deque

WINDOW_S = 5.0
LEAST_S = 1.0
"""Of contention before anything is said."""


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
        if self._since is None or now - self._since < LEAST_S:
            return None
        while self._begun and now - self._begun[0] > WINDOW_S:
            self._begun.popleft()
        return max(1, len(self._begun)) / min(WINDOW_S, now - self._since)
