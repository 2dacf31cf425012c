"""Waits between tries."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from argosy_api.backoff import Backoff

CURVE = Backoff(first=0.2, cap=30.0)


def test_at_first_soon_then_ever_later():
    assert [CURVE.delay(n) for n in range(1, 11)] == [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30.0, 30.0]


@pytest.mark.parametrize("failures", [-1, 0, 1, 64, 65, 100_000])
def test_any_number_of_failures_is_within_the_bounds(failures):
    assert 0.2 <= CURVE.delay(failures) <= 30.0


@given(st.integers(0, 10_000))
def test_jitter_takes_at_most_half(failures):
    assert CURVE.delay(failures) / 2 <= CURVE.jittered(failures) <= CURVE.delay(failures)
