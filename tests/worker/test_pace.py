"""A step's size follows a target time."""

import random

import pytest

from argosy_worker.engine.pace import Pace


def settle(pace, seconds_of, steps=60):
    for _ in range(steps):
        pace.add(pace.tokens, seconds_of(pace.tokens))
    return pace.tokens


def test_nothing_is_known_at_first():
    assert Pace(0.1, least=16, most=256).tokens == 16
    assert Pace(0.1, least=16, most=8).tokens == 8


def test_without_a_target_a_step_is_as_large_as_it_may_be():
    pace = Pace(None, least=16, most=256)
    assert pace.tokens == settle(pace, lambda n: 10.0) == 256


@pytest.mark.parametrize(("fixed", "each"), [(0.0, 0.001), (0.02, 0.0005), (0.05, 0.0004)])
def test_it_finds_the_size_that_takes_the_target(fixed, each):
    found = settle(Pace(0.1, least=16, most=10_000), lambda n: fixed + each * n)
    assert fixed + each * found == pytest.approx(0.1, rel=0.05)


def test_it_follows_a_machine_that_slows_down_and_recovers():
    pace = Pace(0.1, least=16, most=4096)
    assert settle(pace, lambda n: 0.01 + 0.0005 * n) == pytest.approx(180, rel=0.1)
    assert settle(pace, lambda n: 0.01 + 0.002 * n) == pytest.approx(45, rel=0.1)
    assert settle(pace, lambda n: 0.01 + 0.0005 * n) == pytest.approx(180, rel=0.1)


def test_it_stays_within_its_bounds_whatever_is_measured():
    draw = random.Random(0)
    pace = Pace(0.05, least=16, most=256)
    for _ in range(2000):
        pace.add(draw.choice([0, 1, pace.tokens, 256]), draw.choice([0.0, 1e-9, 0.05, 3.0]))
        assert 16 <= pace.tokens <= 256
    assert settle(pace, lambda n: 0.0) == 256
    assert settle(pace, lambda n: 10.0) == 16
