"""The figures that others may scale by: names, and what they are at a moment. Pure.

Each is the sum over all workers of a resource, or a time, as `Signals` has it. What is not known is an error and no
number: an autoscaler then leaves everything as it is, and by a number that is too small it would take workers away.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from argosy_api.errors import NotFoundError, UnavailableError
from argosy_operator.autoscaling.signals import Signals

MINUTE_S = 60


@dataclass(frozen=True, slots=True)
class Figure:
    """One thing that is measured."""

    text: str
    of: Callable[[Signals], float | None]
    """None: there is nothing that could be measured now."""
    window_s: int | None = None
    """Over which it is a mean or a quantile; None: it is as it is at the moment."""
    without_workers: Callable[[Signals], float | None] = lambda _: None
    """Where no worker takes requests; None: it is not known then."""


def _ttft(signals: Signals) -> float | None:
    if signals.rare_ttft is not None:
        return signals.rare_ttft
    # nobody has waited for a first token: that is known, and no gap
    return 0.0 if signals.idle_s >= MINUTE_S else None


def _itl(signals: Signals) -> float | None:
    if signals.itl is not None:
        return signals.itl
    return None if signals.requests else 0.0


FIGURES: Mapping[str, Figure] = {
    "argosy-queue-seconds": Figure(
        "seconds of prompt work that wait at all workers together", lambda signals: signals.queue_s
    ),
    "argosy-arriving-seconds": Figure(
        "seconds of prompt work that come in a second: so many workers they keep busy",
        lambda signals: signals.arriving,
        MINUTE_S,
    ),
    "argosy-running": Figure(
        "requests, running and waiting, at all workers and in the routers", lambda signals: signals.requests
    ),
    "argosy-held": Figure(
        "requests that wait in the routers because no worker is there",
        lambda signals: signals.held,
        without_workers=lambda signals: signals.held,
    ),
    "argosy-kv-usage": Figure(
        "used parts of the KV caches of all workers, 0 to 1 each, added", lambda signals: signals.kv_used
    ),
    "argosy-ttft-seconds": Figure("90th percentile of the times to the first token", _ttft, MINUTE_S),
    "argosy-itl-seconds": Figure("90th percentile of the times between tokens, mean over the workers", _itl),
}


def figure(name: str) -> Figure:
    """The figure of this name.

    Raises:
        NotFoundError: there is none.

    """
    if name not in FIGURES:
        raise NotFoundError(f"there is no metric {name!r}; these are: {', '.join(FIGURES)}")
    return FIGURES[name]


def value(name: str, signals: Signals, *, from_zero: bool = False) -> float:
    """What a figure is now. `from_zero`: who asks may have taken all workers away, so that none is nothing unusual.

    Raises:
        NotFoundError: there is no such figure.
        UnavailableError: it is not known; the message says why.

    """
    wanted = figure(name)
    if not signals.sources:
        raise UnavailableError("no router has told anything about this resource in the last ten seconds")
    if not signals.complete:
        raise UnavailableError("not every router and worker tells how it is, and a part would be too little")
    if signals.serving:
        found = wanted.of(signals)
        if found is None:
            raise UnavailableError(f"{name}: too few requests in the last minute to tell")
        return found
    found = wanted.without_workers(signals)
    if found is None and from_zero and not signals.workers:
        found = wanted.of(signals)  # nobody is there, and so nothing waits or runs at them
        found = 0.0 if found is None else found
    if found is None:
        raise UnavailableError("no worker takes requests, so nothing can be measured")
    return found


def is_active(signals: Signals) -> bool:
    """Whether any worker is needed at all.

    Raises:
        UnavailableError: no request is known of, and not all routers and workers tell.

    """
    if signals.requests or signals.held:
        return True
    if not signals.complete:
        raise UnavailableError("not every router and worker tells how it is, so whether requests wait is not known")
    return False
