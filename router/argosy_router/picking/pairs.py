"""Which router is a worker's: all requests for one worker pass one router, whose books of that worker are then exact.

Several routers that send to one worker know of each other's requests by its reports only, and of each other's promised
blocks (`routing.predictions`) not at all. Pure.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

FALLBACKS = 2
"""Further routers that a gateway is told of, for when the first does not answer."""


def paired(workers: Iterable[str], routers: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """For each worker the routers in the order in which they are to be tried; `routers` must not be empty.

    The first by the highest hash (a router that comes or goes moves few workers), and no router is the first of more
    workers than its share, rounded up.
    """
    names = sorted(set(workers))
    room = -(-len(names) // len(routers))
    taken: Counter[str] = Counter()
    found = {}
    for worker in names:
        ranked = sorted(routers, key=lambda router: _rank(worker, router))
        first = next(router for router in ranked if taken[router] < room)
        taken[first] += 1
        found[worker] = (first, *(router for router in ranked if router != first))
    return found


def endpoints(order: Sequence[str]) -> str:
    """As a gateway wants to be told: the first, and some to fall back on."""
    return ",".join(order[: 1 + FALLBACKS])


class Pairs:
    """What `paired` gives, kept until workers or routers change."""

    def __init__(self) -> None:
        self._of: tuple[frozenset[str], tuple[str, ...]] = (frozenset(), ())
        self._found: Mapping[str, tuple[str, ...]] = {}

    def order(self, worker: str, workers: Iterable[str], routers: Sequence[str]) -> tuple[str, ...]:
        """The routers to be tried for a worker, one of `workers`; there is a router."""
        now = (frozenset(workers), tuple(sorted(routers)))
        if now != self._of:
            self._of, self._found = now, paired(*now)
        return self._found[worker]


def _rank(worker: str, router: str) -> bytes:
    return hashlib.blake2b(f"{worker}\n{router}".encode(), digest_size=8).digest()
