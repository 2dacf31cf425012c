"""What routers tell of one resource, put together: nothing is counted twice, and what is not known is said to be so.

Each router tells what clients asked of it, and these add up. Every router has the report of every worker, which counts
what all routers sent there: of each worker the freshest one counts, once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from argosy_api import latency
from argosy_api.routes import DeploymentRoutes, WorkerLoad

REPORT_GOOD_S = 10.0
"""An older report of a worker, or answer of a router, says nothing any more."""
_SHARE = 0.9
_ENOUGH = 10
"""Requests with a first token in the last minute, below which a quantile of them says nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Signals:
    """All of it at one moment."""

    complete: bool = True
    """Every router has answered, and every worker that takes requests has reported: it may be scaled down by this."""
    sources: int = 1
    """Routers and workers that told something; with none there is nothing to go by."""
    held: int = 0
    """Requests that routers hold because no worker is there."""
    requests: int = 0
    """At workers, running and waiting, and those held."""
    queue_s: float = 0.0
    """Seconds of work that wait at all workers together."""
    arriving: float = 0.0
    """Seconds of prompt work that come in a second: so many workers it keeps busy."""
    kv_used: float = 0.0
    """Used parts of the KV caches of all workers, added."""
    ttft: float | None = None
    """Seconds; None: too few requests to tell."""
    itl: float | None = None
    """Seconds, mean over the workers that generate; None: none does."""
    idle_s: float = 0.0
    """Since the last request came or ended; 0 while one is on its way."""
    workers: int = 0
    """That routers know of, in whatever state."""
    serving: int = 0
    """Of these, take requests."""
    rare_ttft: float | None = None
    """As `ttft`, also of a few requests; None: there were none."""
    age_s: float = 0.0
    """Of the oldest part of it."""


@dataclass(frozen=True, slots=True)
class Told:
    """What one round of questions to all routers brought."""

    at: float
    """When (monotonic seconds)."""
    asked: int
    answers: Sequence[DeploymentRoutes | None]
    """Of those that answered; None: this one does not know the resource (yet)."""


NOTHING = Signals(complete=False, sources=0)


def signals(told: Told | None, now: float) -> Signals:
    """Put one round's answers together."""
    if told is None or now - told.at > REPORT_GOOD_S:
        return NOTHING
    known = [answer for answer in told.answers if answer is not None and answer.demand is not None]
    demands = [answer.demand for answer in known if answer.demand is not None]
    if not demands:
        return NOTHING
    loads = freshest(known, now - told.at)
    serving = frozenset[str]().union(*(answer.ready for answer in known))
    rates = [load.prefill_rate for load in loads.values() if load.prefill_rate > 0]
    prompts = sum(demand.prompt_rate for demand in demands)
    ttft = latency.added([demand.ttft for demand in demands])
    gaps = [load.itl_s for load in loads.values() if load.itl_s > 0]
    held = sum(demand.held for demand in demands)
    return Signals(
        complete=len(demands) == told.asked and serving <= loads.keys(),
        sources=len(demands) + len(loads),
        held=held,
        requests=held + sum(load.requests for load in loads.values()),
        queue_s=sum(load.queue_s for load in loads.values()),
        # while no worker has measured its speed, the queue alone tells
        arriving=prompts * len(rates) / sum(rates) if rates else 0.0,
        kv_used=sum(load.kv_used for load in loads.values()),
        ttft=latency.quantile(ttft, _SHARE) if sum(ttft.values()) >= _ENOUGH else None,
        itl=sum(gaps) / len(gaps) if gaps else None,
        idle_s=min(demand.idle_s for demand in demands),
        workers=len({worker.worker_id for answer in known for worker in answer.workers}),
        serving=len(serving),
        rare_ttft=latency.quantile(ttft, _SHARE),
        age_s=now - told.at + max((load.age_s for load in loads.values()), default=0.0),
    )


def freshest(answers: Sequence[DeploymentRoutes], since: float) -> Mapping[str, WorkerLoad]:
    """Of each worker the newest report, unless that is too old by now, `since` seconds after the routers answered."""
    found: dict[str, WorkerLoad] = {}
    for answer in answers:
        for worker in answer.workers:
            load, other = worker.load, found.get(worker.worker_id)
            if load is None or load.age_s + since > REPORT_GOOD_S:
                continue
            if other is None or load.age_s < other.age_s:
                found[worker.worker_id] = load
    return found
