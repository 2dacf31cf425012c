"""Which worker a request goes to: pure functions over what is known of the candidates. One unit, seconds; no cliffs.

kvAware, the default, takes the least

    cost(w) = ahead / R  +  own  +  BETA behind own  +  DECODE_S decode / capacity  +  pressure
    own     = (prompt - cached(w)) / R,   R the worker's measured prefill rate, tokens/s;
              or, where that is less, the time to fetch blocks from another worker and to compute the rest (`fetching`)
    ahead   = uncached tokens in the worker's queue that its engine computes before this request
    behind  = number of queued requests that it computes after this request, and which this one delays

Each worker says in which order its engine computes (`argosy_api.order`), so that a short or an important request is not
told to wait for a long one. BETA prices the delay of others. There is no cap on a worker's load beside the cost:
a crowded worker is left when another is cheaper in seconds, and not before.

prefixHash sends equal beginnings to one worker by consistent hashing with bounded load; roundRobin takes turns.
"""

import bisect
import hashlib
import heapq
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from argosy_router.routing.fetching import Fetch
from argosy_router.routing.line import Line

BETA = 2.0
"""Of 0 to 3 the best means and tails in the replays of `benchmarks/routing_model.py`."""
DECODE_S = 1.0
"""Seconds charged for a worker whose whole KV cache belongs to generating requests: each step carries them along."""
PRESSURE_FROM = 0.9
PRESSURE_S = 2.0
"""Seconds charged at a full KV cache, rising from PRESSURE_FROM: the next step there may be a preemption."""
BOUND = 1.25
BOUND_FLOOR_S = 1.0
"""prefixHash's cap on load binds only above this much queued work, or an idle fleet would lose its affinity to it."""
DEFAULT_RATE = 2000.0
"""Tokens/s assumed while no worker of a deployment has measured its own."""
TIE_S = 0.001
TIE_SHARE = 0.1
"""Costs within this share of the least are equal: measured rates are not better known than that."""
HASHED_BLOCKS = 8
VIRTUAL_NODES = 256
TOLD = 8
"""Candidates that a choice remembers: the cheapest ones."""
NOBODY = Line(0.0)
"""The line of a worker where nothing waits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One worker, as far as a decision needs it. Tokens, unless said otherwise."""

    worker: str
    cached: int = 0
    """Of this request's prompt, in the worker's prefix cache (whole blocks, never the last token)."""
    queue: Line = NOBODY
    """The requests whose prompt is not computed yet."""
    rate: float = DEFAULT_RATE
    """Prefill tokens per second."""
    priority: int = 0
    """Of this request."""
    decode: float = 0.0
    """Context of the generating requests."""
    capacity: int = 0
    """Of the KV cache; 0 when unknown."""
    used: float = 0.0
    """Fraction of the KV cache in use by running requests."""
    held_blocks: int = 0
    fetch: Fetch | None = None
    """What it would do better to fetch from another worker."""

    @property
    def inflight(self) -> float:
        """Uncached tokens still to compute."""
        return self.queue.tokens


class Terms(NamedTuple):
    """The parts of a cost, in seconds; their sum is the cost."""

    ahead: float
    own: float
    behind: float
    decode: float
    pressure: float


class Considered(NamedTuple):
    """A worker that a request could have gone to."""

    worker: str
    cached: int
    """Tokens of the prompt, in its cache."""
    terms: Terms
    source: str
    """The worker from which it would fetch blocks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The picked worker and why."""

    worker: str
    cached: int
    reason: str
    cost_s: float = 0.0
    considered: Sequence[Considered] = ()
    """The cheapest ones, the best first, where they were priced."""


def cost(candidate: Candidate, prompt: int) -> float:
    """Seconds, as in the module's formula. `prompt` is the request's length in tokens."""
    return sum(terms(candidate, prompt))


def terms(candidate: Candidate, prompt: int) -> Terms:
    """The same, part by part."""
    rate = candidate.rate
    own = max(1, prompt - candidate.cached) / rate
    if candidate.fetch is not None:
        own = candidate.fetch.seconds + max(1, prompt - candidate.fetch.tokens) / rate
    ahead, behind = candidate.queue.split(own, candidate.priority)
    decode = DECODE_S * candidate.decode / candidate.capacity if candidate.capacity else 0.0
    pressure = PRESSURE_S * max(0.0, candidate.used - PRESSURE_FROM) / (1 - PRESSURE_FROM)
    return Terms(ahead / rate, own, own * BETA * behind, decode, pressure)


def within_bound(candidates: Sequence[Candidate], prompt: int) -> list[Candidate]:
    """Those whose queued tokens stay within BOUND x the mean, this request included; all, if none does."""
    total = sum(c.inflight for c in candidates)
    fair = BOUND * (total + prompt) / len(candidates)
    kept = [
        c for c in candidates if c.inflight + max(1, prompt - c.cached) <= max(fair, BOUND_FLOOR_S * c.rate + prompt)
    ]
    return kept or list(candidates)


def kv_aware(candidates: Sequence[Candidate], prompt: int, *, rng: random.Random) -> Choice:
    """The least cost; among equals one that holds most of the prompt, and of these the less loaded of two drawn."""
    if len(candidates) == 1:
        return _only(candidates[0], prompt)
    parts = {c.worker: terms(c, prompt) for c in candidates}
    priced = [(sum(parts[c.worker]), c) for c in candidates]
    least = min(price for price, _ in priced)
    ties = [(price, c) for price, c in priced if price - least <= max(TIE_S, TIE_SHARE * least)]
    longest = max(c.cached for _, c in ties)
    best_cached = [(price, c) for price, c in ties if c.cached == longest]
    # two, not all: other routers see the same least loaded one at this moment
    drawn = rng.sample(best_cached, 2) if len(best_cached) > 2 else best_cached
    price, best = min(drawn, key=lambda pc: (pc[1].inflight + pc[1].decode, pc[1].held_blocks, rng.random()))
    most = max(c.cached for c in candidates)
    if best.cached and best.cached == most:
        reason = "prefix"
    elif most > best.cached:
        reason = "load"
    else:
        reason = "tie" if len(ties) > 1 else "least"
    cheapest = heapq.nsmallest(TOLD, priced, key=lambda pc: pc[0])
    told = [_considered(c, parts[c.worker]) for _, c in cheapest]
    return Choice(worker=best.worker, cached=best.cached, reason=reason, cost_s=price, considered=told)


def _only(candidate: Candidate, prompt: int) -> Choice:
    parts = terms(candidate, prompt)
    told = (_considered(candidate, parts),)
    return Choice(worker=candidate.worker, cached=candidate.cached, reason="only", cost_s=sum(parts), considered=told)


def _considered(candidate: Candidate, parts: Terms) -> Considered:
    source = candidate.fetch.source if candidate.fetch is not None else ""
    return Considered(candidate.worker, candidate.cached, parts, source)


def named(candidates: Sequence[Candidate], prompt: int, worker: str) -> Choice | None:
    """The worker that was picked before the request came here; None where it can't have it now, or none was."""
    found = next((c for c in candidates if c.worker == worker), None)
    if found is None:
        return None
    return Choice(worker=worker, cached=found.cached, reason="picked", cost_s=cost(found, prompt))


def round_robin(candidates: Sequence[Candidate], turn: int) -> Choice:
    """In turn, over the workers in the order of their ids."""
    chosen = sorted(candidates, key=lambda c: c.worker)[turn % len(candidates)]
    return Choice(worker=chosen.worker, cached=chosen.cached, reason="turn")


class HashRing:
    """A consistent hash ring over worker ids: a worker that comes or goes moves only its own share of the keys."""

    def __init__(self, workers: Sequence[str]) -> None:
        self.workers = frozenset(workers)
        points = sorted((_point(f"{w}#{i}".encode()), w) for w in self.workers for i in range(VIRTUAL_NODES))
        self._points = [p for p, _ in points]
        self._owners = [w for _, w in points]

    def walk(self, key: bytes) -> Iterator[str]:
        """The workers, each once, in the order in which the ring offers them for `key`. Only as far as it is read."""
        start = bisect.bisect(self._points, _point(key))
        seen: set[str] = set()
        for i in range(len(self._owners)):
            owner = self._owners[(start + i) % len(self._owners)]
            if owner not in seen:
                seen.add(owner)
                yield owner
                if len(seen) == len(self.workers):
                    return


def prefix_hash(candidates: Sequence[Candidate], prompt: int, key: bytes, ring: HashRing) -> Choice:
    """The first worker from the key's place on the ring whose load stays within the bound."""
    by_id = {c.worker: c for c in candidates}
    allowed = {c.worker for c in within_bound([_blind(c) for c in candidates], prompt)}
    order = (w for w in ring.walk(key) if w in by_id)
    first = next(order)
    chosen = first if first in allowed else next((w for w in order if w in allowed), first)
    return Choice(worker=chosen, cached=by_id[chosen].cached, reason="hash" if chosen == first else "bound")


def prefix_key(ids: Sequence[bytes], tokens: Sequence[int]) -> bytes:
    """What `prefix_hash` hashes: the chained id of the first HASHED_BLOCKS blocks, or the tokens of a short prompt."""
    if ids:
        return ids[min(len(ids), HASHED_BLOCKS) - 1]
    return b"".join(t.to_bytes(4, "little") for t in tokens)


def fill_rates(measured: Sequence[float]) -> list[float]:
    """Prefill rates, unmeasured ones (0) replaced by the mean of the others, so that nobody looks free or dead."""
    known = [r for r in measured if r > 0]
    mean = sum(known) / len(known) if known else DEFAULT_RATE
    return [r if r > 0 else mean for r in measured]


def _blind(candidate: Candidate) -> Candidate:
    """A hash policy does not know what is cached."""
    return Candidate(worker=candidate.worker, queue=candidate.queue, rate=candidate.rate)


def _point(key: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "big")
