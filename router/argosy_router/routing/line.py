"""The line of prompts at a worker, kept so that asking it costs little however long it is.

Which of two waiting requests an engine computes first does not change while they wait (`argosy_api.order`).
So a line is sorted once, when it changes, with running sums; what is before a new request is found by bisection.
Pure: the caller gives the time (monotonic seconds).
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from itertools import accumulate
from typing import NamedTuple

from argosy_api.order import Discipline, Order

SLACK_S = 1e-6
"""What lies about so close to a limit is looked at one by one: rounding must not decide."""


class Waiting(NamedTuple):
    """Prompts in a worker's line: `requests` of them, of `tokens` uncached tokens each, which waited for so long."""

    tokens: float
    waited: float = 0.0
    requests: int = 1
    priority: int = 0


class Piece(NamedTuple):
    """The same, with the time since when they wait in place of how long."""

    tokens: float
    since: float
    requests: int = 1
    priority: int = 0


class Ordered:
    """Pieces in the order in which an engine of `rate` tokens/s computes them. Never changes."""

    __slots__ = (
        "discipline", "earliest", "first", "keys", "last", "least", "most", "pieces", "rate", "requests", "sums",
    )  # fmt: skip

    def __init__(self, pieces: Iterable[Piece], rate: float, discipline: Discipline) -> None:
        self.rate, self.discipline = rate, discipline
        keyed = [(discipline.key(p.tokens / rate, p.since, p.priority), p) for p in pieces if p.tokens > 0]
        keyed.sort(key=lambda item: item[0])
        self.keys = [key for key, _ in keyed]
        self.pieces = [piece for _, piece in keyed]
        self.sums = list(accumulate((p.tokens * p.requests for p in self.pieces), initial=0.0))
        """Tokens of those before each place; the last is of all."""
        self.requests = list(accumulate((p.requests for p in self.pieces), initial=0))
        self.least = min((p.tokens for p in self.pieces), default=0.0)
        self.most = max((p.tokens for p in self.pieces), default=0.0)
        self.earliest = min((p.since for p in self.pieces), default=0.0)
        offsets = [discipline.offset(p.since, p.priority) for p in self.pieces]
        self.first, self.last = min(offsets, default=0.0), max(offsets, default=0.0)
        """Least and most of what in a key does not depend on the work."""

    @property
    def tokens(self) -> float:
        """Of all."""
        return self.sums[-1]

    def before(self, key: float) -> float:
        """Tokens of those that go before a piece with this key which was there first."""
        return self.sums[bisect_left(self.keys, key)]


class Rest(NamedTuple):
    """What is left of a line of which `taken` tokens are computed: `scale[0]` in place of `scale[1]` tokens.

    Scaling makes every prompt shorter by the same share; the pieces computed are those of the line as it was sorted.
    """

    ordered: Ordered
    taken: float = 0.0
    scale: tuple[float, float] = (1.0, 1.0)

    @property
    def tokens(self) -> float:
        """All that is left."""
        return self._scaled(self.ordered.tokens - self.taken)

    def upto(self, most: float) -> "Rest":
        """The same, of not more than `most` tokens."""
        total = self.ordered.tokens - self.taken
        return self if total <= most else self._replace(scale=(most, total))

    def split(self, own: float, now: float, priority: int) -> tuple[float, int]:
        """Tokens of those that a request of `own` seconds, arriving `now`, waits for; how many it delays."""
        line = self.ordered
        if self.scale[0] <= 0:
            return 0.0, 0
        ahead, behind = 0.0, 0
        mine = line.discipline.key(own, now, priority)
        begun, first = self._begun()
        if begun is not None:
            if self._key(begun) <= mine:
                ahead += begun.tokens * begun.requests
            else:
                behind += begun.requests
        low, high = self._limits(mine, first)
        ahead += line.sums[low] - line.sums[first]
        behind += line.requests[-1] - line.requests[high]
        for piece in line.pieces[low:high]:
            if self._key(piece) <= mine:
                ahead += piece.tokens * piece.requests
            else:
                behind += piece.requests
        return self._scaled(ahead), behind

    def pieces(self) -> Iterator[Piece]:
        """One by one."""
        if self.scale[0] <= 0:
            return
        begun, first = self._begun()
        for piece in [begun, *self.ordered.pieces[first:]] if begun is not None else self.ordered.pieces[first:]:
            yield piece._replace(tokens=self._scaled(piece.tokens))

    def _scaled(self, tokens: float) -> float:
        most, total = self.scale
        return tokens if most == total else tokens * most / total

    def _key(self, piece: Piece) -> float:
        return self.ordered.discipline.key(self._scaled(piece.tokens) / self.ordered.rate, piece.since, piece.priority)

    def _begun(self) -> tuple[Piece | None, int]:
        """What is left of the piece that is computed in part, and the place of the first whole one."""
        line = self.ordered
        first = bisect_right(line.sums, self.taken) - 1  # the last place with not more than `taken` before it
        if first == len(line.pieces) or line.sums[first] == self.taken:
            return None, first
        piece = line.pieces[first]
        return piece._replace(tokens=(line.sums[first + 1] - self.taken) / piece.requests), first + 1

    def _limits(self, mine: float, first: int) -> tuple[int, int]:
        """Of the places from `first` on: those before the one are ahead of key `mine`, those from the other are not.

        Between them scaling may have changed the order. A piece's key with all its tokens is `tokens / rate + offset`;
        with a share of them it is `share tokens / rate` instead, that is `share key + (1 - share) offset`. From both
        follow limits, by the shortest and longest prompt and by the least and the most of the offsets.
        """
        line = self.ordered
        most, total = self.scale
        if most == total or line.discipline.order is Order.FCFS:
            place = bisect_right(line.keys, mine, first)
            return place, place
        share = most / total
        cut = 1 - share
        low = max(mine + cut * line.least / line.rate, (mine - cut * line.last) / share)
        high = min(mine + cut * line.most / line.rate, (mine - cut * line.first) / share)
        slack = SLACK_S / share
        return bisect_left(line.keys, low - slack, first), bisect_right(line.keys, high + slack, first)


class Line(NamedTuple):
    """What waits at a worker at one moment."""

    now: float
    rests: tuple[Rest, ...] = ()

    @classmethod
    def of(cls, waiting: Iterable[Waiting], rate: float, discipline: Discipline, now: float = 0.0) -> "Line":
        """A line that is known piece by piece."""
        pieces = (Piece(w.tokens, now - w.waited, w.requests, w.priority) for w in waiting)
        return cls(now, (Rest(Ordered(pieces, rate, discipline)),))

    @property
    def tokens(self) -> float:
        """Uncached tokens still to compute."""
        return sum(rest.tokens for rest in self.rests)

    def split(self, own: float, priority: int = 0) -> tuple[float, int]:
        """Tokens that the engine computes before a new request of `own` seconds; how many requests come after it."""
        ahead, behind = 0.0, 0
        for rest in self.rests:
            tokens, requests = rest.split(own, self.now, priority)
            ahead += tokens
            behind += requests
        return ahead, behind

    def waiting(self) -> list[Waiting]:
        """One by one; costs as much as the line is long."""
        return [
            Waiting(p.tokens, self.now - p.since, p.requests, p.priority) for rest in self.rests for p in rest.pieces()
        ]


def moved_on(known: Ordered, fresh: Ordered, budget: float, most_fresh: float) -> tuple[Rest, Rest]:
    """Takes `budget` computed tokens off both lines, in the engine's order, and of `fresh` not more than `most_fresh`.

    Of equals the known one goes first.
    """

    def fresh_before(place: int) -> float:
        return min(fresh.before(known.keys[place]), most_fresh)

    def after(place: int) -> float:
        return known.sums[place + 1] + fresh_before(place)

    end = bisect_left(range(len(known.keys)), budget, key=after)  # where the budget ends, or all of them
    of_known = known.sums[end]
    of_fresh = min(budget - of_known, fresh.tokens, most_fresh)
    if end < len(known.keys) and budget - of_known > (first := fresh_before(end)):
        of_known, of_fresh = min(budget - first, known.sums[end + 1]), first
    return Rest(known, of_known), Rest(fresh, of_fresh)
