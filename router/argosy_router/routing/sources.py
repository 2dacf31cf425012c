"""From what is known of the workers to whom each candidate should fetch a prompt's blocks from."""

from collections.abc import Sequence
from dataclasses import replace

from argosy_router.fleet.deployment import DeploymentState
from argosy_router.fleet.peer import Peer
from argosy_router.routing import fetching, policy


def cheaper(
    state: DeploymentState,
    candidates: list[policy.Candidate],
    workers: Sequence[Peer],
    *,
    prompt: int,
    ids: Sequence[bytes],
    time: float,
) -> list[policy.Candidate]:
    """The candidates, with what each would do better to fetch from one of `workers`, themselves included.

    `prompt`: its length in tokens. `ids`: its blocks, as far as a cache may be used. Only those that are there count,
    no promised ones. Where all hold about the same, which is nearly always, it costs nothing; nor where the resource
    forbids it.
    """
    if not state.spec.fetch_blocks or len(state.workers) == 1:
        return candidates
    peers = {w.worker_id: w for w in workers}
    spread = max(c.cached for c in candidates) - min(c.cached for c in candidates)
    slowest = min(c.rate for c in candidates)
    alone = len(peers) == len(candidates) and spread < fetching.LEAST_GAIN_S * slowest
    if state.card is None or not ids or alone:
        return candidates
    facts = state.card.facts
    matched = state.index.match(ids)
    there = {name: matched.get(name, 0) for name, peer in peers.items() if peer.index_counts(time)}
    most = (prompt - 1) // facts.block_size
    known = {c.worker: c for c in candidates}
    holders = [
        _holder(peer, min(there.get(name, 0), most) * facts.block_size, known.get(name)) for name, peer in peers.items()
    ]
    size = facts.kv_block_bytes / facts.block_size
    return [
        replace(c, fetch=fetching.fetch_for(_holder(peers[c.worker], c.cached, c), holders, size)) for c in candidates
    ]


def given(
    state: DeploymentState,
    candidates: list[policy.Candidate],
    workers: Sequence[Peer],
    *,
    prompt: int,
    source: Peer,
) -> list[policy.Candidate]:
    """The candidates, all of which take the prompt's blocks from `source`, whose work it was to compute them."""
    if state.card is None or source.facts is None:
        return candidates
    facts, peers = state.card.facts, {w.worker_id: w for w in workers}
    most = (prompt - 1) // facts.block_size * facts.block_size
    made = []
    for candidate in candidates:
        mine = _holder(peers[candidate.worker], candidate.cached, candidate)
        able = mine.worker != source.worker_id and mine.layout == source.facts.kv_layout != ""
        fetch = None
        if able and candidate.cached < most:
            seconds = fetching.seconds(most - candidate.cached, mine, facts.kv_block_bytes / facts.block_size)
            fetch = fetching.Fetch(source=source.worker_id, tokens=most, seconds=seconds)
        made.append(replace(candidate, fetch=fetch))
    return made


def _holder(peer: Peer, cached: int, candidate: policy.Candidate | None) -> fetching.Holder:
    load = peer.load
    return fetching.Holder(
        worker=peer.worker_id,
        layout=peer.facts.kv_layout if peer.facts is not None else "",
        cached=cached,
        rate=candidate.rate if candidate is not None else policy.DEFAULT_RATE,
        transfer=load.transfer_bytes_per_second if load is not None else 0.0,
        inflight=candidate.inflight if candidate is not None else load.uncached_tokens if load is not None else 0.0,
    )
