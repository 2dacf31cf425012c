"""How much work usually waits when any waits: what a burst is lately. Pure, and more that waits never says less.

Prompts come in bursts of very different sizes. Workers for the largest one of the last minutes would be idle in nearly
all others, and one that is started now is too late for the burst that asks for it. So what waits is put into relation
to what waited before: the mean over the recent past, in which each second counts as much as waited in it, which is what
work that waits finds beside itself. Quiet times do not lower it, and a single large burst does not set it.
"""

import math
from dataclasses import dataclass

CATCH_UP_S = 30.0
"""More than all workers compute within this time is no burst that is over before another worker serves: all of it
counts at once."""
GROWS = 3.0
"""A burst begins small; but what waits now stands for so many times itself at most, so that a few requests do not keep
workers for bursts that come no more."""
_STEP_S = 10.0
"""A look stands for the time since the one before it, but for no longer."""


@dataclass(frozen=True, slots=True)
class Bursts:
    """What waited, in seconds of work, with weights that fall by e within the window."""

    at: float | None = None
    """The last look, monotonic seconds."""
    waited: float = 0.0
    squares: float = 0.0
    usual: float = 0.0
    """Seconds of work in a usual burst, if what waits now is one."""


def after(bursts: Bursts, queue_s: float, *, workers: int, window_s: float, now: float) -> Bursts:
    """One look more: `queue_s` seconds of work wait at `workers` workers, with those that start."""
    since = 1.0 if bursts.at is None else min(max(now - bursts.at, 0.0), _STEP_S)
    kept = 0.0 if bursts.at is None else math.exp(-max(now - bursts.at, 0.0) / max(window_s, 1.0))
    before = _mean(bursts.squares, bursts.waited)
    waited = bursts.waited * kept + queue_s * since
    squares = bursts.squares * kept + queue_s * queue_s * since
    # the mean with what waits now, but a queue below the mean does not make a burst smaller while it grows
    mean = max(before, _mean(squares, waited)) if waited > 0 else queue_s
    usual = max(min(mean, GROWS * queue_s), queue_s - CATCH_UP_S * workers)
    return Bursts(now, waited, squares, usual)


def _mean(squares: float, waited: float) -> float:
    return squares / waited if waited > 0 else 0.0


NONE = Bursts()
