"""A router under mixed load and faults keeps nothing, in small; and what the benchmark makes of its samples."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import soak


async def test_nothing_is_left_of_load_and_faults():
    found = await soak.soak(minutes=0.1, rate=5, every=2, workers=2, warm_s=2, silent_s=(0.5, 2))
    assert found.problems == []
    assert found.happened != []
    assert sum(found.asked.values()) > 10
    assert found.left == {"tasks": 0, "descriptors": 0, "held": 0}


def sample(at, resident=0, tasks=0):
    return soak.Sample(at, resident, resident, tasks, 0, 0, 0)


def test_the_slope_is_that_of_a_straight_line():
    assert soak.slope([(x, 3 * x + 7) for x in range(10)]) == pytest.approx(3)
    assert soak.slope([(0, 1), (1, -1), (2, 1), (3, -1)]) == pytest.approx(-0.4)
    assert soak.slope([(1, 5)]) == soak.slope([]) == soak.slope([(1, 1), (1, 2)]) == 0


def test_the_warm_up_does_not_count():
    """After it a leak of 1 MB and of two tasks a minute is told as that."""
    samples = [sample(t, 10**8 - 10**5 * t) for t in range(0, 360, 5)]
    samples += [sample(t, 10**8 + 10**6 * t // 60, t // 30) for t in range(360, 1801, 30)]
    slopes = soak.Soak(sample(0), samples).slopes()
    assert slopes["resident_mb"] == pytest.approx(1, abs=1e-3)
    assert slopes["tasks"] == pytest.approx(2)
    assert [s.at for s in soak.settled([sample(t) for t in (0, 30, 60, 90)])] == [60, 90]


def test_what_is_left_is_what_is_more_than_before():
    found = soak.Soak(sample(0, tasks=5), after=soak.Sample(1, 0, 0, 8, 2, 0, 3))
    assert found.left == {"tasks": 3, "descriptors": 2, "held": 3}
