"""Whether a worker should fetch a prompt's blocks from another one instead of computing them. Pure, in seconds.

    fetch(w, s) = SETUP_S + MARGIN (cached(s) - cached(w)) bytes / transfer(w)
    compute     = (cached(s) - cached(w)) / R(w)

`bytes` are those of one token's keys and values, `transfer` is what the worker measured of its own fetches so far. It
pays when it saves LEAST_GAIN_S at least: a transfer takes time of both engines, and the estimate may be wrong.
"""

from collections.abc import Sequence
from dataclasses import dataclass

SETUP_S = 0.01
"""To connect and to ask."""
MARGIN = 1.5
"""A transfer takes longer where steps are computed between its copies, at either end."""
LEAST_GAIN_S = 0.05
DEFAULT_TRANSFER = 100e6
"""Bytes/s assumed of a worker that has fetched nothing yet: less than any data centre's network."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """A worker, as far as this decision needs it."""

    worker: str
    layout: str
    """Of its blocks: they move between equal ones only. Empty: it can neither send nor fetch."""
    cached: int
    """Tokens of the prompt that it surely holds, in whole blocks."""
    rate: float
    """Prefill tokens/s."""
    transfer: float
    """Bytes/s of its fetches; 0 until it has measured any."""
    inflight: float = 0.0
    """Prompt tokens that it has still to compute."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetch:
    """Worth its time."""

    source: str
    """The worker to ask."""
    tokens: int
    """Of the prompt, that are cached once it has ended."""
    seconds: float
    """That it takes."""


def best_source(holders: Sequence[Holder], layout: str) -> Holder | None:
    """Who holds most of the prompt in this layout; of equals the one with the least to do."""
    able = [h for h in holders if h.cached and h.layout == layout]
    return max(able, key=lambda h: (h.cached, -h.inflight), default=None)


def fetch_for(worker: Holder, holders: Sequence[Holder], bytes_per_token: float) -> Fetch | None:
    """What `worker` should fetch, if that is cheaper than to compute it."""
    source = best_source(holders, worker.layout) if worker.layout and bytes_per_token > 0 else None
    if source is None or source.cached <= worker.cached:
        return None
    tokens = source.cached - worker.cached
    needed = seconds(tokens, worker, bytes_per_token)
    if tokens / worker.rate - needed < LEAST_GAIN_S:
        return None
    return Fetch(source=source.worker, tokens=source.cached, seconds=needed)


def seconds(tokens: int, worker: Holder, bytes_per_token: float) -> float:
    """How long `worker` takes to fetch the blocks of so many tokens."""
    return SETUP_S + MARGIN * tokens * bytes_per_token / (worker.transfer or DEFAULT_TRANSFER)
