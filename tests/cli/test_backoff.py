"""Delays before restarts."""

from hypothesis import given
from hypothesis import strategies as st

from argosy_cli.embedded.backoff import HEALTHY_S, Backoff, Kind, after_exit


def delays(kind, count, healthy_s=0.0):
    state, out = Backoff(), []
    for _ in range(count):
        state = after_exit(state, kind, healthy_s=healthy_s)
        out.append(state.delay_s)
    return out


def test_a_crash_is_tried_again_at_once_then_ever_later():
    assert delays(Kind.CRASH, 10) == [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30.0, 30.0]


def test_a_model_that_cannot_load_backs_off_at_once():
    assert delays(Kind.MODEL, 7) == [10.0, 20.0, 40.0, 80.0, 160.0, 300.0, 300.0]


def test_a_healthy_minute_makes_failures_forgotten():
    tired = Backoff(failures=9, delay_s=30.0)
    assert after_exit(tired, Kind.CRASH, healthy_s=HEALTHY_S) == Backoff(1, 0.2)
    assert after_exit(tired, Kind.CRASH, healthy_s=HEALTHY_S - 1).delay_s == 30.0


@given(st.lists(st.tuples(st.sampled_from(Kind), st.floats(0, 1e6)), max_size=2000))
def test_delays_are_always_within_their_bounds(history):
    state = Backoff()
    for kind, healthy in history:
        state = after_exit(state, kind, healthy_s=healthy)
        assert kind.value.first <= state.delay_s <= kind.value.cap


def test_a_very_long_history_does_not_overflow():
    assert after_exit(Backoff(failures=100_000), Kind.CRASH, healthy_s=0).delay_s == 30.0
