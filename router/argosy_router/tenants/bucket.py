"""A token bucket that may go into debt: how much may be used on average. Pure; times are monotonic seconds."""

BURST_S = 10.0
"""What was not used in so many seconds may be used at once."""


class Bucket:
    """Holds `BURST_S` times the rate, or `least` where that is more, and fills at the rate.

    Whoever comes while it holds something gets what he asks for, and leaves a debt if that is more: a request that is
    larger than the bucket is served, and those after it wait the longer.
    """

    def __init__(self, per_second: float, now: float, *, least: float = 1.0) -> None:
        self.per_second = per_second
        self._least = least
        self._at = now
        self._holds = self.capacity

    @property
    def capacity(self) -> float:
        """The most that it holds."""
        return max(self._least, BURST_S * self.per_second)

    def follow(self, per_second: float, now: float) -> None:
        """Another rate from now on."""
        if per_second != self.per_second:
            self._fill(now)
            self.per_second = per_second
            self._holds = min(self._holds, self.capacity)

    def wait(self, now: float) -> float:
        """Seconds until something may be taken; 0: now."""
        self._fill(now)
        # as much as a whole request, or what there can be at most
        lacking = min(self._least, self.capacity) - self._holds
        return max(0.0, lacking / self.per_second)

    def take(self, count: float, now: float) -> None:
        """Used, whether or not there is so much."""
        self._fill(now)
        self._holds -= count

    def _fill(self, now: float) -> None:
        if now > self._at:
            self._holds = min(self.capacity, self._holds + (now - self._at) * self.per_second)
            self._at = now
