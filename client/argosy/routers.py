"""Which router is asked next, and how often something may be asked once more. No I/O; may be shared by threads."""

import threading

from argosy_api.retries import RetryBudget

PASSED_OVER_S = 1.0
"""How long a router that failed is not the first choice."""


class Routers:
    """The routers of one client, in turn. Times are monotonic seconds."""

    def __init__(self, count: int) -> None:
        self._failed_at = [float("-inf")] * count
        self._turn = 0
        self._budget = RetryBudget()
        self._in_flight = 0
        self._lock = threading.Lock()

    def came(self, now: float) -> None:
        """A request begins; `went` ends it."""
        with self._lock:
            self._in_flight += 1
            self._budget.came(now)

    def went(self) -> None:
        """A request has ended."""
        with self._lock:
            self._in_flight -= 1

    def pick(self, now: float) -> int:
        """Each in its turn, without those that failed a moment ago; the one that failed first, where all did."""
        with self._lock:
            count = len(self._failed_at)
            order = [(self._turn + i) % count for i in range(count)]
            well = [i for i in order if now - self._failed_at[i] >= PASSED_OVER_S]
            picked = well[0] if well else min(order, key=self._failed_at.__getitem__)
            self._turn = (picked + 1) % count
            return picked

    def failed(self, router: int, now: float) -> bool:
        """It failed. Returns whether another one is believed to be well."""
        with self._lock:
            self._failed_at[router] = now
            return any(now - at >= PASSED_OVER_S for at in self._failed_at)

    def may_retry(self, now: float) -> bool:
        """Whether one more request may be sent once more; counts it then."""
        with self._lock:
            return self._budget.take(now, in_flight=self._in_flight)
