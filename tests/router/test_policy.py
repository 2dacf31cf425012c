"""The routing policies and the books: pure functions."""

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from argosy_api.order import RESOURCE_DEFAULTS, Discipline, Order
from argosy_router.routing import policy
from argosy_router.routing.books import REPORT_GOOD_S, Books, Report, reported_line
from argosy_router.routing.line import Line, Waiting
from argosy_router.routing.policy import Candidate, HashRing

RNG = random.Random(0)


def line(*waiting, rate=1000.0, discipline=RESOURCE_DEFAULTS):
    return Line.of(waiting, rate, discipline)


def pick(*candidates, prompt=1000):
    return policy.kv_aware(candidates, prompt, rng=RNG)


def test_cost_of_an_idle_worker_is_its_own_work():
    """No queue, no decode: the uncached tokens over the rate, nothing else."""
    c = Candidate(worker="a", cached=600, rate=100.0)
    assert policy.cost(c, 1000) == pytest.approx(4.0)


def test_short_request_does_not_wait_for_a_long_one():
    """The engine computes the least remaining work first; the long one is delayed by the short one's work."""
    queue = line(Waiting(10_000), discipline=Discipline(ageing=0.0))
    long_queue = Candidate(worker="a", queue=queue, rate=1000.0)
    assert policy.cost(long_queue, 100) == pytest.approx(0.1 * (1 + policy.BETA))
    assert policy.cost(long_queue, 20_000) == pytest.approx(10 + 20)


def test_ageing_puts_an_old_long_request_first():
    """Waited long enough, a long request is ahead of a short one."""
    waiting = Waiting(10_000, 100.0)
    old = Candidate(worker="a", queue=line(waiting), rate=1000.0)
    assert policy.cost(old, 100) == pytest.approx(10 + 0.1)
    patient = Candidate(worker="a", queue=line(waiting, discipline=Discipline(ageing=0.01)), rate=1000.0)
    assert policy.cost(patient, 100) == pytest.approx(0.1 * (1 + policy.BETA))


def test_first_come_first_served_puts_all_ahead():
    """A short request waits for everything that was there before it, and delays nobody."""
    queue = line(Waiting(10_000, 0.0), Waiting(500, 3.0), discipline=Discipline(order=Order.FCFS))
    fcfs = Candidate(worker="a", queue=queue, rate=1000.0)
    assert policy.cost(fcfs, 100) == pytest.approx(10.5 + 0.1)


def test_of_equal_ones_the_best_cached_is_never_left_out():
    """However many look equal: whoever holds the prefix gets the request, not the better of two drawn."""
    fast = [Candidate(worker=str(i), rate=1e9) for i in range(30)]
    holder = Candidate(worker="holder", cached=900, rate=1e9, decode=5.0)
    assert {pick(*fast, holder).worker for _ in range(100)} == {"holder"}


def test_prefix_wins_on_an_idle_fleet():
    """The worker that holds the prefix gets the request, every time."""
    for _ in range(50):
        choice = pick(Candidate(worker="a"), Candidate(worker="b", cached=512), Candidate(worker="c"))
        assert (choice.worker, choice.cached, choice.reason) == ("b", 512, "prefix")


def test_load_beats_a_small_prefix_continuously():
    """More work queued at the holder: at some point, and from there on, another worker is the cheaper one."""
    chosen = []
    for queued in range(0, 5000, 250):
        holder = Candidate(worker="a", cached=512, queue=line(Waiting(queued, 1000.0)), rate=1000.0)
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
    busy = Candidate(worker="a", cached=900, queue=line(Waiting(50_000)), rate=1000.0)
    idle = [Candidate(worker=w, rate=1000.0) for w in "bcd"]
    assert {c.worker for c in policy.within_bound([busy, *idle], 1000)} == {"b", "c", "d"}


def test_work_ahead_is_weighed_against_the_prefix():
    """The holder of most of the prompt is left where its line would cost more than computing the prompt anew."""
    for order, reason in ((Order.FCFS, "load"), (Order.LEAST_WORK, "prefix")):  # there the short rest goes first
        queue = line(Waiting(50_000), discipline=Discipline(order=order))
        busy = Candidate(worker="a", cached=900, queue=queue, rate=1000.0)
        assert pick(busy, *(Candidate(worker=w, rate=1000.0) for w in "bcd")).reason == reason


def test_bound_never_leaves_nobody():
    """All above the bound: all stay."""
    all_busy = [Candidate(worker=w, queue=line(Waiting(10_000), rate=1.0), rate=1.0) for w in "ab"]
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
            queue=st.lists(st.builds(Waiting, st.floats(0, 1e5), st.floats(0, 1e3), st.integers(1, 9)), max_size=5).map(
                lambda waiting: line(*waiting)
            ),
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
    """Nobody is clearly cheaper than the chosen one."""
    choice = policy.kv_aware(candidates, prompt, rng=RNG)
    least = min(policy.cost(c, prompt) for c in candidates)
    assert choice.cost_s <= least + max(policy.TIE_S, policy.TIE_SHARE * least) + 1e-9


def test_round_robin_takes_turns():
    """In the order of the ids."""
    candidates = [Candidate(worker=w) for w in "cab"]
    assert [policy.round_robin(candidates, i).worker for i in range(6)] == list("abcabc")


def test_hash_ring_moves_only_its_share():
    """A worker that leaves moves its own keys and no other."""
    keys = [str(i).encode() for i in range(500)]
    before = {k: next(HashRing("abcd").walk(k)) for k in keys}
    after = {k: next(HashRing("abc").walk(k)) for k in keys}
    assert all(after[k] == before[k] for k in keys if before[k] != "d")
    assert {before[k] for k in keys} == set("abcd")
    assert all(sorted(HashRing("abcd").walk(k)) == list("abcd") for k in keys[:20])


def test_prefix_hash_is_stable_and_bounded():
    """One key, one worker; when it is overloaded, the next one of the ring."""
    ring = HashRing("abcd")
    first, second = itertools.islice(ring.walk(b"key"), 2)
    candidates = [Candidate(worker=w, rate=1000.0) for w in "abcd"]
    assert {policy.prefix_hash(candidates, 100, b"key", ring).worker for _ in range(5)} == {first}
    loaded = [Candidate(worker=w, rate=1000.0, queue=line(*[Waiting(90_000)] * (w == first))) for w in "abcd"]
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
    books.tokens(a, 1, 1.0)
    books.tokens(a, 2, 1.1)
    assert books.decode == 123
    assert books.waiting() == [b]
    books.close(a, 2.0)
    books.close(a, 2.0)
    books.close(b, 2.0)
    assert (books.decode, len(books)) == (0, 0)


IN_ORDER = Discipline(order=Order.FCFS)


def tokens(waiting):
    return sum(w.tokens * w.requests for w in waiting)


def test_line_without_a_good_report_is_the_books():
    """No report, or an old one, says nothing: a worker that hangs does not look idle."""
    books = Books()
    books.open(uncached=100, prompt=100, now=1.0)
    assert books.line(10.0, IN_ORDER, 3.0).waiting() == [Waiting(100, 2.0)]
    books.take(Report(accepted=0, line=[Waiting(9999.0)], at=0.0))
    now = REPORT_GOOD_S + 1e-6
    assert books.line(10.0, IN_ORDER, now).waiting() == [Waiting(100, now - 1.0)]


def test_what_a_report_contains_is_as_it_says_and_the_rest_counts_on_top():
    """By the worker's own number of each submission, whatever the clocks say."""
    books = Books()
    first, second = (books.open(uncached=100, prompt=100, now=1.0) for _ in range(2))
    unanswered = books.open(uncached=100, prompt=100, now=0.5)
    books.accepted(first, 7)
    books.accepted(second, 8)
    books.take(Report(accepted=7, line=[Waiting(40.0, 1.0)], at=2.0))
    assert books.line(10.0, IN_ORDER, 2.0).tokens == pytest.approx(40 + 100 + 100)
    books.accepted(unanswered, 6)
    assert books.line(10.0, IN_ORDER, 2.0).tokens == pytest.approx(40 + 100)


def test_what_others_sent_counts():
    """Above our own: other routers'."""
    books = Books()
    books.accepted(books.open(uncached=100, prompt=100, now=1.0), 1)
    books.take(Report(accepted=9, line=[Waiting(100.0, 1.0), Waiting(300.0, 0.5)], at=2.0))
    assert books.line(10.0, IN_ORDER, 2.0).tokens == pytest.approx(400)


def test_what_of_ours_went_on_since_a_report_was_written_is_nobody_elses():
    """It comes later than it was written, and an idle worker would look busy to the only router that sends there."""
    books = Books()
    prompt, ended, earlier = (books.open(uncached=100, prompt=120, now=1.0) for _ in range(3))
    for number, entry in enumerate((prompt, ended, earlier)):
        books.accepted(entry, number)
    books.tokens(earlier, 1, 1.1)
    books.tokens(ended, 3, 1.2)
    books.close(earlier, 1.2)
    books.close(ended, 2.05)
    books.tokens(prompt, 1, 2.1)
    books.take(Report(accepted=2, line=[Waiting(100.0, 1.0)], at=2.0, decode=123.0))
    assert books.line(10.0, IN_ORDER, 2.1).waiting() == []
    assert (books.decoding(2.1), books.released) == (121, 123)
    books.close(prompt, 2.2)
    assert (books.decoding(2.2), books.released) == (0, 123 + 121)
    books.take(Report(accepted=2, line=[], at=2.6))
    assert (books.decoding(2.6), books.released) == (0, 121)


def test_what_others_generate_counts_while_the_report_is_good():
    """On top of ours, which the books know better."""
    books = Books()
    ours = books.open(uncached=100, prompt=120, now=1.0)
    books.accepted(ours, 1)
    books.tokens(ours, 1, 1.5)
    books.take(Report(accepted=9, line=[], at=2.0, decode=1120.0))
    assert books.decoding(2.0) == 1120
    books.tokens(ours, 30, 2.1)
    assert books.decoding(2.1) == 1150
    books.close(ours, 2.2)
    assert books.decoding(2.2) == 999
    assert books.decoding(2.0 + REPORT_GOOD_S + 1e-6) == 0


def test_the_line_moves_on_at_the_workers_rate():
    """Half a second after the report half a second's work is done, in the engine's order; ours beyond it comes later."""
    books = Books()
    books.take(Report(accepted=0, line=[Waiting(300.0, 2.0), Waiting(100.0, 1.0)], at=2.0))
    assert books.line(1000.0, IN_ORDER, 2.25).waiting() == [Waiting(50.0, 2.25), Waiting(100.0, 1.25)]
    books.open(uncached=180, prompt=200, now=2.25)
    assert books.line(1000.0, IN_ORDER, 2.5).waiting() == [Waiting(80.0, 0.25)]  # those before it took 0.4 s of 0.5


def test_the_line_does_not_move_before_it_is_there():
    """An idle worker's report is no credit: a request sent later is begun when it is sent."""
    books = Books()
    books.take(Report(accepted=0, line=[], at=2.0))
    books.open(uncached=500, prompt=500, now=2.9)
    assert books.line(1000.0, IN_ORDER, 3.0).tokens == pytest.approx(400)


def test_a_first_token_says_that_the_prompt_is_computed():
    """Of what the report contains no more can be left than ours without a token and what others sent."""
    books = Books()
    done, waits = (books.open(uncached=n, prompt=n, now=1.0) for n in (5000, 700))
    books.accepted(done, 1)
    books.accepted(waits, 2)
    books.take(Report(accepted=2, line=[Waiting(4000.0, 1.0), Waiting(700.0, 1.0)], at=2.0))
    books.tokens(done, 1, 2.0)
    assert books.line(100.0, IN_ORDER, 2.0).tokens == pytest.approx(700)


def test_totals_beyond_the_named_requests_count():
    """A report names 256 requests at most; 300 and 3,000 waiting are not alike."""
    named = [Waiting(500.0, 1.0)] * 256
    small, large = (reported_line(named, total=500.0 * n, requests=n) for n in (300, 3000))
    assert (tokens(small), tokens(large)) == (150_000, 1_500_000)
    assert [sum(w.requests for w in line) for line in (small, large)] == [300, 3000]
    assert reported_line([Waiting(500.0, 1.0)], total=500.0, requests=3) == [Waiting(500.0, 1.0)]


def test_a_new_process_has_an_empty_line():
    """What the old one reported is void."""
    books = Books()
    books.take(Report(accepted=5, line=[Waiting(4000.0)], at=2.0))
    books.take(None)
    assert books.line(100.0, IN_ORDER, 2.0).waiting() == []


@given(
    st.lists(st.tuples(st.integers(1, 10_000), st.floats(0, 10), st.booleans()), max_size=8),
    st.lists(st.builds(Waiting, st.floats(1, 1e4), st.floats(0, 10), st.integers(1, 3)), max_size=8),
    st.sampled_from([Discipline(), IN_ORDER]),
    st.floats(1, 1e5),
    st.floats(0, REPORT_GOOD_S),
)
def test_a_line_is_never_longer_than_what_is_known(sent, reported, discipline, rate, age):
    """Moving on takes off at most what the rate allows, and adds nothing."""
    books = Books()
    for n, (uncached, at, contained) in enumerate(sorted(sent, key=lambda s: s[1])):
        books.accepted(books.open(uncached=uncached, prompt=uncached, now=at), n if contained else 1_000_000)
    books.take(Report(accepted=1000, line=reported, at=10.0))
    now = 10.0 + age
    left = books.line(rate, discipline, now).waiting()
    most = tokens(reported) + sum(u for u, _, contained in sent if not contained)
    assert all(w.tokens > 0 for w in left)
    assert tokens(left) <= most * (1 + 1e-9)
    began = 10.0 if reported else min((at for _, at, contained in sent if not contained), default=now)
    mine = sum(u for u, _, contained in sent if contained)
    kept = min(tokens(reported), max(0.0, tokens(reported) - mine) + mine)
    assert tokens(left) >= kept + most - tokens(reported) - rate * (now - began) - 1e-3
