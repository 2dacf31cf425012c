"""Fewer replica-seconds than by counting requests, at an equal or better share in time (`benchmarks/autoscaling_model.py`)."""

import dataclasses
import random
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import autoscaling_model as model
import autoscaling_scalers as scalers
from autoscaling_foresight import Foresight, constants
from autoscaling_model import Ask, Replay, Setting
from autoscaling_traces import half, reordered

SETTING = Setting(rate=4000.0, ttft_s=5.0, first=2)


def bursts(seed: int) -> list[Ask]:
    """Half an hour of short and long prompts, alone and in bursts, as in recorded traces: sizes differ a hundredfold."""
    rng = random.Random(seed)
    asks, at = [], 0.0
    while at < 1800.0:
        at += rng.expovariate(0.5)
        count = rng.randrange(5, 40) if rng.random() < 0.04 else 1
        asks += [
            Ask(at + i / 50, min(7400, int(rng.lognormvariate(7.0, 1.2)) + 3), rng.randrange(6, 60))
            for i in range(count)
        ]
    return asks


def fixed(count: int):
    return lambda seen: count


def test_the_model_is_deterministic_and_counts_every_request():
    asks = bursts(0)[:200]
    one, other = (Replay(asks, SETTING, scalers.argosy(SETTING)(2, 60)) for _ in range(2))
    assert one.run() == other.run()
    assert len(one.ttft) + len(one.held) == len(asks)


def test_a_worker_computes_in_turn_and_keeps_what_it_has_computed():
    setting = Setting(rate=100.0, ttft_s=1.0, block=50, most=1)
    asks = [Ask(0.0, 101, 1, (1, 2, 3)), Ask(0.0, 101, 1, (1, 2, 3)), Ask(0.0, 100, 1, (1, 9))]
    replay = Replay(asks, setting, fixed(1))
    replay.run()
    # 101 tokens; one, as two blocks are known; 50, as the last token is always computed
    assert [round(first, 2) for first, _ in replay.ttft] == [1.01, 1.02, 1.52]


def test_workers_that_are_there_all_the_time_cost_that():
    asks = bursts(1)[:100]
    result = Replay(asks, Setting(rate=1e9, ttft_s=1.0, first=3), fixed(3)).run()
    assert result.within == 1.0
    assert result.replica_seconds == pytest.approx(3 * (asks[-1].at + 60), abs=6)


@pytest.mark.parametrize(
    ("make", "targets"), [(scalers.hpa, (0.5, 2, 6)), (scalers.kpa, (1, 3, 6))], ids=["hpa", "kpa"]
)
def test_it_costs_a_fifth_less_where_the_peer_serves_best(make, targets):
    """Of all targets and windows the peer has the one with the best share; ours has one with that share for less."""
    asks = bursts(2)
    windows = (60.0, 300.0)
    ours = scalers.frontier([asks], SETTING, scalers.argosy(SETTING), [(t, w) for w in windows for t in (1, 4, 15, 45)])
    theirs = scalers.frontier([asks], SETTING, make, [(t, w) for w in windows for t in targets])
    best = max(theirs.values(), key=lambda result: (result.within, -result.replica_seconds))
    found = scalers.cheapest(ours, best.within)
    assert found is not None
    assert found[1].saved(best) >= 0.2


def test_who_knows_what_comes_needs_less_than_anybody():
    """And has workers serve before the prompts come for which they are needed."""
    burst = [Ask(100.0 + i / 100, 2000, 10) for i in range(40)]  # 20 s of work, due within 5
    asks = [Ask(0.0, 4, 1), *burst, Ask(200.0, 4, 1)]
    setting = Setting(rate=4000.0, ttft_s=5.0)
    ahead = Replay(asks, setting, Foresight(asks, setting, patience=1.2)).run()
    assert ahead.within > 0.9
    first, *_ = [at for at, workers in ahead.course if workers > 1]
    assert first <= 100.0 - model.START_S
    assert ahead.course[-1][1] == 1
    assert 20.0 < ahead.computing_s < 21.0
    assert Replay(asks, setting, scalers.argosy(setting)(1, 60)).run().within < ahead.within


def test_who_accepts_long_waits_needs_fewer_workers_and_waits_no_longer_than_that():
    """Under a steady load: waits grow until the queue brings the workers that are missing, and they come in time."""
    rng = random.Random(3)
    asks = [Ask(at / 4, rng.randrange(2000, 6000), 10) for at in range(4 * 1500)]  # keeps four workers busy
    setting = Setting(rate=4000.0, ttft_s=100.0, first=2)
    patient, hasty = (Replay(asks, setting, scalers.argosy(setting)(target, 60)).run() for target in (100, 30))
    assert patient.replica_seconds < hasty.replica_seconds
    assert patient.within >= 0.95


def test_who_is_told_the_best_number_has_it_for_no_more_than_any_constant_number():
    asks = bursts(4)
    known = constants(asks, SETTING, 600.0)
    assert known == sorted(known)
    for count in (2, 4, 8):
        result = Replay(asks, dataclasses.replace(SETTING, first=count), fixed(count)).run()
        assert min(cost for share, cost in known if share >= result.within) <= result.replica_seconds


def test_in_another_order_the_same_requests_come():
    asks = sorted(bursts(5), key=lambda ask: ask.at)
    other = reordered(asks, 60.0, 1)
    assert [a.at for a in other] != [a.at for a in asks]
    assert [a.at for a in other] == sorted(a.at for a in other)
    assert sorted((round(a.at % 60, 6), a.tokens) for a in other) == sorted(
        (round(a.at % 60, 6), a.tokens) for a in asks
    )
    assert [round(a.at, 6) for a in half(asks, 2)] == [
        round(a.at - asks[len(half(asks, 1))].at, 6) for a in asks[len(half(asks, 1)) :]
    ]


def test_of_several_traces_the_means_count():
    traces = [bursts(seed)[:200] for seed in (0, 1)]
    one, other = (scalers.frontier([t], SETTING, scalers.kpa, [(3.0, 60.0)])[3.0, 60.0] for t in traces)
    both = scalers.frontier(traces, SETTING, scalers.kpa, [(3.0, 60.0)])[3.0, 60.0]
    assert both.within == (one.within + other.within) / 2
    assert both.replica_seconds == (one.replica_seconds + other.replica_seconds) / 2
