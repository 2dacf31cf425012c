"""Each request checks the index: what it predicted, against what the worker found."""

from argosy_router.clock import now
from argosy_router.metrics import Metrics
from argosy_router.routing.dispatch import Decision
from argosy_router.routing.job import Job


def compare(job: Job, decision: Decision, found: int, metrics: Metrics) -> None:
    """`found`: prompt tokens that the worker had cached. Counts nothing where they say nothing of the index."""
    computed_anew = job.params.prompt_logprobs is not None or job.resumption is not None or job.embeds
    if decision.policy != "kvAware" or decision.source or computed_anew:
        return
    job.deployment.truth.compared(predicted=decision.cached, found=found, now=now())
    name = job.deployment.name
    if found < decision.cached:
        metrics.missed.labels(name).inc(decision.cached - found)
    elif found > decision.cached:
        metrics.unforeseen.labels(name).inc(found - decision.cached)
