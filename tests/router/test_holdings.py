"""Who holds which blocks: the compact arrays say the same as plain sets, whatever is told in whatever order."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from argosy_router.routing import holders, shard
from argosy_router.routing.holders import Holders
from argosy_router.routing.holdings import Holdings, marks_of


def block(i: int) -> bytes:
    return i.to_bytes(16, "big")


@pytest.fixture
def restless(monkeypatch):
    """Arrays are merged after few changes, and numbers of sets are collected early."""
    monkeypatch.setattr(shard, "LEAST_CHANGES", 2)
    monkeypatch.setattr(holders, "LEAST_COLLECTED", 3)


TOLD = st.lists(
    st.tuples(
        st.integers(0, 4),
        st.sampled_from(["more", "more", "more", "less", "clear", "renew", "sweep"]),
        st.lists(st.integers(0, 40).map(lambda i: 256 * (i % 20) + i // 20), max_size=12),
    ),
    max_size=60,
)


@pytest.mark.usefixtures("restless")
@given(TOLD)
@settings(max_examples=100, deadline=None)
def test_any_history_gives_what_plain_sets_give(told):
    """Told twice, taken back, cleared in between, with marks that are given to others."""
    there = Holdings()
    marks = [there.new_mark() for _ in range(5)]
    model = [set() for _ in marks]
    for who, what, ids in told:
        mark, held = marks[who], model[who]
        if what == "sweep":
            list(there.sweep())
        elif what == "clear":
            there.clear(mark)
            held.clear()
        elif what == "renew":
            there.give_back(mark)
            marks[who] = there.new_mark()
            held.clear()
        else:
            there.change(mark, [block(i) for i in ids], more=what == "more")
            held |= set(ids) if what == "more" else set()
            held -= set(ids) if what == "less" else set()
        if ids:
            mask = sum(m for m, h in zip(marks, model, strict=True) if ids[0] in h)
            assert there.mask(block(ids[0])) == mask
    there.settle()
    assert [there.held(mark) for mark in marks] == list(map(len, model))
    there.clear(there.new_mark())
    list(there.sweep())
    for i in set().union(*model):
        assert there.mask(block(i)) == sum(m for m, h in zip(marks, model, strict=True) if i in h)
    for shards in range(3):  # a new mark inherits nothing
        assert not there.held(there.new_mark()), shards


@pytest.mark.usefixtures("restless")
def test_what_nobody_holds_any_more_gives_its_memory_back():
    there = Holdings()
    first, second = there.new_mark(), there.new_mark()
    there.change(first, [block(i) for i in range(5000)], more=True)
    there.change(second, [block(i) for i in range(100)], more=True)
    there.settle()
    assert (len(there), there.nbytes) == (5000, 5000 * 12)
    there.give_back(first)
    assert there.mask(block(200)) == 0
    list(there.sweep())
    assert (len(there), there.nbytes) == (100, 100 * 12)


@pytest.mark.parametrize("seed", range(20))
def test_leading_blocks_of_caches_that_forget_children_first(seed, monkeypatch):
    """Against a search through all: holders of chains of any lengths, changed in any order."""
    monkeypatch.setattr(shard, "LEAST_CHANGES", 4)
    rng, there = random.Random(seed), Holdings()
    marks = [there.new_mark() for _ in range(9)]
    lengths = dict.fromkeys(marks, 0)
    chain = [block(i) for i in range(rng.choice([1, 2, 3, 40, 500]))]
    for _ in range(30):
        mark, length = rng.choice(marks), rng.randrange(len(chain) + 1)
        old, lengths[mark] = lengths[mark], length
        there.change(mark, chain[old:length], more=True)
        there.change(mark, chain[length:old], more=False)
        found = {m: depth for depth, mask in there.leading(chain) for m in marks_of(mask)}
        assert found == {m: n for m, n in lengths.items() if n}
    assert there.leading([]) == []


def test_a_long_prompt_costs_few_looks(monkeypatch):
    there = Holdings()
    mark = there.new_mark()
    chain = [block(i) for i in range(512)]
    there.change(mark, chain[:300], more=True)
    looks = []
    monkeypatch.setattr(Holdings, "mask", lambda self, b, look=Holdings.mask: looks.append(b) or look(self, b))
    assert there.leading(chain) == [(300, mark)]
    assert len(looks) <= 2 + 9
    looks.clear()
    assert there.leading([block(1000 + i) for i in range(512)]) == []
    assert len(looks) == 1


def test_sets_are_bounded(monkeypatch):
    """What needs one more than there may be is not noted, and nothing else is harmed."""
    monkeypatch.setattr(holders, "MOST_SETS", 4)
    there = Holdings()
    marks = [there.new_mark() for _ in range(6)]
    for i, mark in enumerate(marks):
        there.change(mark, [block(i)], more=True)
    there.settle()
    assert [there.mask(block(i)) for i in range(6)] == [*marks[:3], 0, 0, 0]
    assert [there.held(mark) for mark in marks] == [1, 1, 1, 0, 0, 0]
    there.change(marks[0], [block(1)], more=True)
    there.settle()
    assert there.mask(block(1)) == marks[1]


def test_numbers_of_sets_are_used_again(monkeypatch):
    monkeypatch.setattr(holders, "LEAST_COLLECTED", 0)
    some = Holders()
    numbers = [some.number(1 << i, instead=0) for i in range(3)]
    assert some.crowded
    some.keep([number == numbers[1] for number in range(4)])
    assert not some.crowded
    assert {some.number(1 << i, instead=0) for i in (5, 6)} == {numbers[0], numbers[2]}
    assert some.masks[numbers[1]] == 2
