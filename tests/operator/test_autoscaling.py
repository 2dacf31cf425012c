"""How many workers: within bounds, never fewer for more load, steady under a sawtooth, still without news."""

import copy
import itertools
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st
from operator_kit import paths

from argosy_api import latency
from argosy_api.resource import AutoscalingSpec
from argosy_api.routes import Demand, DeploymentRoutes, Routes, RouteState, WorkerLoad, WorkerRoute
from argosy_operator.autoscaling import bursts, schedule
from argosy_operator.autoscaling.bursts import Bursts
from argosy_operator.autoscaling.decide import History, Standing, Why, decide_replicas
from argosy_operator.autoscaling.signals import NOTHING, Signals, Told, signals
from argosy_operator.autoscaling.victims import Worth, victims
from argosy_operator.autoscaling.wanted import wanted
from argosy_operator.observe import PodView


def spec(**fields) -> AutoscalingSpec:
    return AutoscalingSpec.model_validate({"maxReplicas": 10, **fields})


class Flown:
    """Decisions one after the other, on a clock of their own; workers serve at once, or when they are told to."""

    def __init__(self, autoscaling: AutoscalingSpec, replicas: int = 1, *, every: float = 2.0) -> None:
        self.spec, self.replicas, self.serving, self.every = autoscaling, replicas, replicas, every
        self.now, self.history = 1000.0, History()
        self.turns: list[tuple[float, int]] = []
        """When it went up (more than 0) or down."""
        self.last = None

    def fly(self, told: Signals, seconds: float = 0.0, *, serve: bool = True) -> int:
        until = self.now + seconds
        while True:
            standing = Standing(self.replicas, self.serving, self.spec.min_replicas)
            self.last = decide_replicas(told, self.spec, standing, self.history, self.now)
            self.history = self.last.history
            if self.last.replicas != self.replicas:
                self.turns.append((self.now, self.last.replicas - self.replicas))
            self.replicas = self.last.replicas
            self.serving = self.replicas if serve else min(self.serving, self.replicas)
            if self.now >= until:
                return self.replicas
            self.now += self.every


def _loads_():
    """Any signals."""
    return st.builds(
        Signals,
        complete=st.booleans(),
        sources=st.integers(0, 3),
        held=st.integers(0, 200),
        requests=st.integers(0, 500),
        queue_s=st.floats(0, 500),
        arriving=st.floats(0, 30),
        kv_used=st.floats(0, 12),
        ttft=st.none() | st.floats(0.001, 100),
        itl=st.none() | st.floats(0.001, 10),
        idle_s=st.floats(0, 1e6),
    )


BUSY = Signals(queue_s=6.0, requests=30)
QUIET = Signals()


def test_what_waits_is_computed_within_the_target():
    found = wanted(
        Signals(queue_s=6.0, arriving=0.8, requests=9), spec(metrics=[{"type": "queueSeconds", "target": 2}]), 1
    )
    assert found.workers == 4  # one for what comes in, three for six seconds within two
    assert "6.0 s of work wait" in found.why


@pytest.mark.parametrize(
    ("metric", "told", "serving", "workers"),
    [
        ({"type": "running", "target": 8}, Signals(requests=17), 2, 3),
        ({"type": "kvUsage", "target": 0.8}, Signals(requests=1, kv_used=2.5), 3, 4),
        ({"type": "ttft", "target": 0.5}, Signals(requests=1, ttft=0.75), 4, 6),
        ({"type": "ttft", "target": 0.5}, Signals(requests=1, ttft=50.0), 4, 8),  # not 400
        ({"type": "ttft", "target": 0.5}, Signals(requests=1, ttft=0.01), 4, 3),  # not 1
        ({"type": "ttft", "target": 0.5}, Signals(requests=1), 4, 1),
        ({"type": "itl", "target": 0.1}, Signals(requests=1, itl=0.2), 3, 6),
    ],
)
def test_each_metric_wants_workers(metric, told, serving, workers):
    assert wanted(told, spec(metrics=[metric]), serving).workers == workers


def test_who_is_content_with_longer_waits_has_workers_that_are_busier():
    told = Signals(arriving=8.0, requests=9)
    found = [wanted(told, spec(metrics=[{"type": "queueSeconds", "target": t}]), 1).workers for t in (0.25, 1, 2, 10)]
    assert found == [16, 10, 9, 9]


def test_who_accepts_longer_waits_than_a_start_takes_gets_the_notice_from_the_queue():
    """Of what comes in the part counts that cannot wait for it; what waits counts as ever."""
    coming, waiting = Signals(arriving=8.0, requests=9), Signals(arriving=8.0, queue_s=240.0, requests=9)
    for target, ahead, both in [(30, 9, 17), (60, 5, 9), (240, 2, 3)]:
        autoscaling = spec(metrics=[{"type": "queueSeconds", "target": target}])
        assert [wanted(told, autoscaling, 1).workers for told in (coming, waiting)] == [ahead, both]


def test_up_at_once_down_after_the_window_and_step_by_step():
    flown = Flown(spec(scaleDown={"stabilizationSeconds": 100, "periodSeconds": 30}))
    assert flown.fly(BUSY) == 5  # maxStep 4 at a time
    assert flown.last.why is Why.LOAD
    assert flown.fly(BUSY, 2) == 6
    began = flown.now
    assert flown.fly(QUIET, 98) == 6
    assert flown.last.why is Why.STABILIZING or flown.last.why is Why.STEADY
    flown.fly(QUIET, 400)
    downs = [at for at, by in flown.turns if by < 0]
    assert downs[0] - began >= 100
    assert all(by == -1 for _, by in flown.turns if by < 0)
    assert all(b - a >= 30 for a, b in itertools.pairwise(downs))
    assert flown.replicas == 1


def test_more_must_be_wanted_for_the_window_of_scale_up():
    flown = Flown(spec(scaleUp={"stabilizationSeconds": 20}))
    assert flown.fly(BUSY, 18) == 1
    assert flown.last.why is Why.STABILIZING
    assert flown.fly(BUSY, 4) > 1


def test_what_is_on_its_way_counts():
    """Workers that do not come are not asked for again and again."""
    flown = Flown(spec(scaleUp={"maxStep": 2, "maxPercent": 100}))
    assert flown.fly(BUSY, 600, serve=False) == 3
    assert flown.last.why is Why.LIMITED
    assert "2 are on their way" in flown.last.text


def test_fewer_only_where_the_rest_bears_the_load_with_room_to_spare():
    flown = Flown(spec(metrics=[{"type": "running", "target": 10}], scaleDown={"stabilizationSeconds": 10}), 3)
    assert flown.fly(Signals(requests=20), 60) == 3  # two would be just enough
    assert flown.fly(Signals(requests=17), 60) == 2


def test_without_news_it_stays():
    flown = Flown(spec(scaleDown={"stabilizationSeconds": 30}), 4)
    assert flown.fly(NOTHING, 1000) == 4
    assert flown.last.why is Why.NO_SIGNALS
    flown.fly(QUIET, 20)
    flown.fly(NOTHING, 60)  # after such a silence the window begins anew
    assert flown.fly(QUIET, 28) == 4
    assert flown.fly(QUIET, 10) == 3


def test_by_half_the_news_it_goes_up_and_not_down():
    half = Signals(complete=False, requests=3)
    flown = Flown(spec(scaleDown={"stabilizationSeconds": 30}), 4)
    flown.fly(half, 300)
    assert (flown.replicas, flown.last.why) == (4, Why.INCOMPLETE)
    assert flown.fly(Signals(complete=False, queue_s=6.0, requests=9)) == 6


def test_bounds_hold_without_news_too():
    assert Flown(spec(minReplicas=3), 1).fly(NOTHING) == 3
    assert Flown(spec(maxReplicas=3), 5).fly(NOTHING) == 3


# --- bursts


def burst(flown: Flown, queue: float, *, every: float = 60.0) -> int:
    """So much waits for 10 s, then nothing for the rest of the time; the most workers that it brought."""
    most = flown.fly(Signals(queue_s=queue, requests=9), 10)
    flown.fly(QUIET, every - 10)
    return most


def test_there_are_workers_for_usual_bursts_and_not_for_the_largest_one():
    flown = Flown(spec(maxReplicas=100, scaleUp={"maxStep": 100}))
    assert [burst(flown, 6.0) for _ in range(5)] == [6] * 5
    assert 6 < burst(flown, 30.0) < 25
    flown = Flown(spec(maxReplicas=100, scaleUp={"maxStep": 100}))
    assert burst(flown, 30.0) == 30  # as the first one is the usual one


def test_what_all_workers_do_not_get_through_is_no_burst():
    """The part of it that takes them longer than a start counts at once, whatever was usual."""
    before = Bursts(at=0.0, waited=1000.0, squares=4000.0)
    assert bursts.after(before, 300.0, workers=2, window_s=300, now=2.0).usual >= 300 - 2 * bursts.CATCH_UP_S
    assert bursts.after(before, 40.0, workers=2, window_s=300, now=2.0).usual < 20


def test_a_few_requests_do_not_keep_workers_for_bursts_that_come_no_more():
    flown = Flown(spec(scaleDown={"stabilizationSeconds": 60, "periodSeconds": 10}))
    assert burst(flown, 8.0) == 8
    assert flown.fly(Signals(queue_s=0.05, requests=1), 200) == 1


_looks = st.tuples(st.floats(0, 500), st.integers(0, 20), st.floats(0, 500))


@given(st.lists(_looks, max_size=20), _looks, st.floats(0, 500), st.sampled_from([0, 60, 3600]))
def test_more_that_waits_never_makes_a_burst_smaller(looks, last, more, window):
    lately, now = bursts.NONE, 0.0
    for queue, workers, pause in looks:
        now += pause
        lately = bursts.after(lately, queue, workers=workers, window_s=window, now=now)
        assert 0 <= lately.usual <= bursts.GROWS * queue
    queue, workers, pause = last
    least, most = (
        bursts.after(lately, waits, workers=workers, window_s=window, now=now + pause).usual
        for waits in (queue, queue + more)
    )
    assert most >= least * (1 - 1e-9)


# --- no worker at all

ZERO = {"minReplicas": 0, "scaleToZero": {"idleSeconds": 60, "holdSeconds": 30}}


def test_all_go_when_nobody_has_asked_for_long_enough_and_the_first_request_brings_one():
    flown = Flown(spec(**ZERO), 3)
    assert flown.fly(Signals(idle_s=59.0)) == 3
    assert flown.fly(Signals(idle_s=61.0)) == 0
    assert flown.last.why is Why.IDLE
    assert flown.fly(Signals(idle_s=62.0, arriving=0.3), 100) == 0  # what came in the minute before
    assert flown.fly(NOTHING, 100) == 0
    assert flown.fly(Signals(complete=False, idle_s=62.0), 10) == 0
    assert flown.fly(Signals(requests=100, held=100)) == 1
    assert flown.last.why is Why.WOKEN
    assert flown.fly(QUIET, 200) == 1


def test_the_last_one_stays_while_not_all_is_known():
    flown = Flown(spec(**ZERO), 1)
    assert flown.fly(Signals(complete=False, idle_s=1e6), 100) == 1
    assert flown.fly(NOTHING, 100) == 1
    assert flown.fly(Signals(idle_s=1e6, requests=1)) == 1


@given(st.lists(st.tuples(_loads_(), st.floats(0, 100)), max_size=20), st.integers(0, 5))
def test_without_a_request_that_waits_nothing_begins(news, first):
    flown = Flown(spec(**ZERO), first)
    for told, pause in news:
        before = flown.replicas
        after = flown.fly(told)
        if before == 0 and after > 0:
            assert told.requests
        if before > 0 and after == 0:
            assert told.complete
            assert told.idle_s >= 60
            assert not told.requests
        flown.now += pause


# --- every field has an effect

USUAL = {
    "minReplicas": 1, "maxReplicas": 9, "metrics": [{"type": "running", "target": 10}],
    "scaleUp": {"stabilizationSeconds": 10, "maxStep": 2, "maxPercent": 50},
    "scaleDown": {"stabilizationSeconds": 30, "maxStep": 2, "periodSeconds": 20},
    "schedule": [{"days": ["Mon"], "start": "08:00", "end": "18:00", "utcOffset": "+00:00", "minReplicas": 2}],
}  # fmt: skip
CHANGES = {
    "minReplicas": 3, "maxReplicas": 5, "metrics.0.type": "ttft", "metrics.0.target": 20,
    "scaleUp.stabilizationSeconds": 30, "scaleUp.maxStep": 3, "scaleUp.maxPercent": 400,
    "scaleDown.stabilizationSeconds": 60, "scaleDown.maxStep": 1, "scaleDown.periodSeconds": 40,
    "schedule.0.days": ["Sun"], "schedule.0.start": "11:00", "schedule.0.end": "09:00",
    "schedule.0.utcOffset": "+09:00", "schedule.0.minReplicas": 4,
}  # fmt: skip


def course(autoscaling: AutoscalingSpec) -> list[int]:
    """What becomes of a day's beginning: quiet, busy, quiet."""
    flown, seen = Flown(autoscaling, 1), []
    monday = datetime(2026, 6, 1, 10, tzinfo=UTC)
    flown.spec = autoscaling.model_copy(update={"min_replicas": schedule.least(autoscaling, monday)})
    for told in [QUIET] * 20 + [Signals(requests=80, ttft=30.0)] * 30 + [QUIET] * 200:
        seen.append(flown.fly(told))
        flown.now += 2.0
    return seen


TO_ZERO = {"scaleToZero.idleSeconds", "scaleToZero.holdSeconds"}
"""Tested above, and in the router's tests."""


def test_the_table_of_changes_is_complete():
    assert set(paths(AutoscalingSpec)) == set(CHANGES) | TO_ZERO


@pytest.mark.parametrize("path", CHANGES)
def test_every_field_has_an_effect(path):
    changed = copy.deepcopy(USUAL)
    *parents, last = path.split(".")
    at = changed
    for part in parents:
        at = at[int(part) if part.isdigit() else part]
    at[last] = CHANGES[path]
    assert course(spec(**changed)) != course(spec(**USUAL))


# --- properties

_loads = _loads_()
_metrics = st.lists(
    st.sampled_from(
        [
            {"type": "queueSeconds", "target": 1.0}, {"type": "running", "target": 12.0},
            {"type": "kvUsage", "target": 0.7}, {"type": "ttft", "target": 0.5}, {"type": "itl", "target": 0.1},
        ]
    ),
    min_size=1, max_size=5, unique_by=lambda m: m["type"],
)  # fmt: skip
_specs = st.builds(
    lambda low, span, metrics, up, down, step: spec(
        minReplicas=low, maxReplicas=low + span, metrics=metrics,
        scaleUp={"stabilizationSeconds": up, "maxStep": step},
        scaleDown={"stabilizationSeconds": down, "maxStep": step},
    ),
    st.integers(1, 5), st.integers(0, 20), _metrics, st.sampled_from([0, 10, 60]), st.sampled_from([10, 60, 300]),
    st.integers(1, 5),
)  # fmt: skip


@given(_specs, st.lists(st.tuples(_loads, st.floats(0, 200)), max_size=25), st.integers(0, 30))
def test_it_is_always_within_the_bounds(autoscaling, news, first):
    flown = Flown(autoscaling, first)
    for told, pause in news:
        assert autoscaling.min_replicas <= flown.fly(told) <= autoscaling.max_replicas
        flown.now += pause


def _at_least(more: Signals, less: Signals) -> bool:
    pairs = [(more.ttft, less.ttft), (more.itl, less.itl)]
    times = all(b is None or (a is not None and a >= b) for a, b in pairs)
    return times and all(
        getattr(more, name) >= getattr(less, name) for name in ("requests", "held", "queue_s", "arriving", "kv_used")
    )


@given(_specs, st.lists(st.tuples(_loads, st.floats(0, 100)), max_size=12), _loads, _loads, st.integers(1, 12))
def test_more_load_never_gets_fewer(autoscaling, before, one, other, first):
    """After any history."""
    most = Signals(
        complete=one.complete, sources=1, held=max(one.held, other.held), requests=max(one.requests, other.requests),
        queue_s=max(one.queue_s, other.queue_s), arriving=max(one.arriving, other.arriving),
        kv_used=max(one.kv_used, other.kv_used),
        ttft=max(filter(None, (one.ttft, other.ttft)), default=None),
        itl=max(filter(None, (one.itl, other.itl)), default=None),
    )  # fmt: skip
    least = Signals(**{name: getattr(one, name) for name in one.__slots__} | {"sources": 1})
    assert _at_least(most, least)
    flown = Flown(autoscaling, first)
    for told, pause in before:
        flown.fly(told)
        flown.now += pause
    standing = Standing(flown.replicas, flown.serving, autoscaling.min_replicas)
    args = (autoscaling, standing, flown.history, flown.now)
    assert decide_replicas(most, *args).replicas >= decide_replicas(least, *args).replicas


@given(st.integers(10, 55), st.floats(0.5, 20), st.sampled_from([60, 120, 300]), st.integers(1, 5))
def test_under_a_sawtooth_it_goes_one_way_in_a_window(half, queue, window, step):
    """The load comes and goes faster than the window: once up, it stays up."""
    flown = Flown(spec(scaleDown={"stabilizationSeconds": window, "maxStep": step}))
    for _ in range(12):
        flown.fly(Signals(queue_s=queue, requests=9), half / 2)
        flown.fly(QUIET, half / 2)
    assert not [by for _, by in flown.turns if by < 0]


@given(st.lists(st.tuples(_loads, st.floats(1, 100)), max_size=40), st.sampled_from([30, 120]))
def test_nothing_goes_within_a_window_after_something_came(news, window):
    flown = Flown(spec(scaleDown={"stabilizationSeconds": window}), every=5.0)
    for told, seconds in news:
        flown.fly(told, seconds)
    ups = [at for at, by in flown.turns if by > 0]
    for at, by in flown.turns:
        if by < 0:
            assert all(at - up >= window for up in ups if up < at)


@given(st.integers(0, 20), st.floats(0, 1e6))
def test_nothing_known_nothing_done(first, seconds):
    flown = Flown(spec(maxReplicas=20), first)
    held = flown.fly(NOTHING)
    flown.now += seconds
    assert flown.fly(NOTHING, 20) == held == max(1, first)


# --- what routers tell


def route(name: str, *, load: WorkerLoad | None = None, state=RouteState.READY, blocks: int = 0) -> WorkerRoute:
    return WorkerRoute(worker_id=name, revision="", state=state, indexed_blocks=blocks, load=load)


def load(age: float = 0.5, **fields) -> WorkerLoad:
    usual = {"requests": 2, "queue_s": 1.5, "kv_used": 0.25, "prefill_rate": 100.0, "itl_s": 0.0}
    return WorkerLoad(age_s=age, **{**usual, **fields})


def said(*workers: WorkerRoute, **demand) -> DeploymentRoutes:
    return DeploymentRoutes(
        namespace="d", name="m", served_name="m", policy="kvAware", workers=workers, demand=Demand(**demand)
    )


def test_routers_add_up_and_workers_count_once():
    one = said(
        route("a", load=load(0.2, requests=7)), route("b", load=load(2.0)), prompt_rate=30.0, held=1, ttft={8: 9}
    )
    two = said(
        route("a", load=load(0.9, requests=1)), route("b", load=load(0.1, itl_s=0.05)), prompt_rate=20.0, ttft={20: 1}
    )
    found = signals(Told(100.0, 2, [one, two]), 101.0)
    assert found.complete
    assert found.requests == 7 + 2 + 1
    assert found.queue_s == 3.0
    assert found.arriving == 0.5  # 50 tokens a second at 100 of each worker
    assert found.kv_used == 0.5
    assert found.itl == 0.05
    assert found.ttft == latency.end_of(8)


def test_what_is_old_or_missing_is_not_known():
    whole = said(route("a", load=load()))
    assert signals(None, 0.0) is NOTHING
    assert signals(Told(100.0, 1, [whole]), 111.0) is NOTHING
    assert not signals(Told(100.0, 2, [whole]), 100.0).complete  # a router that does not answer
    assert not signals(Told(100.0, 2, [whole, None]), 100.0).complete  # one that has not heard of it
    assert not signals(Told(100.0, 1, [said(route("a"))]), 100.0).complete  # a worker without a report
    assert not signals(Told(100.0, 1, [said(route("a", load=load(9.5)))]), 101.0).complete  # with an old one
    assert signals(Told(100.0, 1, [said(route("a", state=RouteState.CONNECTING))]), 100.0).complete


def test_a_router_says_it_in_one_document():
    whole = Routes((said(route("a", load=load()), held=3, ttft={4: 2}, idle_s=1.0, in_flight=3),))
    assert Routes.parse(whole.to_json()) == whole
    for bad in ('"held": -1', '"held": "x"', '"idle_s": NaN', '"idle_s": 1e999'):
        name = bad.split(":")[0]
        text = whole.to_json()
        at = text.index(name)
        with pytest.raises(ValueError):
            Routes.parse(text[:at] + bad + text[text.index(",", at) :])


@given(st.lists(st.floats(0, 1000), min_size=1), st.sampled_from([0.5, 0.9, 1.0]))
def test_a_quantile_is_near_and_never_too_low(times, share):
    counts = latency.added([{latency.bin_of(t): 1} for t in times])
    exact = sorted(times)[max(0, -(-int(share * 100) * len(times) // 100) - 1)]
    found = latency.quantile(counts, share)
    assert found >= min(exact, latency.end_of(latency.BINS - 1)) * (1 - 1e-9)
    assert found <= max(0.001, exact * 1.2)


# --- when, and who


def test_times_of_the_week():
    office = {"days": ["Mon", "Fri"], "start": "08:00", "end": "18:00", "utcOffset": "+01:00", "minReplicas": 4}
    night = {"start": "22:00", "end": "06:00", "minReplicas": 2}
    autoscaling = spec(schedule=[office, night])
    zone = timezone(timedelta(hours=1))

    def least(day: int, hour: int, minute: int = 0) -> int:
        return schedule.least(autoscaling, datetime(2026, 6, day, hour, minute, tzinfo=zone))

    assert least(1, 8) == 4  # a Monday
    assert least(1, 7, 59) == 1
    assert least(1, 18) == 1
    assert least(2, 9) == 1
    assert least(2, 23) == 2
    assert least(3, 6, 59) == 2  # 05:59 UTC, of the night that began on Tuesday
    assert least(3, 7) == 1


def test_who_has_least_to_lose_goes():
    pods = [PodView(name=n, ready=True, created_at=float(i)) for i, n in enumerate("abcd")]
    worth = {"a": Worth(0, 500), "b": Worth(3, 0), "c": Worth(0, 20), "d": Worth(0, 20)}
    assert [p.name for p in victims(pods, worth, 3)] == ["d", "c", "a"]
    starting = PodView(name="e", ready=False)
    assert [p.name for p in victims([*pods, starting], worth, 2)] == ["d"]
    assert victims([*pods, starting], worth, 1) == []
