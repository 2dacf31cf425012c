"""How many workers the present load wants, metric by metric. Pure, and more load never wants fewer."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from argosy_api.resource import AutoscalingSpec, MetricSpec
from argosy_operator.autoscaling.signals import Signals

HEADROOM = 0.85
"""Fewer workers are enough only where each would be at so much of its target: what is just enough now is too few in a
moment, and workers that go and come again cost more than they save."""
IDLE_S = 0.25
"""In a queue waiting times grow as busy time / idle time of those that serve. So who wants prompts computed within a
second has workers that are busy with them for 1 / (1 + 0.25) = 80 % of their time, who waits for ten seconds 98 %."""
NOTICE_S = 30.0
"""In which a worker that is asked for serves, about. Who accepts longer waits gets notice from the queue: where workers
are missing, waits grow to the target less this time, and one that is asked for then serves when they reach the target.
So of what comes in that part counts beforehand which cannot wait for the notice: all of it for a target of 30 s, half
of it for 60 s."""
_STEEPEST = 2.0
"""A time that is above its target does not tell how many workers are missing: at most twice as many are asked for."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """So many workers, and why."""

    workers: int
    why: str


def wanted(
    signals: Signals, spec: AutoscalingSpec, serving: int, *, burst_s: float | None = None, headroom: float = 1.0
) -> Wanted:
    """The number that meets every target, or with `headroom` below 1 that part of every target.

    `serving`: workers that the load is spread over now. `burst_s`: seconds of work that `queueSeconds` is to go by;
    None: what waits now.
    """
    waits = signals.queue_s if burst_s is None else burst_s
    least = Wanted(1, "some load") if signals.requests or signals.arriving else Wanted(0, "no load")
    return max((least, *_each(signals, spec, serving, waits, headroom)), key=lambda w: w.workers)


def _each(signals: Signals, spec: AutoscalingSpec, serving: int, waits: float, headroom: float) -> Iterator[Wanted]:
    for metric in spec.metrics:
        exact, why = _exact(metric, signals, serving, waits, headroom)
        # a hair above a whole number is rounding, not load
        yield Wanted(math.ceil(exact - 1e-9), why)


def _exact(metric: MetricSpec, signals: Signals, serving: int, waits: float, headroom: float) -> tuple[float, str]:
    target = metric.target * headroom
    match metric.type:
        case "queueSeconds":
            # what comes in keeps so many busy; on top come those that compute what waits within the target
            ahead = min(1.0, NOTICE_S / metric.target)
            busy = signals.arriving * ahead * (1 + IDLE_S / metric.target) / headroom
            why = f"{signals.queue_s:.1f} s of work wait and {signals.arriving:.2f} s come in a second"
            if abs(waits - signals.queue_s) >= 0.05:
                why += f"; a usual burst is {waits:.1f} s"
            return busy + waits / target, why
        case "running":
            return signals.requests / target, f"{signals.requests} requests run or wait"
        case "kvUsage":
            return signals.kv_used / target, f"{signals.kv_used:.2f} KV caches are used"
        case "ttft":
            return _by_time("time to first token", signals.ttft, serving, target)
        case "itl":
            return _by_time("time between tokens", signals.itl, serving, target)


def _by_time(name: str, seconds: float | None, serving: int, target: float) -> tuple[float, str]:
    if seconds is None:
        return 0.0, f"{name} is not known"
    # nor does one that is below it tell how many are too many: one, if what it costs the others is bearable
    exact = max(serving - 1.0, serving * min(_STEEPEST, seconds / target))
    return exact, f"{name} is {seconds:.3g} s"
