"""The line between tenants: who gets how much, and that everybody gets his turn."""

import random

from hypothesis import given
from hypothesis import strategies as st

from argosy_router.tenants.fair import AGEING_S, ANSWER_WEIGHT, FairLine, Waiter

SIZES = st.integers(1, 4000)


def waiter(tenant, tokens=100, *, priority=0, since=0.0, weight=1.0, rank=None):
    return Waiter(tenant, weight, priority, since, since if rank is None else rank, tokens)


@given(
    st.lists(st.tuples(SIZES, SIZES, st.integers(0, 300)), min_size=1, max_size=60), st.sampled_from([1.0, 2.0, 5.0])
)
def test_neither_of_two_who_wait_gets_ahead_by_more_than_one_request(history, weight):
    """Whatever they ask for, and however much their answers cost."""
    line, weights = FairLine(), {"a": weight, "b": 1.0}
    largest = 0.0
    for a, b, answer in history:
        for name, size in (("a", a), ("b", b)):
            line.add(waiter(name, size, weight=weights[name]))
            largest = max(largest, size / weights[name])
        taken = line.take(0.0)
        line.charge(taken.tenant, ANSWER_WEIGHT * answer / taken.weight)
        largest = max(largest, (taken.tokens + ANSWER_WEIGHT * answer) / taken.weight)
        assert abs(line.service("a") - line.service("b")) <= largest + 1e-6


def test_ten_times_the_load_gets_no_more_of_the_service():
    rng, line = random.Random(1), FairLine()
    served = {"heavy": 0.0, "light": 0.0}
    for _ in range(4000):
        for name, count in (("heavy", 10), ("light", 1)):
            for _ in range(count):
                if line.waiting(name) < 400:
                    line.add(waiter(name, rng.randrange(50, 2000)))
        for _ in range(2):  # fewer than come of either: both always have somebody who waits
            if line.waiting("light") > 5:
                taken, answer = line.take(0.0), rng.randrange(1, 400)
                line.charge(taken.tenant, ANSWER_WEIGHT * answer)
                served[taken.tenant] += taken.tokens + ANSWER_WEIGHT * answer
    assert served["light"] > 500_000
    assert 0.95 <= served["heavy"] / served["light"] <= 1.05


def test_long_waits_give_no_more_of_the_service():
    """Of one who has far more in the line everybody waits longer; that is no reason to serve him more."""
    line, time, served = FairLine(), 0.0, {"heavy": 0, "light": 0}
    for _ in range(3000):
        time += 1.0
        for name, most in (("heavy", 400), ("light", 4)):
            while line.waiting(name) < most:
                line.add(waiter(name, since=time))
        served[line.take(time).tenant] += 1
    assert 0.95 <= served["heavy"] / served["light"] <= 1.05


@given(st.integers(1, 200))
def test_who_comes_late_has_saved_nothing_up(before):
    line = FairLine()
    for _ in range(before):
        line.add(waiter("early"))
        line.take(0.0)
    for _ in range(40):
        line.add(waiter("early"))
        line.add(waiter("late"))
    order = [line.take(0.0).tenant for _ in range(40)]
    assert abs(order.count("early") - order.count("late")) <= 2


@given(st.integers(1, 20))
def test_waiting_outweighs_priority_in_the_end(levels):
    line, time = FairLine(), 0.0
    line.add(waiter("low", priority=0, since=0.0))
    while True:
        line.add(waiter("high", priority=levels, since=time))
        if line.take(time).tenant == "low":
            break
        time += 1.0
        assert time <= (levels + 1) * AGEING_S + 1


def test_priority_goes_before_service_and_rank_last():
    line = FairLine()
    line.charge("a", 1e6)
    for who in (waiter("a", rank=2), waiter("a", rank=1), waiter("b", rank=3), waiter("a", priority=1, rank=9)):
        line.add(who)
    line.charge("a", 1e6)
    assert [(w.tenant, w.rank) for w in (line.take(0.0) for _ in range(4))] == [("a", 9), ("b", 3), ("a", 1), ("a", 2)]
    assert line.take(0.0) is None


@given(st.data())
def test_everybody_leaves_the_line_once(data):
    line, there, gone = FairLine(), [], []
    for step in range(data.draw(st.integers(1, 60))):
        kind = data.draw(st.sampled_from(["add", "add", "take", "remove"]))
        if kind == "add":
            there.append(waiter(data.draw(st.sampled_from("abc")), data.draw(SIZES), since=float(step),
                                priority=data.draw(st.integers(-2, 2))))  # fmt: skip
            line.add(there[-1])
        elif kind == "take":
            taken = line.take(float(step))
            assert (taken is None) == (not there)
            if taken is not None:
                there.remove(taken)
                gone.append(taken)
        elif there:
            who = data.draw(st.sampled_from(there))
            there.remove(who)
            gone.append(who)
            assert line.remove(who)
            assert not line.remove(who)
        assert len(line) == len(there)
        assert {t: line.waiting(t) for t in "abc"} == {t: sum(w.tenant == t for w in there) for t in "abc"}
    assert len(set(map(id, gone))) == len(gone)


def test_how_many_go_before_a_newcomer():
    line = FairLine()
    for _ in range(10):
        line.add(waiter("a"))
    for _ in range(3):
        line.add(waiter("c", priority=2))
    assert line.ahead("b", 1.0, 0) == 3 + 1  # those of higher priority, and one of a's
    assert line.ahead("b", 4.0, 0) == 3 + 0.25
    assert line.ahead("a", 1.0, 0) == 3 + 10
    assert line.ahead("b", 1.0, 3) == 0
