"""How long to wait before something that ended is started again. Pure."""

from dataclasses import dataclass
from enum import Enum

HEALTHY_S = 60.0
"""Running healthily for this long makes earlier failures forgotten."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """Seconds before a restart: `first`, then twice as long each time, up to `cap`."""

    first: float
    cap: float


class Kind(Enum):
    """Why it ended, as far as the delay is concerned."""

    CRASH = Curve(first=0.2, cap=30.0)
    """Killed or crashed: a new try may well succeed, so the first one is quick."""
    MODEL = Curve(first=10.0, cap=300.0)
    """The model cannot be loaded: the same will happen again until somebody changes something."""


@dataclass(frozen=True, slots=True)
class Backoff:
    """Failures in a row, and the delay that they earned."""

    failures: int = 0
    delay_s: float = 0.0


def after_exit(before: Backoff, kind: Kind, *, healthy_s: float) -> Backoff:
    """The next state, for a process that ended after it had been healthy for `healthy_s` (0: it never was)."""
    failures = 1 if healthy_s >= HEALTHY_S else before.failures + 1
    curve = kind.value
    # the exponent is bounded, because a float overflows at 2**1024
    return Backoff(failures, min(curve.cap, curve.first * 2.0 ** min(failures - 1, 32)))
