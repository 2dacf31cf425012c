"""Router, index, books, policy and the engine's scheduler together, on a virtual clock (`benchmarks/routing_model.py`)."""

import random
import statistics
import sys
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import routing_model as model

SETTING = model.Setting(workers=4, blocks=300)


def conversations(seed: int, count: int = 400, *, rate: float = 9.0) -> list[model.Ask]:
    """Sessions that grow turn by turn over a few shared beginnings, at random times."""
    rng = random.Random(seed)
    shared = [[rng.randrange(256) for _ in range(160)] for _ in range(3)]
    sessions: list[list[int]] = []
    asks, at = [], 0.0
    for _ in range(count):
        at += rng.expovariate(rate)
        if sessions and rng.random() < 0.7:
            session = rng.choice(sessions[-20:])
            session += [rng.randrange(256) for _ in range(rng.randrange(8, 120))]
        else:
            session = [*rng.choice(shared), *(rng.randrange(256) for _ in range(rng.randrange(8, 300)))]
            sessions.append(session)
        asks.append(model.Ask(at, list(session)))
    return asks


def figures(outcomes: list[model.Outcome]) -> tuple[float, float, float]:
    """Hit rate, mean and 99th percentile of the time to first token."""
    times = sorted(o.ttft for o in outcomes)
    hit = sum(o.cached for o in outcomes) / sum(o.prompt for o in outcomes)
    return hit, statistics.fmean(times), times[int(len(times) * 0.99)]


def average(setting: model.Setting, **how: object) -> list[float]:
    """Over traces of six kinds of chance."""
    runs = [figures(model.Replay(setting, **how).run(conversations(seed))) for seed in range(6)]  # type: ignore[arg-type]
    return [statistics.fmean(values) for values in zip(*runs, strict=True)]


@pytest.mark.parametrize("order", ["leastWork", "fcfs"])
async def test_what_the_router_knows_is_nearly_as_good_as_the_truth(order):
    """Events and reports come late; the decisions are hardly worse than with exact knowledge of every worker."""
    setting = replace(SETTING, order=order)
    exact, known = (average(setting, exact=exact) for exact in (True, False))
    assert known[0] >= exact[0] * 0.98
    assert known[1] <= exact[1] * 1.1 + 2 * model.LAG_S
    assert known[2] <= exact[2] * 1.2


async def test_kv_aware_beats_the_others():
    """By hits and by time: round robin, and the hash of a prefix."""
    ours, by_turn, by_hash = (
        average(SETTING, exact=False, policy_name=name) for name in ("kvAware", "roundRobin", "prefixHash")
    )
    assert ours[0] > by_turn[0] * 1.3
    assert ours[1] < by_turn[1] / 2
    assert ours[0] > by_hash[0]
    assert ours[1] < by_hash[1] * 0.8


async def test_every_request_is_answered_once():
    """The model itself: nothing is lost, and nothing is left."""
    asks = conversations(9, 150)
    replay = model.Replay(SETTING, exact=False)
    outcomes = replay.run(asks)
    assert len(outcomes) == len(asks)
    assert all(len(peer.books) == 0 for peer in replay.state.workers.values())
    replay.state.predictions.expire(replay.world.now + 10)
    assert not len(replay.state.predictions)
    replay.state.index.settle()
    for name, worker in replay.workers.items():
        known = list(worker.scheduler.pool.known_ids())
        assert replay.state.index.held(name) == len(known)
        assert replay.state.index.holds(name, known)
