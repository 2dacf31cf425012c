"""What clients ask of a deployment, counted over the last minute: what the operator scales it by.

Pure: the caller gives the time (monotonic seconds).
"""

from collections import deque
from dataclasses import dataclass, field

from argosy_api import latency
from argosy_api.routes import Demand

WINDOW_S = 60.0
HELD_S = 3.0
"""That a request was held is told for so long at least, so that who asks once in a while hears of it."""
_PART_S = 5.0
"""The window moves on by so much at a time."""
_PARTS = round(WINDOW_S / _PART_S)


@dataclass(slots=True)
class _Part:
    number: int
    tokens: int = 0
    ttft: dict[int, int] = field(default_factory=dict)


class DemandBooks:
    """The books of one deployment in one router."""

    def __init__(self) -> None:
        self._held = 0
        self._held_at = float("-inf")
        self._in_flight = 0
        self._last: float | None = None
        """When the last request came or ended; None: not since the books were opened."""
        self._opened: float | None = None
        self._parts: deque[_Part] = deque()

    @property
    def in_flight(self) -> int:
        """Requests on their way."""
        return self._in_flight

    def came(self, now: float) -> None:
        """A request begins its way."""
        self._in_flight += 1
        self._last = now

    def went(self, now: float) -> None:
        """It has ended, in whatever way."""
        self._in_flight -= 1
        self._last = now

    def held(self, change: int, now: float) -> None:
        """One more request (1) or one less (-1) waits because no worker is there."""
        self._held += change
        self._held_at = now
        if change > 0:
            self.came(now)
        else:
            self.went(now)

    def prompt(self, uncached: int, now: float) -> None:
        """A worker was given a prompt with so many tokens to compute."""
        self._part(now).tokens += uncached

    def first_token(self, seconds: float, now: float) -> None:
        """A request got its first token, so many seconds after it came."""
        counts = self._part(now).ttft
        place = latency.bin_of(seconds)
        counts[place] = counts.get(place, 0) + 1

    def told(self, now: float) -> Demand:
        """What a router says of it."""
        if self._opened is None:
            self._opened = now
        self._forget(now)
        since = self._last if self._last is not None else self._opened
        # a window that has only begun is not taken for a quiet one
        length = min(WINDOW_S, max(_PART_S, now - self._opened))
        return Demand(
            # who gave up a moment ago would have liked a worker, too
            held=self._held or int(now - self._held_at < HELD_S),
            in_flight=self._in_flight,
            idle_s=0.0 if self._in_flight else max(0.0, now - since),
            prompt_rate=sum(part.tokens for part in self._parts) / length,
            ttft=latency.added([part.ttft for part in self._parts]),
        )

    def _part(self, now: float) -> _Part:
        if self._opened is None:
            self._opened = now
        number = int(now // _PART_S)
        if not self._parts or self._parts[-1].number != number:
            self._parts.append(_Part(number))
            self._forget(now)
        return self._parts[-1]

    def _forget(self, now: float) -> None:
        oldest = int(now // _PART_S) - _PARTS
        while self._parts and self._parts[0].number <= oldest:
            self._parts.popleft()
