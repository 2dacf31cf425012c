"""What runners prepare while nobody asks for anything: when, how much of it at a time, and that it harms nobody."""

import pytest
from computes_beside import Beside
from lives import GREEDY, Asked, Life

from argosy_worker import sim
from argosy_worker.engine.spare import Spare

PROMPT = [7, 8, 9]


class Preparing(Beside):
    """Has so many things to prepare, and must not be asked to while a step is out."""

    def __init__(self, pieces, fails=None):
        super().__init__(sim.SimRunner(sim.SimSpec(decode_ms=0, prefill_tps=0), 64, 4, 0))
        self.left, self.fails, self.asked = pieces, fails, 0

    def prepare(self):
        assert self.out == 0
        self.asked += 1
        if self.fails is not None:
            raise self.fails
        self.left -= 1
        return self.left > 0


@pytest.fixture
def life(monkeypatch):
    monkeypatch.setattr("argosy_worker.engine.thread.QUIET_S", 0)
    made = []

    def make(*args, **more):
        made.append(Preparing(*args, **more))
        return Life(made[-1]), made[-1]

    yield make
    for runner in made:
        runner.close()


def answered(lived):
    """Turns until nobody waits for anything, and no step is out."""
    lived.turn()
    while lived.thread._replies or lived.thread._flights.out:
        lived.turn()


def test_a_turn_without_anything_to_do_prepares_one_thing_until_all_are_prepared(life):
    lived, runner = life(3)
    for done in (1, 2, 3):
        lived.turn()
        assert runner.asked == done
    assert not lived.thread._spare.left


def test_nothing_is_prepared_while_there_is_a_request_or_a_command(life):
    lived, runner = life(100)
    lived.begin("0", Asked(PROMPT, GREEDY))
    answered(lived)
    assert runner.ahead > 5
    assert runner.asked == 0
    lived.thread.ask(lambda: None)
    lived.turn()
    assert runner.asked == 0
    lived.turn()
    assert runner.asked == 1
    lived.begin("1", Asked(PROMPT, GREEDY))
    answered(lived)
    assert runner.asked == 1
    assert lived.answers["0"].whole == lived.answers["1"].whole


def test_what_cannot_be_prepared_is_left_out(life, caplog):
    lived, runner = life(3, fails=ValueError("no memory"))
    for _ in range(3):
        lived.turn()
    assert runner.asked == 1
    assert "left out" in caplog.text
    lived.begin("0", Asked(PROMPT, GREEDY))
    answered(lived)
    assert len(lived.answers["0"].tokens) == 20


def test_runners_prepare_one_after_the_other_and_who_has_nothing_is_not_asked():
    first, second = Preparing(2), Preparing(1)
    nothing = sim.SimRunner(sim.SimSpec(decode_ms=0, prefill_tps=0), 64, 4, 0)
    found = Spare(first, nothing, second)
    asked = []
    while found.left:
        found.go_on()
        asked.append((first.asked, second.asked))
    assert asked == [(1, 0), (2, 0), (2, 1)]
    found.go_on()
    assert not Spare(nothing).left
    for runner in (first, second):
        runner.close()
