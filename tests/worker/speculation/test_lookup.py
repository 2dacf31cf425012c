"""Where the last tokens stood before: right, bounded, and apart by tenant."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from argosy_api import limits
from argosy_worker.speculation.lookup import MIN_MATCH, MOST_MATCH, TokenIndex
from argosy_worker.speculation.recent import RecentTokens


def look_up(tokens, most=4):
    index = TokenIndex(tokens)
    assert index.catch_up()
    place, length = index.find(tokens)
    return index.following(place, most) if length else [], length


@pytest.mark.parametrize(
    ("tokens", "following", "length"),
    [
        ([], [], 0),
        ([1, 2, 3], [], 0),
        ([1, 2, 3, 4, 5, 9, 2, 3], [], 0),  # two equal ones are too few
        ([1, 2, 3, 4, 5, 1, 2, 3], [4, 5, 1, 2], 3),
        ([7, 1, 2, 3, 4, 8, 1, 2, 3, 5, 7, 1, 2, 3], [4, 8, 1, 2], 4),  # a longer match before a later one
        ([1, 2, 3, 4, 1, 2, 3, 5, 1, 2, 3], [5, 1, 2, 3], 3),  # of equal ones the later
        ([5, 6, 7, 5, 6, 7, 5, 6, 7], [5, 6, 7, 5], 6),  # goes on beyond the end
        ([4, 4, 4, 4, 4], [4, 4, 4, 4], 4),
    ],
)
def test_what_followed_before(tokens, following, length):
    assert look_up(tokens) == (following, length)


@given(st.lists(st.integers(0, 3), max_size=60))
def test_a_match_is_one_and_growing_is_as_at_once(tokens):
    grown: list[int] = []
    index = TokenIndex(grown)
    for token in tokens:
        grown.append(token)
        index.catch_up()
    place, length = index.find(grown)
    assert (place, length) == indexed(tokens).find(tokens)
    if length:
        assert MIN_MATCH <= length <= MOST_MATCH
        assert tokens[place - length : place] == tokens[-length:]
        assert place < len(tokens)


def indexed(tokens):
    index = TokenIndex(list(tokens))
    index.catch_up()
    return index


def test_a_long_text_is_indexed_in_parts_and_forgotten_from_its_beginning():
    rng = random.Random(1)
    tokens = [rng.randrange(50_000) for _ in range(3 * limits.MAX_SEARCHED_TOKENS)]
    index = TokenIndex(tokens)
    calls = 1
    while not index.catch_up():
        calls += 1
    assert 2 < calls < 10
    old, new = tokens[100:110], tokens[-200:-190]
    assert index.find(old) == (0, 0)
    assert index.find(new) == (len(tokens) - 190, 10)
    tokens += [rng.randrange(50_000) for _ in range(2 * limits.MAX_SEARCHED_TOKENS)]
    while not index.catch_up():
        pass
    assert index.find(new)[1] == 0


def test_recent_answers_are_found_by_the_same_tenant_only():
    recent = RecentTokens()
    recent.add(b"a", [1, 2, 3, 4], [5, 6, 7])
    recent.add(b"a", [9], [10, 11, 12, 13, 14])
    assert recent.find(b"a", [2, 3, 4], 5) == ([5, 6, 7], 3)  # not beyond the end of that answer
    assert recent.find(b"a", [0, 11, 12, 13], 5) == ([14], 3)
    assert recent.find(b"b", [2, 3, 4], 5) == ([], 0)
    assert recent.find(b"a", [6, 7, 9], 5) == ([], 0)


def test_what_is_kept_is_bounded():
    recent = RecentTokens()
    rng = random.Random(3)
    for i in range(4 * limits.MAX_RECENT_TENANTS):
        recent.add(b"%d" % (i % (2 * limits.MAX_RECENT_TENANTS)), [1, 2, 3], [rng.randrange(1000) for _ in range(500)])
    assert len(recent) <= limits.MAX_RECENT_TENANTS * 2 * (500 + MIN_MATCH + 1)
    for _ in range(40):
        recent.add(b"x", [1, 2, 3], [rng.randrange(1000) for _ in range(700)])
    recent.add(b"x", [1, 2, 3], list(range(3 * limits.MAX_RECENT_TOKENS)))
    assert recent.find(b"x", [50, 51, 52], 2) == ([53, 54], 3)
    kept = sum(len(half.tokens) for half in recent._tenants[b"x"])
    assert kept <= 2 * (limits.MAX_RECENT_TOKENS + MIN_MATCH + 1)
