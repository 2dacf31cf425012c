"""The routing policies and the books: pure functions."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from argosy_router.routing import policy
from argosy_router.routing.books import Books, merge_queue
from argosy_router.routing.policy import Candidate, HashRing

RNG = random.Random(0)


def pick(*candidates, prompt=1000, ageing=0.25):
    return policy.kv_aware(candidates, prompt, ageing=ageing, rng=RNG)


def test_cost_of_an_idle_worker_is_its_own_work():
    """No queue, no decode: the uncached tokens over the rate, with the share for own work."""
    c = Candidate(worker="a", cached=600, rate=100.0)
    assert policy.cost(c, 1000, ageing=0.25) == pytest.approx(4.0 * (1 + policy.ALPHA))


def test_short_request_does_not_wait_for_a_long_one():
    """The engine computes the least remaining work first; the long one is delayed by the short one's work."""
    long_queue = Candidate(worker="a", queue=[(10_000, 0.0)], rate=1000.0)
    assert policy.cost(long_queue, 100, ageing=0.0) == pytest.approx(0.1 * (1 + policy.ALPHA + policy.BETA))
    assert policy.cost(long_queue, 20_000, ageing=0.0) == pytest.approx(10 + 20 * (1 + policy.ALPHA))


def test_ageing_puts_an_old_long_request_first():
    """Waited long enough, a long request is ahead of a short one."""
    old = Candidate(worker="a", queue=[(10_000, 100.0)], rate=1000.0)
    assert policy.cost(old, 100, ageing=0.25) == pytest.approx(10 + 0.1 * (1 + policy.ALPHA))


def test_prefix_wins_on_an_idle_fleet():
    """The worker that holds the prefix gets the request, every time."""
    for _ in range(50):
        choice = pick(Candidate(worker="a"), Candidate(worker="b", cached=512), Candidate(worker="c"))
        assert (choice.worker, choice.cached, choice.reason) == ("b", 512, "prefix")


def test_load_beats_a_small_prefix_continuously():
    """More work queued at the holder: at some point, and from there on, another worker is the cheaper one."""
    chosen = []
    for queued in range(0, 5000, 250):
        holder = Candidate(worker="a", cached=512, queue=[(queued, 1000.0)] if queued else [], rate=1000.0)
        chosen.append(pick(holder, Candidate(worker="b", rate=1000.0)).worker)
    assert chosen[0] == "a"
    assert chosen[-1] == "b"
    assert chosen == sorted(chosen)


def test_rates_matter():
    """Equal queues: the faster worker."""
    slow, fast = Candidate(worker="a", rate=1000.0), Candidate(worker="b", rate=4000.0)
    assert pick(slow, fast).worker == "b"


def test_kv_pressure_is_avoided():
    """A worker whose cache is full with running requests is passed over."""
    full = Candidate(worker="a", used=1.0, rate=10_000.0)
    assert pick(full, Candidate(worker="b", used=0.5, rate=10_000.0), prompt=100).worker == "b"


def test_bound_takes_out_the_overloaded():
    """Above 1.25 x the mean, and above the floor, a worker gets nothing."""
    busy = Candidate(worker="a", cached=900, queue=[(50_000, 0.0)], rate=1000.0)
    idle = [Candidate(worker=w, rate=1000.0) for w in "bcd"]
    assert {c.worker for c in policy.within_bound([busy, *idle], 1000)} == {"b", "c", "d"}
    assert pick(busy, *idle).reason == "bound"


def test_bound_never_leaves_nobody():
    """All above the bound: all stay."""
    all_busy = [Candidate(worker=w, queue=[(10_000, 0.0)], rate=1.0) for w in "ab"]
    assert policy.within_bound(all_busy, 10) == all_busy


def test_ties_are_spread():
    """Equal workers share cold requests."""
    seen = {pick(*(Candidate(worker=w) for w in "abcd")).worker for _ in range(200)}
    assert seen == set("abcd")


def test_ties_prefer_the_emptier():
    """Of two equal ones the one with fewer tokens in flight, then with fewer blocks."""
    assert pick(Candidate(worker="a", decode=500), Candidate(worker="b", decode=10)).worker == "b"
    assert pick(Candidate(worker="a", held_blocks=5), Candidate(worker="b", held_blocks=2)).worker == "b"


@given(
    st.lists(
        st.builds(
            Candidate,
            worker=st.uuids().map(str),
            cached=st.integers(0, 1000),
            queue=st.lists(st.tuples(st.floats(0, 1e5), st.floats(0, 1e3)), max_size=5),
            rate=st.floats(1, 1e5),
            decode=st.floats(0, 1e6),
            capacity=st.integers(0, 10**6),
            used=st.floats(0, 1),
        ),
        min_size=1,
        max_size=6,
        unique_by=lambda c: c.worker,
    ),
    st.integers(1, 100_000),
)
def test_kv_aware_takes_about_the_least_cost(candidates, prompt):
    """Among those within the bound nobody is clearly cheaper than the chosen one."""
    choice = policy.kv_aware(candidates, prompt, ageing=0.25, rng=RNG)
    allowed = policy.within_bound(candidates, prompt)
    least = min(policy.cost(c, prompt, ageing=0.25) for c in allowed)
    assert choice.worker in {c.worker for c in allowed}
    assert choice.cost_s <= least + max(policy.TIE_S, policy.TIE_SHARE * least) + 1e-9


def test_round_robin_takes_turns():
    """In the order of the ids."""
    candidates = [Candidate(worker=w) for w in "cab"]
    assert [policy.round_robin(candidates, i).worker for i in range(6)] == list("abcabc")


def test_hash_ring_moves_only_its_share():
    """A worker that leaves moves its own keys and no other."""
    keys = [str(i).encode() for i in range(500)]
    before = {k: HashRing("abcd").walk(k)[0] for k in keys}
    after = {k: HashRing("abc").walk(k)[0] for k in keys}
    assert all(after[k] == before[k] for k in keys if before[k] != "d")
    assert {before[k] for k in keys} == set("abcd")
    assert all(sorted(HashRing("abcd").walk(k)) == list("abcd") for k in keys[:20])


def test_prefix_hash_is_stable_and_bounded():
    """One key, one worker; when it is overloaded, the next one of the ring."""
    ring = HashRing("abcd")
    first, second = ring.walk(b"key")[:2]
    candidates = [Candidate(worker=w, rate=1000.0) for w in "abcd"]
    assert {policy.prefix_hash(candidates, 100, b"key", ring).worker for _ in range(5)} == {first}
    loaded = [Candidate(worker=w, rate=1000.0, queue=[(90_000, 0.0)] if w == first else ()) for w in "abcd"]
    choice = policy.prefix_hash(loaded, 100, b"key", ring)
    assert (choice.worker, choice.reason) == (second, "bound")


def test_prefix_key_is_the_beginning():
    """Equal first blocks, equal keys; short prompts by their tokens."""
    ids = [bytes([i]) * 16 for i in range(20)]
    assert policy.prefix_key(ids, []) == policy.prefix_key(ids[:8], [])
    assert policy.prefix_key([], [1, 2]) != policy.prefix_key([], [1, 3])


def test_unmeasured_rates_are_the_mean():
    """An unmeasured worker looks neither free nor dead."""
    assert policy.fill_rates([0, 100, 300]) == [200, 100, 300]
    assert policy.fill_rates([0, 0]) == [policy.DEFAULT_RATE] * 2


# --- books


def test_books_balance():
    """Every entry's tokens leave with it."""
    books = Books()
    a, b = (books.open(uncached=100, prompt=120, now=0.0) for _ in range(2))
    books.tokens(a, 1)
    books.tokens(a, 2)
    assert books.decode == 123
    assert books.waiting() == [b]
    books.close(a)
    books.close(a)
    books.close(b)
    assert (books.decode, len(books)) == (0, 0)


def test_queue_without_a_report_is_the_books():
    """Old reports say nothing."""
    books = Books()
    books.open(uncached=100, prompt=100, now=1.0)
    assert merge_queue(books.waiting(), [(9999.0, 0.0)], reported_at=0.0, now=11.0) == [(100.0, 10.0)]


def test_report_shows_progress_and_others():
    """Below the books: that much is computed. Above them: others sent it."""
    books = Books()
    books.open(uncached=100, prompt=100, now=1.0)
    assert merge_queue(books.waiting(), [(40.0, 1.0)], reported_at=2.0, now=2.0) == [(40.0, 1.0)]
    queue = merge_queue(books.waiting(), [(100.0, 1.0), (300.0, 0.5)], reported_at=2.0, now=2.0)
    assert sum(tokens for tokens, _ in queue) == pytest.approx(400)


def test_sent_after_the_report_counts_in_full():
    """The report cannot know it."""
    books = Books()
    books.open(uncached=100, prompt=100, now=2.5)
    assert merge_queue(books.waiting(), [], reported_at=2.0, now=3.0) == [(100.0, 0.5)]
