"""The line of waiting requests, in the order in which they are to be admitted.

`argosy_api.order` says by which rank. Of a preempted request no work is counted, since it had its turn before others of
its priority who wait now (nor of one that goes on with another attempt's answer: its reader waits in mid-sentence); a
larger priority goes before it as before any other. The rank has times of arrival in it, so
it gives the same order at any time, and a sorted list stays sorted. What changes is the work, when the prefix cache
gains or loses a block, and the rate. The line cannot look at every request in every step for that, or its own work
would grow with its length. It looks at

- whoever is first, before he is admitted (a block that was lost is noticed then at last);
- a few of those that wait for a block which was stored since: each request is filed under the first id that it misses;
- a few others, in turns.

A line of up to LOOKS requests is so in exact order in each step. In a longer one a rank may be some steps old.
"""

from bisect import bisect_left, insort
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from argosy_api.blocks import BlockId
from argosy_api.order import Discipline
from argosy_worker.core.blocks import BlockPool
from argosy_worker.core.request import Request

LOOKS = 16
"""Requests of each of the two kinds above that are looked at in a step."""
_SAME_RATE = 0.05
"""Ranks are kept while the measured speed of prompts has changed by less than this part."""


Rank = tuple[bool, float, float]


class Place(NamedTuple):
    """A request's place among those whose prompt is not computed yet. Immutable: other threads may read it."""

    rank: Rank
    number: int
    """Of the request among all that came: no two places are equal."""
    uncached_tokens: int
    """Tokens to compute before the request's next token, as far as known: an estimate while it waits."""
    arrival: float
    """Monotonic seconds."""
    priority: int = 0


@dataclass(slots=True)
class _Waiter:
    request: Request
    place: Place
    missing: BlockId | None = None
    """The first usable id that the prefix cache lacks."""
    group: "dict[str, _Waiter]" = field(default_factory=dict)
    """All who miss the same."""


class Line:
    """The waiting requests. Owned by one thread."""

    def __init__(self, pool: BlockPool, *, discipline: Discipline, rate: float, preempted_first: bool = False) -> None:
        """`rate`: tokens per second. `preempted_first`: who was preempted goes before all others, whatever the rank."""
        self._preempted_first = preempted_first
        self._pool = pool
        self._discipline = discipline
        self._rate = rate
        self._came = 0
        self._places: list[Place] = []
        self._waiters: OrderedDict[str, _Waiter] = OrderedDict()  # who was looked at longest ago comes first
        self._names: dict[int, str] = {}  # number -> request id
        self._missing: dict[BlockId, dict[str, _Waiter]] = {}
        self._found: deque[dict[str, _Waiter]] = deque()  # groups whose id was stored, not looked at since
        self.uncached_tokens = 0
        """Sum over the line."""

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._waiters

    # --- who waits

    def add(self, request: Request) -> None:
        """A request begins to wait."""
        self._came += 1
        place = self._place(request, self._came)
        self._names[place.number] = request.request_id
        self._waiters[request.request_id] = waiter = _Waiter(request, place)
        self._insert(place)
        self._file(waiter)

    def remove(self, request_id: str) -> Request | None:
        """A request waits no longer. None when it did not."""
        waiter = self._waiters.pop(request_id, None)
        if waiter is None:
            return None
        self._delete(waiter.place)
        self._unfile(waiter)
        del self._names[waiter.place.number]
        return waiter.request

    def first(self) -> tuple[Request, Rank] | None:
        """Who is to be admitted next, and his rank."""
        if not self._places:
            return None
        for _ in range(LOOKS):  # each look may show that his cached blocks are gone, and bring another one to the top
            place = self._places[0]
            self._look(self._waiters[self._names[place.number]])
            if self._places[0].number == place.number:
                break
        place = self._places[0]
        return self._waiters[self._names[place.number]].request, place.rank

    def arrivals(self) -> tuple[float, float]:
        """The oldest and the newest arrival. Walks through the line, which must not be empty."""
        found = [waiter.request.arrival for waiter in self._waiters.values()]
        return min(found), max(found)

    def head(self, count: int) -> Sequence[Place]:
        """The first `count` places."""
        return self._places[:count]

    def rank(self, request: Request, uncached_tokens: int) -> Rank:
        """Where a request with so much work belongs."""
        key = self._discipline.key(uncached_tokens / self._rate, request.arrival, request.priority)
        return True, key, request.arrival

    # --- what changes

    def stored(self, block_id: BlockId) -> None:
        """The prefix cache holds one more block."""
        group = self._missing.pop(block_id, None)
        if group is not None:
            self._found.append(group)

    def refresh(self, rate: float) -> None:
        """Before a step: look at some requests anew. `rate`: prompt tokens per second."""
        if abs(rate - self._rate) > _SAME_RATE * self._rate:
            self._rate = rate
        looks = LOOKS
        while looks and self._found:
            group = self._found[0]
            if group:
                self._look(next(iter(group.values())))
                looks -= 1
            else:
                self._found.popleft()
        for _ in range(min(LOOKS, len(self._waiters))):
            self._look(next(iter(self._waiters.values())))

    # --- how

    def _look(self, waiter: _Waiter) -> None:
        place = self._place(waiter.request, waiter.place.number)
        if place != waiter.place:
            self._delete(waiter.place)
            self._insert(place)
            waiter.place = place
        self._unfile(waiter)
        self._file(waiter)
        self._waiters.move_to_end(waiter.request.request_id)

    def _place(self, request: Request, number: int) -> Place:
        request.likely_hit = self._hit(request)
        work = request.remaining - request.likely_hit * request.block_size
        rank = self.rank(request, 0 if request.begun else work)
        if request.preemptions and self._preempted_first:
            rank = (False, *rank[1:])
        return Place(rank, number, work, request.arrival, request.priority)

    def _hit(self, request: Request) -> int:
        """Leading usable blocks that are known, from the number seen last. Admission matches from the start.

        Blocks of a chain are nearly always forgotten from its end, so a bisection finds where the known ones end.
        """
        ids, usable, hit = request.ids, request.usable_blocks, min(request.likely_hit, request.usable_blocks)
        if self._pool.window_blocks is not None:  # what is known need not begin at the start
            return self._pool.hit(ids, usable)[1]
        if (hit == 0 or self._pool.knows(ids[hit - 1])) and (hit == usable or not self._pool.knows(ids[hit])):
            return hit
        return bisect_left(range(usable), True, key=lambda i: not self._pool.knows(ids[i]))

    def _file(self, waiter: _Waiter) -> None:
        request = waiter.request
        if request.likely_hit < request.usable_blocks:
            waiter.missing = request.ids[request.likely_hit]
            waiter.group = self._missing.setdefault(waiter.missing, {})
            waiter.group[request.request_id] = waiter

    def _unfile(self, waiter: _Waiter) -> None:
        waiter.group.pop(waiter.request.request_id, None)
        if waiter.missing is not None and not waiter.group and self._missing.get(waiter.missing) is waiter.group:
            del self._missing[waiter.missing]
        waiter.missing, waiter.group = None, {}

    def _insert(self, place: Place) -> None:
        insort(self._places, place)
        self.uncached_tokens += place.uncached_tokens

    def _delete(self, place: Place) -> None:
        del self._places[bisect_left(self._places, place)]
        self.uncached_tokens -= place.uncached_tokens
