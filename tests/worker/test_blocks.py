"""The block pool: in which order blocks are given away, and what is said about it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from argosy_worker.core.blocks import NULL_BLOCK, BlockPool, blocks_of_window


def fill(pool, *ids):
    """A table whose blocks hold `ids`; None for a block that is not full."""
    table = pool.allocate(len(ids))
    for block, block_id in zip(table, ids, strict=True):
        if block_id is not None:
            pool.store(block, block_id)
    return table


def test_the_null_block_is_never_handed_out():
    assert NULL_BLOCK not in BlockPool(5).allocate(5)


def test_never_cached_blocks_are_reused_before_cached_ones():
    pool = BlockPool(4)
    table = fill(pool, b"a", b"b", None)
    pool.release(table)
    assert (pool.free, pool.cached, pool.used) == (2, 2, 0)
    pool.allocate(2)
    assert pool.match([b"a", b"b"], 2) == table[:2]


def test_a_tail_is_evicted_before_the_prefix_it_depends_on():
    pool = BlockPool(3)
    pool.release(fill(pool, b"a", b"b", b"c"))
    for left in ([b"a", b"b"], [b"a"], []):
        pool.allocate(1)
        assert set(pool.known_ids()) == set(left)


def test_the_least_recently_used_prefix_is_evicted_first():
    pool = BlockPool(4)
    pool.release(fill(pool, b"a"))
    pool.release(fill(pool, b"b"))
    hit = pool.match([b"a"], 1)
    pool.acquire(hit)  # used again
    pool.release(hit)
    pool.allocate(3)
    assert pool.known_ids() == [b"a"]


def test_a_shared_block_stays_until_its_last_user_goes():
    pool = BlockPool(2)
    table = fill(pool, b"a")
    pool.acquire(table)
    pool.release(table)
    assert (pool.free, pool.cached, pool.used) == (1, 0, 1)
    pool.check([table])
    pool.release(table)
    assert (pool.free, pool.cached, pool.used) == (1, 1, 0)
    pool.check([])


def test_a_block_computed_twice_is_known_once():
    pool = BlockPool(2)
    one, two = fill(pool, b"a"), fill(pool, b"a")
    assert pool.match([b"a"], 1) == one
    pool.release(two)
    assert (pool.free, pool.cached, pool.used) == (1, 0, 1)


def test_a_match_ends_at_the_first_unknown_block():
    pool = BlockPool(3)
    table = fill(pool, b"a", b"b", b"c")
    assert pool.match([b"a", b"x", b"c"], 3) == table[:1]
    assert pool.match([b"x", b"b"], 2) == []


@pytest.mark.parametrize(
    ("known", "window", "expected"),
    [
        ("abcdef", 2, (4, 6)),
        ("cdef", 2, (4, 6)),  # what is out of the window may be lost
        ("abcde", 2, (3, 5)),
        ("abc ef", 2, (4, 6)),
        ("abc e", 2, (1, 3)),  # d is missing in every longer one
        ("bc e", 3, (0, 0)),  # near the start the window has the start in it
        ("ab", 3, (0, 2)),
        ("f", 1, (5, 6)),
        ("a", 0, (6, 6)),  # a row that sees itself alone needs nothing
        ("", 4, (0, 0)),
        ("abc ef", None, (0, 3)),
        ("abcdef", None, (0, 6)),
    ],
)
def test_a_window_needs_the_last_blocks_of_a_hit(known, window, expected):
    pool = BlockPool(6, window_blocks=window)
    fill(pool, *(letter.encode() for letter in known.replace(" ", "")))
    ids = [letter.encode() for letter in "abcdef"]
    assert pool.hit(ids, 6) == expected
    first, end = expected
    table = pool.match(ids, 6)
    assert table[:first] == [NULL_BLOCK] * first
    assert [pool._id_of[block] for block in table[first:]] == ids[first:end]


@given(st.sets(st.integers(0, 19)), st.integers(0, 8), st.integers(0, 20))
def test_no_longer_hit_was_possible(known, window, most):
    pool = BlockPool(20, window_blocks=window)
    fill(pool, *(bytes([i]) for i in known))
    first, end = pool.hit([bytes([i]) for i in range(20)], most)
    usable = [n for n in range(most + 1) if known.issuperset(range(max(0, n - window), n))]
    assert (first, end) == (max(0, usable[-1] - window), usable[-1])


@given(st.integers(1, 200), st.integers(1, 33), st.integers(0, 300))
def test_a_row_finds_its_window_in_so_many_blocks(window, size, position):
    kept = blocks_of_window(window, size)
    assert position // size - kept <= max(0, position - window + 1) // size
    assert blocks_of_window(0, size) is None


def test_changes_are_net():
    pool = BlockPool(2)
    first = fill(pool, b"a", b"b")
    assert (change := pool.take_change()).stored == (b"a", b"b")
    assert change.removed == ()
    pool.release(first)
    second = fill(pool, b"c", b"a")  # b, then a, are forgotten; a is computed again
    change = pool.take_change()
    assert (change.stored, change.removed) == ((b"c",), (b"b",))
    pool.release(second)
    pool.release(fill(pool, b"x", b"y"))
    pool.release(fill(pool, None, None))  # x and y come and go within one step: nobody needs to know
    change = pool.take_change()
    assert change.stored == ()
    assert set(change.removed) == {b"a", b"c"}
    assert not pool.take_change()


def test_without_caching_nothing_is_known():
    pool = BlockPool(2, caching=False)
    pool.release(fill(pool, b"a"))
    assert (pool.free, pool.cached, pool.known_ids()) == (2, 0, [])
    assert not pool.take_change()


def test_too_many_blocks_take_none():
    pool = BlockPool(3)
    pool.allocate(1)
    with pytest.raises(MemoryError):
        pool.allocate(3)
    assert pool.free == 2


def test_check_notices_a_leak():
    pool = BlockPool(3)
    table = pool.allocate(2)
    pool.check([table])
    pool.check([[NULL_BLOCK, *table]])
    for wrong in ([], [table[:1]], [table, table], [[NULL_BLOCK, *table[1:]]]):
        with pytest.raises(AssertionError):
            pool.check(wrong)
