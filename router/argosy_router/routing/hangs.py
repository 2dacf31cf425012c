"""Whether a worker hangs, judged by its own step times. Pure.

A gap between tokens alone says little: steps with long prompts take their time, and a request that was preempted waits.
So a worker is suspected when none of its streams has had a token for longer than its steps take, and is then asked. It
hangs if it does not answer within ANSWER_S, or if it says that its engine has not come around for longer still.
"""

from collections.abc import Iterable

FLOOR_S = 0.75
"""No worker is suspected earlier, however short its steps: whoever shares its processor may have had it for so long."""
STEPS = 4.0
"""Nor within so many of its slow steps."""
UNKNOWN_S = 5.0
"""Nor so early where neither it nor any of its peers has said yet how long steps take."""
CEILING_S = 10.0
"""Silence of this length is always looked into."""
ANSWER_S = 0.75
"""How long a suspected worker has to answer: the event loop that answers does not wait for the engine."""
STUCK = 4.0
"""An engine that answers is given so many times the suspect silence: it may compute a longer step than any before."""
LEAST_STUCK_S = 5.0


def patience(slow_step_s: float, others: Iterable[float] = ()) -> float:
    """Seconds without a token on any of its streams after which a worker is suspected.

    `slow_step_s`: what it says that its slow steps take, in seconds; 0 while it has not said, as one that has just
    begun: then the slowest of the `others` is taken for it.
    """
    slow_step_s = slow_step_s or max(others, default=0.0)
    if slow_step_s <= 0:
        return UNKNOWN_S
    return min(CEILING_S, max(FLOOR_S, STEPS * slow_step_s))


def hangs(patience_s: float, *, answered: bool, step_age_s: float = 0.0) -> bool:
    """Whether a suspected worker hangs: what it said to the question, if anything."""
    return not answered or step_age_s > max(LEAST_STUCK_S, STUCK * patience_s)
