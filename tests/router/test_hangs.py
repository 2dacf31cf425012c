"""When a worker is suspected and taken for hung, and how often requests may be sent once more: pure functions."""

import pytest

from argosy_api import limits
from argosy_api.retries import FLOOR, WINDOW_S, RetryBudget
from argosy_router.kept import STEP, TOKEN_BYTES, Kept
from argosy_router.routing.hangs import ANSWER_S, CEILING_S, FLOOR_S, UNKNOWN_S, answer_within, hangs, patience
from argosy_router.routing.poison import QUARANTINE_S, Quarantine, same_place


@pytest.mark.parametrize(
    ("slow_step", "others", "seconds"),
    [
        (0.0, [], UNKNOWN_S),
        (0.0, [0.0], UNKNOWN_S),
        (0.01, [], FLOOR_S),
        (2.0, [], 2.0),
        (60.0, [], CEILING_S),
        (2.0, [3.0, 0.1], 2.0),  # another one's steps are its own
        (0.0, [2.0, 0.0, 0.25], 2.0),  # it has just begun: as the slowest of its peers
        (0.0, [0.01], FLOOR_S),
    ],
)
def test_patience_follows_the_workers_own_steps(slow_step, others, seconds):
    assert patience(slow_step, others) == seconds


def test_whoever_is_asked_has_the_time_of_a_slow_step():
    assert [answer_within(step) for step in (0.0, 0.02, 2.0, 60.0)] == [ANSWER_S, ANSWER_S, 2.0, CEILING_S]


def test_a_long_step_is_not_taken_for_a_hang():
    assert not hangs(0.02, 4.9)  # a prompt's chunk may be longer than all before
    assert hangs(0.02, 5.1)
    assert not hangs(2.0, 31.0)
    assert hangs(2.0, 33.0)


def test_no_more_retries_than_requests():
    budget = RetryBudget()
    for i in range(20):
        budget.came(100.0 + i / 10)
    took = sum(budget.take(101.0 + i / 1000, in_flight=5) for i in range(1000))
    assert took == FLOOR + 20 + 5
    assert not budget.take(101.9, in_flight=5)
    assert budget.take(101.9, in_flight=6)
    assert sum(budget.take(101.0 + WINDOW_S + 2, in_flight=0) for _ in range(100)) == FLOOR


def test_a_death_near_another_one_is_at_the_same_place():
    assert not same_place([], 0)
    assert same_place([0], 0)
    assert same_place([100], 131)
    assert not same_place([100], 132)
    assert same_place([10, 100], 110)


def test_the_quarantine_forgets_and_is_bounded():
    quarantine = Quarantine()
    quarantine.add(b"a", 0.0)
    assert quarantine.holds(b"a", QUARANTINE_S - 1)
    assert not quarantine.holds(b"a", QUARANTINE_S + 1)
    assert not quarantine.holds(b"b", 1.0)
    for i in range(limits.MAX_QUARANTINED):
        quarantine.add(str(i).encode(), 1.0)
    assert len(quarantine) == limits.MAX_QUARANTINED
    assert not quarantine.holds(b"a", 2.0)


def test_kept_tokens_and_their_room():
    taken = []
    kept = Kept(lambda count: taken.append(count) or True)
    kept.add([1, 2], "é")
    kept.add(range(STEP), "ab")
    assert (list(kept.tokens[:3]), kept.count, kept.text_bytes, kept.whole) == ([1, 2, 0], STEP + 2, 4, True)
    assert taken == [STEP * TOKEN_BYTES] * 2
    kept.forget()
    kept.forget()
    assert sum(taken) == 0


def test_without_room_nothing_is_kept_and_all_is_given_back():
    left = [2]

    def hold(count):
        if count > 0 and not left[0]:
            return False
        left[0] -= count // (STEP * TOKEN_BYTES)
        return True

    kept = Kept(hold)
    for _ in range(3 * STEP):
        kept.add([7], "x")
    assert (kept.whole, kept.count, list(kept.tokens), left) == (False, 3 * STEP, [], [2])
