"""The KV index: any sequence of events gives what a plain model of the caches gives."""

import random
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from argosy_router.routing.index import SLICE, KvIndex, Outcome
from argosy_router.routing.predictions import Predictions


def block(i: int) -> bytes:
    return i.to_bytes(16, "big")


def batch(epoch, seq, *, stored=(), removed=(), snapshot=False):
    return SimpleNamespace(
        epoch=epoch, seq=seq, snapshot=snapshot,
        stored=[block(i) for i in stored], removed=[block(i) for i in removed],
    )  # fmt: skip


def swept(index):
    """What is left when nobody's blocks have gone."""
    index.settle()
    for _ in index.sweep():
        pass
    return len(index)


def holds(index, worker, *blocks):
    """Whether the worker holds just these."""
    index.settle()
    return index.held(worker) == len(blocks) and index.holds(worker, [block(i) for i in blocks])


def taken(steps):
    """Number of pauses, and the outcome."""
    pauses = 0
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return pauses, end.value
        pauses += 1


def test_a_large_batch_is_taken_in_slices():
    """Each slice is one turn of the event loop; it counts as whole at the end alone."""
    index = KvIndex()
    index.join("a", 10 * SLICE)
    steps = index.applying("a", batch(1, 7, stored=range(10 * SLICE), snapshot=True))
    next(steps)
    assert (index.position("a"), index.held("a")) == ((1, 0, False), SLICE)
    assert taken(steps) == (8, Outcome.APPLIED)
    assert index.position("a") == (1, 7, True)
    assert taken(index.applying("a", batch(1, 8, stored=range(5), snapshot=True))) == (0, Outcome.APPLIED)
    assert (index.held("a"), swept(index)) == (5, 5)
    assert taken(index.applying("a", batch(1, 9, stored=range(9 * SLICE), removed=[1]))) == (8, Outcome.APPLIED)
    index.leave("a")
    assert index.match([block(1)]) == {}
    assert swept(index) == 0


def test_while_a_snapshot_is_taken_what_was_known_before_counts():
    index = KvIndex()
    index.join("a", 10 * SLICE)
    index.apply("a", batch(1, 1, stored=[1, 2]))
    steps = index.applying("a", batch(1, 5, stored=range(2, 3 * SLICE), snapshot=True))
    next(steps)
    assert index.match([block(1), block(2), block(3)]) == {"a": 2}
    assert taken(steps) == (1, Outcome.APPLIED)
    assert index.match([block(1), block(2), block(3)]) == {}
    assert index.match([block(2), block(3)]) == {"a": 2}
    assert swept(index) == index.held("a") == 3 * SLICE - 2


@pytest.mark.parametrize("event", ["leaves", "is another", "restarts", "tells more", "is given up"])
def test_what_comes_in_a_pause(event):
    """Whatever it is: the rest of the batch is not believed, and a snapshot makes it whole."""
    index = KvIndex()
    index.join("a", 10 * SLICE)
    index.apply("a", batch(1, 1, stored=[1]))
    steps = index.applying("a", batch(1, 2, stored=range(3 * SLICE)))
    next(steps)
    expected = Outcome.GAP
    if event in ("leaves", "is another"):
        index.leave("a")
        expected = Outcome.STALE
    if event == "is another":
        index.join("a", 10)
    if event == "restarts":
        assert index.new_epoch("a", 2)
    if event == "tells more":
        assert index.apply("a", batch(1, 4, stored=[3, 4], snapshot=True)) is Outcome.APPLIED
    if event == "is given up":
        steps.close()
    else:
        assert taken(steps) == (0, expected)
    swept(index)
    if event == "is given up":
        assert index.position("a") == (1, 1, False)
        assert index.apply("a", batch(1, 3)) is Outcome.GAP
    elif event == "tells more":
        assert index.position("a") == (1, 4, True)
        assert holds(index, "a", 3, 4)
    else:
        assert (len(index), index.held("a")) == (0, 0)
    if event != "leaves":
        assert index.apply("a", batch(3, 1, stored=[9], snapshot=True)) is Outcome.APPLIED
        assert holds(index, "a", 9)
        assert swept(index) == 1


def test_too_many_blocks_are_not_even_read():
    """Their number alone tells."""

    class Unread(list):
        def __iter__(self):
            raise AssertionError("read")

    index = KvIndex()
    index.join("a", 3)
    index.apply("a", batch(1, 1, stored=[1]))
    for snapshot in (False, True):
        many = batch(1, 2, snapshot=snapshot)
        many.stored = Unread([block(i) for i in range(4)])
        index.apply("a", batch(1, 1, stored=[1], snapshot=True))
        assert index.apply("a", many) is Outcome.OVERFLOW
        assert (index.match([block(1)]), index.position("a")) == ({}, (1, 1, False))


def test_applies_in_order_and_matches_leading_blocks():
    """A match counts leading blocks of each worker, and stops at its first miss."""
    index = KvIndex()
    index.join("a", 100)
    index.join("b", 100)
    assert index.apply("a", batch(1, 1, stored=[1, 2, 3])) is Outcome.APPLIED
    assert index.apply("b", batch(1, 1, stored=[1])) is Outcome.APPLIED
    ids = [block(i) for i in (1, 2, 3, 4)]
    assert index.match(ids) == {"a": 3, "b": 1}
    assert index.match([]) == {}
    assert index.match(ids[:1]) == {"a": 1, "b": 1}


def test_gap_waits_for_a_snapshot():
    """After a gap batches are skipped, what was known stays, and a snapshot makes it whole."""
    index = KvIndex()
    index.join("a", 100)
    index.apply("a", batch(1, 1, stored=[1]))
    assert index.apply("a", batch(1, 3, stored=[3])) is Outcome.GAP
    assert index.position("a") == (1, 1, False)
    assert index.apply("a", batch(1, 4, stored=[4])) is Outcome.GAP
    assert holds(index, "a", 1)
    assert index.apply("a", batch(1, 4, stored=[1, 3, 4], snapshot=True)) is Outcome.APPLIED
    assert index.apply("a", batch(1, 5, removed=[1])) is Outcome.APPLIED
    assert holds(index, "a", 3, 4)


def test_repeated_and_older_batches_are_ignored():
    """What comes twice changes nothing, nor does an older snapshot."""
    index = KvIndex()
    index.join("a", 100)
    index.apply("a", batch(1, 1, stored=[1]))
    index.apply("a", batch(1, 2, stored=[2]))
    assert index.apply("a", batch(1, 1, stored=[9])) is Outcome.STALE
    assert index.apply("a", batch(1, 1, stored=[9], snapshot=True)) is Outcome.STALE
    assert holds(index, "a", 1, 2)


def test_new_epoch_voids_the_old_one():
    """A restarted worker holds nothing of before; an older process is not listened to any more."""
    index = KvIndex()
    index.join("a", 100)
    index.apply("a", batch(1, 1, stored=[1]))
    assert index.apply("a", batch(2, 1, stored=[2])) is Outcome.APPLIED
    assert holds(index, "a", 2)
    assert index.apply("a", batch(1, 2, stored=[1])) is Outcome.STALE
    assert index.apply("a", batch(3, 5, stored=[7])) is Outcome.EPOCH
    assert holds(index, "a")
    assert not index.new_epoch("a", 3)
    assert index.new_epoch("a", 4)


def test_a_worker_cannot_claim_more_than_it_can_have():
    """More blocks than its pool are dropped, not kept for ever."""
    index = KvIndex()
    index.join("a", 3)
    assert index.apply("a", batch(1, 1, stored=[1, 2, 3, 4])) is Outcome.OVERFLOW
    assert swept(index) == 0
    assert index.position("a")[2] is False


def test_ids_of_a_wrong_length_are_ignored():
    """What stands in Redis may be anything."""
    index = KvIndex()
    index.join("a", 10)
    odd = SimpleNamespace(epoch=1, seq=1, snapshot=False, stored=[b"x", b"", b"y" * 17], removed=[b"z"])
    assert index.apply("a", odd) is Outcome.APPLIED
    assert swept(index) == 0


def test_a_place_is_used_again_without_inheriting():
    """A worker that takes the place of one that left holds nothing of its blocks."""
    index = KvIndex()
    index.join("a", 10)
    index.apply("a", batch(1, 1, stored=[1]))
    index.leave("a")
    index.join("b", 10)
    assert index.match([block(1)]) == {}
    assert index.apply("a", batch(1, 2, stored=[2])) is Outcome.STALE
    assert swept(index) == 0
    index.join("c", 10)
    assert index.bit("c") == 2
    assert index.match([block(1)]) == {}


class ModelCache:
    """A worker's cache with its numbered batches."""

    def __init__(self) -> None:
        self.epoch, self.seq, self.held = 1, 0, set()

    def step(self, kind, ids):
        if kind == "restart":
            self.epoch, self.seq, self.held = self.epoch + 1, 0, set()
            return None
        self.seq += 1
        if kind == "store":
            self.held |= set(ids)
            return batch(self.epoch, self.seq, stored=ids)
        if kind == "remove":
            gone = [i for i in ids if i in self.held]
            self.held -= set(gone)
            return batch(self.epoch, self.seq, removed=gone)
        gone, self.held = self.held - set(ids), set(ids)
        return batch(self.epoch, self.seq, removed=sorted(gone), stored=ids)

    def snapshot(self):
        return batch(self.epoch, self.seq, stored=sorted(self.held), snapshot=True)


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["a", "b", "c"]),
        st.sampled_from(["store", "store", "store", "remove", "replace", "restart"]),
        st.lists(st.integers(0, 12), max_size=4, unique=True),
        st.sampled_from(["once", "once", "twice", "lost", "late"]),
    ),
    max_size=60,
)


@given(STEPS, st.integers(0, 2**32))
@settings(max_examples=300, deadline=None)
def test_any_history_converges_to_the_caches(steps, seed):
    """Lost, doubled and late batches, restarts and repairs: afterwards the index equals the union of the caches."""
    rng = random.Random(seed)
    index, caches = KvIndex(), {w: ModelCache() for w in "abc"}
    for worker in caches:
        index.join(worker, 1000)
    late = []
    for worker, kind, ids, fate in steps:
        made = caches[worker].step(kind, ids)
        if made is None:
            continue
        if fate == "late":
            late.append((worker, made))
        for _ in range({"once": 1, "twice": 2}.get(fate, 0)):
            index.apply(worker, made)
        if late and rng.random() < 0.5:
            index.apply(*late.pop(rng.randrange(len(late))))
    for worker, made in late:
        index.apply(worker, made)
    for worker, cache in caches.items():
        index.new_epoch(worker, cache.epoch)
        epoch, seq, synced = index.position(worker)
        if not (synced and (epoch, seq) == (cache.epoch, cache.seq)):
            assert index.apply(worker, cache.snapshot()) is Outcome.APPLIED
        assert holds(index, worker, *cache.held)
    assert swept(index) == len(set().union(*(c.held for c in caches.values())))


def test_predictions_last_until_computed_and_a_moment_more():
    """A prompt may wait for long: its blocks are promised until it is computed, and until the events have come."""
    index, soon = KvIndex(), Predictions(lag_s=2)
    index.join("a", 10)
    ids = [block(1), block(2)]
    first = soon.add(index.bit("a"), ids)
    second = soon.add(index.bit("a"), ids[:1])
    soon.expire(1000.0)
    assert index.match(ids, soon) == {"a": 2}
    soon.computed(first, 1000.0)
    soon.expire(1001.9)
    assert index.match(ids, soon) == {"a": 2}
    soon.expire(1002.0)
    assert index.match(ids, soon) == {"a": 1}
    soon.withdraw(second)
    assert index.match(ids, soon) == {}
    assert (len(soon), dict(soon.promised())) == (0, {})


def test_what_is_promised_is_told_apart_from_what_is_held():
    """A worker whose events have stopped may hold anything; what was just sent there it will hold."""
    index, soon = KvIndex(), Predictions()
    index.join("a", 10)
    index.join("b", 10)
    ids = [block(1), block(2), block(3)]
    index.apply("a", batch(1, 1, stored=[2]))
    index.apply("b", batch(1, 1, stored=[1, 2, 3]))
    soon.add(index.bit("a"), [ids[0], ids[2]])
    soon.add(index.bit("b"), ids[1:])
    assert index.match(ids, soon) == {"a": 3, "b": 3}
    assert index.promised(ids, soon) == {"a": 1}
    index.leave("a")
    assert index.promised(ids, soon) == {}


def test_predictions_are_bounded_and_forgotten():
    """They never outgrow their limit, and go with their worker; its bit may then be another's."""
    soon = Predictions(limit=10)
    promises = [soon.add(1, [block(2 * i), block(2 * i + 1)]) for i in range(10)]
    assert len(soon) == 10
    soon.forget(1)
    assert (len(soon), dict(soon.promised())) == (0, {})
    soon.add(1, [block(0)])
    for promise in promises:
        soon.withdraw(promise)
    assert dict(soon.promised()) == {1: {block(0): 1}}


def test_forgetting_an_unknown_worker_looks_at_nothing():
    """A worker that is not indexed has no bit; each refresh of the fleet forgets all such workers."""
    soon = Predictions()
    soon.add(1, [block(1)])
    counts, soon._counts = soon._counts, Poisoned(soon._counts)
    soon.forget(0)
    soon._counts = counts
    assert dict(soon.promised()) == {1: {block(1): 1}}


class Poisoned(dict):
    """Nobody may walk over it."""

    def __iter__(self):
        raise AssertionError("looked at every promise")

    items = values = keys = __iter__


@pytest.mark.parametrize("matched", [0, 100, 500])
def test_match_of_a_long_prompt(matched):
    """500 blocks over two workers: the depth is exact."""
    index = KvIndex()
    index.join("a", 1000)
    index.join("b", 1000)
    index.apply("a", batch(1, 1, stored=range(matched)))
    index.apply("b", batch(1, 1, stored=range(250)))
    assert index.match([block(i) for i in range(500)]) == ({"a": matched} if matched else {}) | {"b": 250}
