"""How many workers there should be: a pure function of signals, spec, history and time.

As the HorizontalPodAutoscaler it keeps what was wanted over a window: it goes up by the least of the short window, down
by the most of the long one. Other than that one it reckons in seconds of work, goes down only where the rest would bear
the load with room to spare, does nothing by what it does not know, counts what is on its way, and has workers for usual
bursts, not for the largest one.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from argosy_api.resource import AutoscalingSpec
from argosy_operator.autoscaling import bursts
from argosy_operator.autoscaling.bursts import Bursts
from argosy_operator.autoscaling.signals import REPORT_GOOD_S, Signals
from argosy_operator.autoscaling.wanted import HEADROOM, Wanted, wanted


class Why(StrEnum):
    """Reasons of a decision, for programs."""

    LOAD = "Load"
    LESS_LOAD = "LessLoad"
    IDLE = "Idle"
    """No request for so long that no worker is needed."""
    WOKEN = "Woken"
    """A request waits, and no worker is there."""
    BOUNDS = "Bounds"
    """The number was outside of minReplicas, maxReplicas or the schedule."""
    STEADY = "Steady"
    STABILIZING = "Stabilizing"
    LIMITED = "Limited"
    """More is wanted than may be on its way at a time, or fewer than may go in a period."""
    AT_MAXIMUM = "AtMaximum"
    NO_SIGNALS = "NoSignals"
    """Nothing is known: the number stays."""
    INCOMPLETE = "IncompleteSignals"
    """Not all is known: it may go up, not down."""


@dataclass(frozen=True, slots=True)
class Glance:
    """What was wanted at one moment (monotonic seconds)."""

    at: float
    up: int
    """For every target to be met."""
    down: int
    """For every target to be met with room to spare."""


@dataclass(frozen=True, slots=True)
class Change:
    """A number that was changed."""

    at: float
    before: int
    after: int


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """What a decision needs of those before it. A new operator begins with none, and so waits for a whole window."""

    since: float | None = None
    """Since when signals came without a break."""
    glances: tuple[Glance, ...] = ()
    """Of the longer window; of equal ones in a row only the ends."""
    changes: tuple[Change, ...] = ()
    """Of the longer period."""
    bursts: Bursts = bursts.NONE
    """What waited while signals came."""


@dataclass(frozen=True, slots=True)
class Standing:
    """What there is."""

    replicas: int
    """That were asked for last."""
    serving: int
    """That take requests."""
    least: int
    """minReplicas, or what the time of the week wants."""


@dataclass(frozen=True, slots=True)
class Decision:
    """A number, why, and what to remember for the next one."""

    replicas: int
    why: Why
    text: str
    history: History


def decide_replicas(
    signals: Signals, spec: AutoscalingSpec, standing: Standing, history: History, now: float
) -> Decision:
    """Decide. Total: it raises for nothing.

    `now`: monotonic seconds, never less than at the decision before.
    """
    most = max(spec.max_replicas, standing.least)
    before = standing.replicas
    history = _remember(history, signals, spec, standing, now)
    bounded = min(max(before, standing.least), most)
    if bounded != before:
        text = f"from {standing.least} to {most} are allowed now"
        return _changed(bounded, before, Why.BOUNDS, text, history=history, now=now)
    if not signals.sources:
        return Decision(before, Why.NO_SIGNALS, "no router tells anything", history)
    if standing.least == 0 and (found := _to_zero_or_back(signals, spec, before)) is not None:
        after, why, text = found
        return _changed(after, before, why, text, history=history, now=now)
    if before == 0:
        return Decision(0, Why.STEADY, "no request waits", history)
    up, down = _windows(history, spec, now)
    down = max(1, down)  # the last one goes when nobody asks, not when little is asked
    if up > before:
        return _up(signals, spec, standing, history, up=min(up, most), now=now)
    if down >= before or before <= standing.least:
        return Decision(before, *_as_it_is(signals, spec, standing, history.bursts), history)
    if not signals.complete:
        return Decision(before, Why.INCOMPLETE, "not every router and worker tells how it is", history)
    if history.since is None or now - history.since < spec.scale_down.stabilization_seconds:
        return Decision(before, Why.STABILIZING, f"{down} have not been enough for long enough", history)
    return _down(signals, spec, standing, history, down=max(down, standing.least), now=now)


def _to_zero_or_back(signals: Signals, spec: AutoscalingSpec, before: int) -> tuple[int, Why, str] | None:
    """A change to no worker at all, or to the first one; None: there is no reason for either."""
    if before == 0 and signals.requests:
        return 1, Why.WOKEN, f"{signals.held} requests wait, and no worker is there"
    rules = spec.scale_to_zero
    quiet = signals.complete and not signals.requests and rules is not None and signals.idle_s >= rules.idle_seconds
    if before and quiet:
        return 0, Why.IDLE, f"no request came or ran for {signals.idle_s:.0f} s"
    return None


def _remember(history: History, signals: Signals, spec: AutoscalingSpec, standing: Standing, now: float) -> History:
    period = spec.scale_down.period_seconds
    changes = tuple(c for c in history.changes if now - c.at < period)
    if not signals.complete:
        last = history.glances[-1].at if history.glances else float("-inf")
        if now - last > REPORT_GOOD_S:  # a longer silence: what was before it is no window any more
            history = replace(history, since=None, glances=(), bursts=bursts.NONE)
        if not signals.sources:
            return replace(history, changes=changes)
    window = max(spec.scale_up.stabilization_seconds, spec.scale_down.stabilization_seconds)
    lately = bursts.after(
        history.bursts,
        signals.queue_s,
        workers=max(standing.replicas, standing.serving),
        window_s=spec.scale_down.stabilization_seconds,
        now=now,
    )
    up, down = (_wanted(signals, spec, standing, lately, headroom=part).workers for part in (1.0, HEADROOM))
    glance = Glance(now, up, down)
    kept = _with(tuple(g for g in history.glances if now - g.at <= window), glance)
    since = history.since if history.since is not None or not signals.complete else now
    return History(since=since, glances=kept, changes=changes, bursts=lately)


def _wanted(
    signals: Signals, spec: AutoscalingSpec, standing: Standing, lately: Bursts, *, headroom: float = 1.0
) -> Wanted:
    return wanted(signals, spec, max(1, standing.serving), burst_s=lately.usual, headroom=headroom)


def _with(glances: tuple[Glance, ...], new: Glance) -> tuple[Glance, ...]:
    """One more; of three equal ones in a row the middle one says nothing."""
    if len(glances) >= 2 and all((g.up, g.down) == (new.up, new.down) for g in glances[-2:]):
        glances = glances[:-1]
    return (*glances, new)


def _windows(history: History, spec: AutoscalingSpec, now: float) -> tuple[int, int]:
    """The least that was wanted in the short window, the most that was in the long one."""
    ups = _of(history.glances, spec.scale_up.stabilization_seconds, now)
    downs = _of(history.glances, spec.scale_down.stabilization_seconds, now)
    if spec.scale_up.stabilization_seconds and now - history.glances[0].at < spec.scale_up.stabilization_seconds:
        return 0, max(g.down for g in downs)  # it has not been wanted for so long
    return min(g.up for g in ups), max(g.down for g in downs)


def _of(glances: Sequence[Glance], seconds: int, now: float) -> Sequence[Glance]:
    return [g for g in glances if now - g.at < seconds] or glances[-1:]


def _up(
    signals: Signals, spec: AutoscalingSpec, standing: Standing, history: History, *, up: int, now: float
) -> Decision:
    rules, before = spec.scale_up, standing.replicas
    way = max(rules.max_step, standing.serving * rules.max_percent // 100)
    after = min(up, max(before, standing.serving + way))
    why = _wanted(signals, spec, standing, history.bursts).why
    if after <= before:
        if up <= before:
            return Decision(before, Why.AT_MAXIMUM, f"{why}; no more are allowed", history)
        return Decision(before, Why.LIMITED, f"{why}; {before - standing.serving} are on their way", history)
    return _changed(after, before, Why.LOAD, why, history=history, now=now)


def _down(
    signals: Signals, spec: AutoscalingSpec, standing: Standing, history: History, *, down: int, now: float
) -> Decision:
    before, why = standing.replicas, _wanted(signals, spec, standing, history.bursts, headroom=HEADROOM).why
    gone = sum(c.before - c.after for c in history.changes if c.after < c.before)
    after = max(down, before - max(0, spec.scale_down.max_step - gone))
    if after >= before:
        return Decision(before, Why.LIMITED, f"{gone} went within {spec.scale_down.period_seconds} s", history)
    return _changed(after, before, Why.LESS_LOAD, f"{why}; {down} would do", history=history, now=now)


def _as_it_is(signals: Signals, spec: AutoscalingSpec, standing: Standing, lately: Bursts) -> tuple[Why, str]:
    found = _wanted(signals, spec, standing, lately)
    if found.workers > standing.replicas:
        if standing.replicas >= spec.max_replicas:
            return Why.AT_MAXIMUM, f"{found.why}; no more are allowed"
        return Why.STABILIZING, f"{found.why}; more have not been wanted for long enough"
    return Why.STEADY, found.why


def _changed(after: int, before: int, why: Why, text: str, *, history: History, now: float) -> Decision:
    changes = (*history.changes, Change(now, before, after))
    return Decision(after, why, text, replace(history, changes=changes))
