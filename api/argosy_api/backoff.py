"""How long to wait before the next try of something that failed. Pure, but for the jitter."""

import random
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """Seconds: `first` after the first failure, then twice as long after each one in a row, up to `cap`."""

    first: float
    cap: float

    def delay(self, failures: int) -> float:
        """The wait after so many failures in a row (at least 1)."""
        # the exponent is bounded, because a float overflows at 2**1024
        return min(self.cap, self.first * 2.0 ** min(max(0, failures - 1), 64))

    def jittered(self, failures: int) -> float:
        """Half of it to all of it, so that those who failed together do not all come back together."""
        return self.delay(failures) * random.uniform(0.5, 1.0)
