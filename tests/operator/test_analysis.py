"""Whether a canary does well enough: the judgement, and the steps that follow from it."""

import pytest
from test_rollout import NOW, OLD, wanted, workers

from argosy_api.measures import BUCKETS, Measures, Trial, bucket, median
from argosy_api.spec.change import CanaryAnalysis
from argosy_operator.analysis import Judgement, judge
from argosy_operator.rollout import Phase, plan_rollout

LIMITS = CanaryAnalysis(min_requests=20, max_error_rate=0.1)


def measured(requests=100, *, errors=0, ttft=0.1, itl=0.01) -> Measures:
    made = Measures(requests=requests, errors=errors)
    made.ttft[bucket(ttft)] = made.itl[bucket(itl)] = requests - errors
    return made


@pytest.mark.parametrize("seconds", [0.0, 1e-5, 1e-4, 0.0013, 0.02, 0.5, 7.0, 100.0])
def test_a_median_is_right_within_five_percent(seconds):
    counts = [0] * BUCKETS
    counts[bucket(seconds)] = 9
    assert median(counts) == pytest.approx(max(seconds, 1e-4), rel=0.055)
    assert median([0] * BUCKETS) is None
    assert bucket(1e9) == BUCKETS - 1


@pytest.mark.parametrize(
    ("canary", "stable", "wanted", "word"),
    [
        (measured(), measured(), Judgement.PROMOTE, "as well"),
        (measured(ttft=0.14), measured(), Judgement.PROMOTE, "as well"),
        (measured(19), measured(), Judgement.HOLD, "19 requests"),
        (measured(), measured(19), Judgement.HOLD, "19 of the others"),
        (Measures(), Measures(), Judgement.HOLD, "0 requests"),
        (measured(ttft=0.2), measured(), Judgement.ROLLBACK, "first token"),
        (measured(itl=0.02), measured(), Judgement.ROLLBACK, "between tokens"),
        (measured(ttft=0.05, itl=0.001), measured(), Judgement.PROMOTE, "as well"),
        (measured(19, ttft=9.0), measured(), Judgement.HOLD, "19 requests"),
        (measured(errors=11), measured(), Judgement.ROLLBACK, "11 of its 100"),
        (measured(errors=10), measured(), Judgement.PROMOTE, "10 of 100"),
        (measured(3, errors=3), measured(), Judgement.ROLLBACK, "3 of its 3"),  # 17 good ones would not make up for it
        (measured(2, errors=2), measured(), Judgement.HOLD, "0 requests"),
        (measured(errors=30), measured(errors=40), Judgement.PROMOTE, "30 of 100"),  # it fails everywhere
    ],
)
def test_what_is_made_of_measures(canary, stable, wanted, word):
    verdict = judge(Trial("new", canary, stable), LIMITS)
    assert verdict.judgement is wanted
    assert word in verdict.message


def test_without_measures_nothing_is_decided():
    assert judge(None, LIMITS).judgement is Judgement.HOLD


def test_measures_of_routers_add_up():
    one, other = Trial("r", measured(10), measured(20)), Trial("r", measured(1, errors=1), measured(2))
    both = one.plus(other)
    assert (both.canary.requests, both.canary.errors, both.stable.requests) == (11, 1, 22)
    assert (sum(both.canary.ttft), sum(both.stable.itl)) == (10, 22)
    with pytest.raises(ValueError, match="measures"):
        Measures(ttft=[1]).check()


STEPS = {"strategy": "Canary", "canary": {"steps": [{"weight": 10, "pauseSeconds": 30}, {"weight": 50}]}}
GOOD_TRIAL = Trial("new", measured(), measured())


def decide(history, there, now, trial=GOOD_TRIAL, replicas=4, **rollout):
    want = wanted(replicas=replicas, **{**STEPS, **rollout})
    return plan_rollout(history, type(want)(**{**want_fields(want), "trial": trial}), there, now)


def want_fields(want):
    return {name: getattr(want, name) for name in ("revision", "templates", "replicas", "rollout")}


def test_a_canary_goes_from_step_to_step_and_then_for_all():
    old = workers("old", 4)
    begun = decide((OLD,), old, NOW)
    assert (begun.phase, begun.stable, begun.stable_replicas, begun.canary, begun.canary_replicas, begun.weight) == (
        Phase.CANARY, "old", 4, "new", 1, 10,
    )  # fmt: skip
    there = [*old, *workers("new", 1, track="canary")]
    first = decide(begun.history, there, NOW + 10)
    assert (first.weight, first.due) == (10, 30)
    assert "Step 1 of 2: 10 % of the requests" in first.message
    assert decide(first.history, there, NOW + 39).weight == 10
    held = decide(first.history, there, NOW + 1e6, Trial("new", measured(3), measured()))
    assert held.weight == 10  # for as long as there is too little to judge by
    assert "3 requests of the canary" in held.message
    second = decide(first.history, there, NOW + 40)
    assert (second.weight, second.canary_replicas) == (50, 2)
    waiting = decide(second.history, there, NOW + 1000)
    assert "being started" in waiting.message
    there = [*old, *workers("new", 2, track="canary")]
    last = decide(waiting.history, there, NOW + 1000)
    done = decide(last.history, there, NOW + 1060)
    assert (done.phase, done.stable, done.stable_replicas, done.weight) == (Phase.ROLLING, "new", 4, None)
    rolled = decide(done.history, [*workers("new", 4), *workers("new", 2, track="canary")], NOW + 1100)
    assert (rolled.phase, rolled.current, rolled.canary_replicas) == (Phase.COMPLETE, "new", 0)


def test_a_canary_that_does_ill_is_taken_back():
    there = [*workers("old", 4), *workers("new", 1, track="canary")]
    first = decide((OLD,), there, NOW)
    back = decide(first.history, there, NOW + 1, Trial("new", measured(ttft=0.3), measured()))
    assert (back.phase, back.stable, back.canary_replicas, back.weight) == (Phase.ROLLED_BACK, "old", 0, None)
    assert "Step 1 of 2, 10 % of the requests: Its median time to the first token" in back.message
    assert decide(back.history, there, NOW + 1e6).phase is Phase.ROLLED_BACK


def test_the_first_revision_and_a_way_back_are_no_canaries():
    assert decide((), (), NOW).phase is Phase.ROLLING
    there = [*workers("old", 4), *workers("new", 1, track="canary")]
    first = decide((OLD,), there, NOW)
    want = wanted("old", 4, **STEPS)
    assert plan_rollout(first.history, want, there, NOW).phase is Phase.COMPLETE
    assert decide((OLD,), (), NOW, replicas=0).phase is Phase.ROLLING
