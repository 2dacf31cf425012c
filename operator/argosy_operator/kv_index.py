"""Whether what routers know of the workers' caches is true, by what they say themselves. Pure."""

from collections.abc import Iterable
from functools import reduce
from operator import add

from argosy_api.routes import DeploymentRoutes, IndexTruth
from argosy_operator.diagnose import Reason

LEAST_TOKENS = 4096
"""Of prompts, that were predicted or found: fewer say nothing."""
MOST_MISSED = 0.2
"""Of what was predicted."""
MOST_UNFORESEEN = 0.5
"""Of what was found. An index lags behind its workers by a moment, so siblings find more than was known."""

Judgement = tuple[str, Reason, str]
"""Status, reason and message of a condition. No number in it changes with every request: each change is a write."""


def together(answers: Iterable[DeploymentRoutes]) -> Judgement | None:
    """Of what all routers say of one resource; None: nothing is predicted for it."""
    told = [answer.index for answer in answers if answer.index is not None]
    return judge(reduce(add, told)) if told else None


def judge(truth: IndexTruth) -> Judgement:
    """`truth`: of all routers together, in the last minutes."""
    if max(truth.predicted, truth.found) < LEAST_TOKENS:
        return "Unknown", Reason.NOT_OBSERVED, "Too few prompt tokens were in caches in the last minutes to tell."
    if truth.missed > MOST_MISSED * truth.predicted:
        message = (
            "Of the prompt tokens that routers expected in workers' caches in the last five minutes more than "
            f"{MOST_MISSED:.0%} were not there: blocks are evicted before they are used again "
            "(engine.kvCacheMemory), or events of workers do not reach the routers."
        )
        return "False", Reason.PREDICTIONS_MISSED, message
    if truth.unforeseen > MOST_UNFORESEEN * truth.found:
        message = (
            "Of the prompt tokens that workers had cached in the last five minutes routers did not know more than "
            f"{MOST_UNFORESEEN:.0%}: events of workers do not reach the routers, whose logs say why."
        )
        return "False", Reason.INDEX_BLIND, message
    return "True", Reason.INDEXED, "What routers expect in workers' caches is there."
