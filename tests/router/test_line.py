"""Lines that are sorted once: what they say is what a formula says that looks at every request, for little work."""

import itertools
import random
import sys
from fractions import Fraction

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from argosy_api.order import PRIORITY_S, Discipline, Order
from argosy_router.routing import policy
from argosy_router.routing.books import REPORT_GOOD_S, Books, Report
from argosy_router.routing.line import Waiting
from argosy_router.routing.policy import Candidate

REPORTED_AT = 10.0
DISCIPLINES = [Discipline(), Discipline(ageing=2.0), Discipline(order=Order.FCFS)]


class Plain:
    """The line of some books, by the formula itself, in exact numbers: each request is looked at, each time."""

    def __init__(self, sent, report, done, engine, now):
        """`sent`: (uncached, at, contained, priority), of those without a token; `done`: (at, uncached); `engine`: rate, discipline."""
        self.rate, self.discipline = Fraction(engine[0]), engine[1]
        now = Fraction(now)
        own = [(Fraction(u), now - Fraction(at), 1, p) for u, at, contained, p in sent if not contained]
        if report is None or now - Fraction(report.at) > REPORT_GOOD_S:
            self.line = [(Fraction(u), now - Fraction(at), 1, p) for u, at, _, p in sent]
            return
        age = now - Fraction(report.at)
        known = [(Fraction(w.tokens), Fraction(w.waited) + age, w.requests, w.priority) for w in report.line]
        since = age if known else max((waited for _, waited, *_ in own), default=Fraction(0))
        budget = max(0, self.rate * since - sum(u for at, u in done if now - Fraction(at) <= since))
        budget_own = self.rate * max((waited for _, waited, *_ in own), default=Fraction(0))
        left = {True: [], False: []}
        both = [(p, False) for p in known] + [(p, True) for p in own]
        for (tokens, waited, requests, priority), mine in sorted(both, key=lambda item: self.rank(*item[0])):
            taken = min(tokens * requests, budget, budget_own if mine else budget)
            budget -= taken
            budget_own -= taken if mine else 0
            if taken < tokens * requests:
                left[mine].append((tokens - taken / requests, waited, requests, priority))
        total = sum(t * n for t, _, n, _ in left[False])
        most = report.others + sum(u for u, _, contained, _ in sent if contained)
        if total > most:
            left[False] = [(t * Fraction(most) / total, w, n, p) for t, w, n, p in left[False] if most]
        self.line = left[False] + left[True]

    def rank(self, tokens, waited, _, priority):
        important = Fraction(PRIORITY_S) * priority
        if self.discipline.order is Order.FCFS:
            return -waited - important
        return tokens / self.rate - Fraction(self.discipline.ageing) * waited - important

    @property
    def tokens(self):
        return float(sum(t * n for t, _, n, _ in self.line))

    def split(self, own, priority=0):
        mine = self.rank(Fraction(own) * self.rate, 0, 1, priority)
        ahead = [self.rank(*piece) <= mine for piece in self.line]
        return (
            float(sum(t * n for (t, _, n, _), first in zip(self.line, ahead, strict=True) if first)),
            sum(n for (_, _, n, _), first in zip(self.line, ahead, strict=True) if not first),
        )


class PlainReport(Report):
    """And what others sent of it."""

    others = 0.0


class Both:
    """Books, and beside them all that the plain formula needs."""

    def __init__(self, reported, sent, rate, discipline):
        self.rate, self.discipline = rate, discipline
        self.books, self.sent, self.done = Books(), {}, []
        for uncached, at, contained, priority in sent:
            self.send(uncached, min(at, REPORTED_AT) if contained else at, priority, contained=contained)
        self.report = reported
        if reported is not None:
            report = Report(accepted=100, line=reported, at=REPORTED_AT)
            self.books.take(report)
            self.report = PlainReport(accepted=100, line=reported, at=REPORTED_AT)
            mine = sum(e.uncached for e, contained in self.sent.items() if contained)
            object.__setattr__(self.report, "others", max(0, sum(w.tokens * w.requests for w in reported) - mine))

    def send(self, uncached, at, priority, *, contained=False):
        entry = self.books.open(uncached=uncached, prompt=uncached, now=at, priority=priority)
        self.books.accepted(entry, 100 if contained else 101)
        self.sent[entry] = contained

    def change(self, kind, which, uncached, now):
        """One more, or one less: with a first token, or without."""
        if kind == "send":
            self.send(uncached, now, which % 5 - 2)
        elif self.sent:
            entry = list(self.sent)[which % len(self.sent)]
            if kind == "token":
                if not (self.sent[entry] and self.report is not None):
                    self.done.append((entry.sent_at, entry.uncached))
                self.books.tokens(entry, 1, now)
            self.books.close(entry, now)
            del self.sent[entry]

    def lines(self, now):
        reported = self.report is not None
        sent = [(e.uncached, e.sent_at, contained and reported, e.priority) for e, contained in self.sent.items()]
        plain = Plain(sent, self.report, self.done, (self.rate, self.discipline), now)
        return self.books.line(self.rate, self.discipline, now), plain


def eighths(most):
    """Seconds without rounding, so that equal things are equal."""
    return st.integers(0, most * 8).map(lambda n: n / 8)


LENGTHS = st.integers(1, 500)
PRIORITIES = st.sampled_from([0, 0, 0, 1, -1, 10])
WORKERS = st.builds(
    Both,
    st.none() | st.lists(st.builds(Waiting, LENGTHS, eighths(20), st.integers(1, 3), PRIORITIES), max_size=12),
    st.lists(st.tuples(LENGTHS, eighths(10), st.booleans(), PRIORITIES), max_size=8),
    st.sampled_from([64.0, 1024.0, 4096.0]),
    st.sampled_from(DISCIPLINES),
)
CHANGES = st.tuples(st.sampled_from(["send", "token", "token", "close"]), st.integers(0, 20), LENGTHS)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(WORKERS, min_size=1, max_size=4),
    st.lists(st.tuples(CHANGES, eighths(1), LENGTHS, PRIORITIES), min_size=1, max_size=12),
)
def test_a_sorted_line_decides_as_the_plain_formula(workers, steps):
    """Whatever came and went since the report, in both orders: ahead, behind, load and the choice are the same."""
    now = REPORTED_AT
    for turn, (change, passed, prompt, priority) in enumerate(steps):
        now += passed
        workers[turn % len(workers)].change(*change, now)
        pairs = [w.lines(now) for w in workers]
        for worker, (line, plain) in zip(workers, pairs, strict=True):
            own = prompt / worker.rate
            ahead, behind = plain.split(own, priority)
            assert line.split(own, priority) == (pytest.approx(ahead, abs=1e-6), behind)
            assert line.tokens == pytest.approx(plain.tokens, abs=1e-6)
        new, old = (
            [
                Candidate(worker=str(i), queue=p[side], rate=workers[i].rate, priority=priority)
                for i, p in enumerate(pairs)
            ]
            for side in (0, 1)
        )
        prices = sorted(policy.cost(c, prompt) for c in old)
        limit = prices[0] + max(policy.TIE_S, policy.TIE_SHARE * prices[0])
        loads = sorted(c.inflight for c in old)
        # exactly on a limit the last bit of a float decides
        assume(all(abs(price - limit) > 1e-6 for price in prices))
        assume(all(a == b or b - a > 1e-6 for a, b in itertools.pairwise(loads)))
        choices = [policy.kv_aware(side, prompt, rng=random.Random(turn)) for side in (new, old)]
        assert choices[0].worker == choices[1].worker
        assert choices[0].reason == choices[1].reason


def work(action):
    """Steps of the interpreter that `action` takes."""
    count = 0

    def trace(frame, event, _):
        nonlocal count
        frame.f_trace_opcodes = True
        count += event == "opcode"
        return trace

    former = sys.gettrace()
    sys.settrace(trace)
    try:
        action()
    finally:
        sys.settrace(former)
    return count


def crowded(waiting, discipline, *, reported):
    """Books of many requests, a few of which have got their first token since the report."""
    books, rng = Books(), random.Random(0)
    entries = [
        books.open(uncached=rng.randrange(100, 8000), prompt=8000, now=rng.uniform(0, 10)) for _ in range(waiting)
    ]
    for entry in entries:
        books.accepted(entry, 1)
    if reported:
        books.take(Report(accepted=1, line=[Waiting(e.uncached, 10 - e.sent_at) for e in entries], at=10.0))
    for entry in entries[:3]:
        books.tokens(entry, 1, 10.0)
    return books


@pytest.mark.parametrize("discipline", DISCIPLINES)
@pytest.mark.parametrize("reported", [True, False])
def test_a_decision_costs_no_more_where_the_line_is_long(discipline, reported):
    """Between two changes, counted in steps of the interpreter: 64 times the line, hardly more work."""

    def cost(books, now):
        line = books.line(2000.0, discipline, now)
        policy.cost(Candidate(worker="a", queue=line, rate=2000.0), 3000)
        return line.tokens

    short, long = (crowded(n, discipline, reported=reported) for n in (64, 4096))
    for books in (short, long):
        cost(books, 10.125)  # sorts
    few, many = (work(lambda books=books: cost(books, 10.25)) for books in (short, long))
    assert few > 0
    assert many < 3 * few
