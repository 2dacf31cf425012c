"""What is told of the speed of prompts holds for large ones, whatever was computed."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from argosy_worker.engine.fit import Line
from argosy_worker.engine.rate import PrefillRate

FULL = 512
"""Tokens of a step of a large prompt."""


class Machine:
    """Takes `fixed`, and so much for each generating row and each prompt token, and sometimes longer."""

    def __init__(self, *, fixed=0.02, row=0.001, each=0.0007, noise=0.0, halts=0.0, seed=0):
        self.fixed, self.row, self.each, self.noise, self.halts = fixed, row, each, noise, halts
        self.draw = random.Random(seed)

    def seconds(self, prompt, rows):
        exact = self.fixed + self.row * rows + self.each * prompt
        late = self.draw.expovariate(1) if self.draw.random() < self.halts else 0.0
        return exact * (1 + self.draw.uniform(-self.noise, self.noise)) + late

    @property
    def rate(self):
        return FULL / (self.fixed + self.each * FULL)


def told(machine, steps, rate=None):
    rate = rate or PrefillRate()
    for prompt, rows in steps:
        rate.add(prompt, rows, machine.seconds(prompt, rows))
    return rate.of_steps(FULL)


def requests(draw, count, sizes, answer=12):
    """Steps of requests one after the other: a prompt, then the answer's tokens."""
    for _ in range(count):
        yield draw.choice(sizes), 0
        yield from [(0, 1)] * answer


def test_nothing_is_told_before_a_prompt():
    rate = PrefillRate()
    assert rate.of_steps(FULL) == 0
    rate.add(0, 3, 0.02)
    assert rate.of_steps(FULL) == 0


def test_generating_rows_are_not_charged_to_the_prompts():
    rate = PrefillRate()
    for _ in range(50):
        rate.add(0, 4, 0.010)
    for _ in range(100):
        rate.add(100, 4, 0.110)  # 100 tokens in 100 ms, and a step of generating rows
    assert rate.of_steps(FULL) == pytest.approx(1000, rel=1e-6)


@given(
    fixed=st.floats(0.001, 0.1), ratio=st.floats(5, 200), noise=st.floats(0, 0.05), seed=st.integers(0, 1000),
    most=st.integers(8, 60),
)  # fmt: skip
def test_tiny_prompts_tell_of_large_ones(fixed, ratio, noise, seed, most):
    """Of different sizes, in noise. By tokens and time alone the worst of these would be forty times too slow."""
    machine = Machine(fixed=fixed, row=fixed / 50, each=fixed / ratio, noise=noise * most / ratio, seed=seed)
    found = told(machine, requests(random.Random(seed), 300, range(1, most + 1)))
    assert machine.rate / 1.7 < found < machine.rate * 1.7


@pytest.mark.parametrize("size", [1, 2, 4, 8, 16, 32])
def test_tiny_prompts_of_one_size_do_not_say_that_large_ones_take_for_ever(size):
    machine = Machine(noise=0.1)
    found = told(machine, requests(random.Random(0), 200, [size]))
    assert machine.rate / 4 < found < machine.rate * 2


@pytest.mark.parametrize("size", [64, 100, 500])
def test_larger_ones_of_one_size_are_taken_as_they_are(size):
    """Also where they have no fixed cost, as in the simulation."""
    machine = Machine(fixed=0.0)
    rate = PrefillRate()
    for _ in range(50):
        rate.add(0, 1, 0.05)
        rate.add(size, 0, machine.seconds(size, 0))
    assert rate.of_steps(FULL) == pytest.approx(1 / machine.each)


def test_a_large_prompt_corrects_what_small_ones_seemed_to_say():
    """Here tokens of a large prompt cost three times those of small ones."""
    rate, draw = PrefillRate(), random.Random(1)
    told(Machine(), requests(draw, 100, range(1, 9)), rate)
    dear = Machine(each=0.0021)
    assert told(dear, [(FULL, 0)] * 4, rate) == pytest.approx(dear.rate, rel=0.2)


@given(seed=st.integers(0, 1000))
def test_mixed_steps_and_halts_leave_it_near(seed):
    draw = random.Random(seed)
    machine = Machine(noise=0.1, halts=0.002, seed=seed)
    steps = [(draw.choice([0, 0, 0, 5, 30, 200, FULL]), draw.randrange(17)) for _ in range(1500)]
    found = told(machine, [(p, r) for p, r in steps if p or r])
    assert machine.rate / 2 < found < machine.rate * 1.5


def test_it_follows_a_machine_that_slows_down():
    rate, draw = PrefillRate(), random.Random(2)
    told(Machine(), requests(draw, 100, range(1, 200)), rate)
    slow = Machine(fixed=0.06, row=0.003, each=0.0021)
    assert told(slow, requests(draw, 300, range(1, 200)), rate) == pytest.approx(slow.rate, rel=0.1)


@given(st.lists(st.tuples(st.integers(0, 4096), st.integers(0, 64), st.just(0.0) | st.floats(1e-9, 100)), max_size=60))
def test_whatever_is_measured_it_is_a_rate(steps):
    rate = PrefillRate()
    for prompt, rows, seconds in steps:
        rate.add(prompt, rows, seconds)
        assert 0 <= rate.of_steps(FULL) < float("inf")


def test_a_line_is_found_where_there_is_one():
    line = Line()
    assert (line.fit(), line.mean) == (None, (0.0, 0.0))
    for x in (1, 2, 3):
        line.add(x, 5 + 2 * x, keep=0.9)
    assert line.fit() == pytest.approx((5, 2))
    falling = Line()
    for x in (1, 2, 3):
        falling.add(x, 5 - x, keep=1)
    assert falling.fit() is None
