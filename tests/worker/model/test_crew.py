"""Whether a step is computed on all threads or on one: pure decisions from measured times."""

import random

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from argosy_worker.compute.native.crew import Together


@given(st.lists(st.tuples(st.floats(1e-4, 1e-1), st.floats(1e-4, 1e-1)), min_size=200, max_size=400))
@settings(max_examples=50, deadline=None)
def test_whatever_the_times_the_slower_way_is_seldom_tried(times):
    """Where one way is always the faster one, the other is tried less and less."""
    faster = times[0][0] < times[0][1]
    choice, slow = Together(), 0
    for _ in times:
        together = choice.choose()
        slow += together is not faster
        choice.note(min(times[0]) if together is faster else max(times[0]), together=together)
    assert slow <= 6 or times[0][0] == times[0][1]


def test_the_faster_way_is_found_when_it_changes():
    choice = Together()
    for busy in (False, True, False):
        taken = []
        for _ in range(5000):
            together = choice.choose()
            taken.append(together)
            choice.note((0.05 if busy else 0.004) if together else 0.006, together=together)
        assert np.mean([way is not busy for way in taken[-100:]]) >= 0.9


def test_what_an_idle_machine_does_now_and_then_drives_nobody_from_the_faster_way():
    """Times as they were seen: all threads take two thirds of one's time, but six calls in sixty three times their own."""
    rng, choice, taken = random.Random(5), Together(), []
    for call in range(3000):
        together = choice.choose()
        taken.append(together)
        usual = 0.0067 if together else 0.011
        choice.note(usual * rng.uniform(0.85, 1.15) * (3.6 if together and call % 60 < 6 else 1), together=together)
    assert np.mean(taken) > 0.95


def test_a_call_that_was_lucky_is_no_reason_to_change():
    """On a busy machine one of five calls on all threads is the faster one, and the others take ten times as long."""
    rng, choice, taken = random.Random(5), Together(), []
    for _ in range(2000):
        together = choice.choose()
        taken.append(together)
        choice.note((0.008 if rng.random() < 0.2 else 0.1) if together else 0.01, together=together)
    assert np.mean(taken) < 0.05


def test_large_steps_of_large_machines_are_not_stopped_to_try_one_thread():
    choice = Together(32)
    for _ in range(500):
        assert choice.choose(256)
        choice.note(1.5 / 256, together=True)
    small = Together(32)
    small.note(0.01, together=True)
    assert not small.choose(1)
