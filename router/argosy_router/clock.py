"""The one clock of the router."""

import time


def now() -> float:
    """Monotonic seconds."""
    return time.monotonic()
