"""Whether a worker hangs, judged by its own step times. Pure.

A gap between tokens alone says little: steps with long prompts take their time, and a request that was preempted waits.
So a worker is suspected when none of its streams has had a token for longer than its steps take, and is then asked. It
hangs if it does not answer in time, or if it says that its engine has not come around for longer still.
"""

from collections.abc import Iterable

FLOOR_S = 0.75
"""No worker is suspected earlier, however short its steps: whoever shares its processor may have had it for so long."""
UNKNOWN_S = 5.0
"""Nor so early where neither it nor any of its peers has said yet how long steps take."""
CEILING_S = 10.0
"""Silence of this length is always looked into."""
ANSWER_S = 0.75
"""How long a suspected worker has to answer, at least: the event loop that answers does not wait for the engine."""
STUCK = 16.0
"""An engine that answers is given so many of its slow steps: it may compute a longer one than any before."""
LEAST_STUCK_S = 5.0


def patience(slow_step_s: float, others: Iterable[float] = ()) -> float:
    """Seconds without a token on any of its streams after which a worker is suspected: after a slow step.

    To suspect is cheap, it costs one question. `slow_step_s`: what the worker says that its slow steps take, in
    seconds; 0 while it has not said, as one that has just begun: then the slowest of the `others` is taken for it.
    """
    slow_step_s = slow_step_s or max(others, default=0.0)
    return min(CEILING_S, max(FLOOR_S, slow_step_s)) if slow_step_s > 0 else UNKNOWN_S


def answer_within(slow_step_s: float) -> float:
    """Seconds that a suspected worker has to answer: as long as a slow step, where that keeps it from answering."""
    return min(CEILING_S, max(ANSWER_S, slow_step_s))


def hangs(slow_step_s: float, step_age_s: float) -> bool:
    """Whether a worker hangs that answered that its engine has not come around for so long."""
    return step_age_s > max(LEAST_STUCK_S, STUCK * slow_step_s)
