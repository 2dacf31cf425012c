"""One deployment as the router knows it: its workers, what they hold, and how requests become tokens."""

import asyncio
import logging
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import NamedTuple

from argosy_api.adapters import joined_name
from argosy_api.measures import Trial
from argosy_api.membership import Deployment
from argosy_api.resource import PREFILL
from argosy_api.retries import RetryBudget
from argosy_router.clock import now
from argosy_router.fleet.demand import DemandBooks
from argosy_router.fleet.peer import Peer
from argosy_router.fleet.waiting_room import WaitingRoom
from argosy_router.routing.index import KvIndex
from argosy_router.routing.index_health import IndexHealth
from argosy_router.routing.poison import Quarantine
from argosy_router.routing.policy import HashRing
from argosy_router.routing.predictions import Predictions
from argosy_router.text.models import ModelCard, ModelLibrary, ServedModel

log = logging.getLogger(__name__)

CAPACITY_SLACK = 64
"""Blocks above a worker's pool that its index entries may reach: removals can lag behind by one step."""


class Named(NamedTuple):
    """What a request's `model` names."""

    deployment: "DeploymentState"
    adapter: str
    """Name of one of its adapters; empty: the model itself."""

    @property
    def name(self) -> str:
        """In full."""
        return joined_name(self.deployment.name, self.adapter) if self.adapter else self.deployment.name


class DeploymentState:
    """One deployment: its workers, what they hold, and how requests become tokens."""

    def __init__(self, spec: Deployment) -> None:
        self.spec = spec
        self.name = spec.served_name
        """In requests, metrics and messages: the served name, or `namespace/name` where an older one has that."""
        self.name_taken_by = ""
        """`namespace/name` of that older one."""
        self.workers: dict[str, Peer] = {}
        self.card: ModelCard | None = None
        self.index = KvIndex()
        self.predictions = Predictions()
        self.truth = IndexHealth()
        self.demand = DemandBooks()
        self.retries = RetryBudget()
        self.quarantine = Quarantine()
        self.room = WaitingRoom(lambda: self.serves, self.demand)
        self.turn = 0
        self.splits = False
        """Whether a worker is for prompts alone."""
        self.changed = asyncio.Event()
        """Set when workers came, went or became known: the index feed looks at once."""
        self.trial: Trial | None = None
        """What is measured while there is a canary."""
        self._ring: HashRing | None = None
        self._known_at = datetime.now(UTC).timestamp()

    def ring(self, workers: Iterable[str]) -> HashRing:
        """The hash ring over these workers, built anew when they changed."""
        wanted = frozenset(workers)
        if self._ring is None or self._ring.workers != wanted:
            self._ring = HashRing(sorted(wanted))
        return self._ring

    def follow_canary(self) -> None:
        """Measure anew where the canary is another one."""
        canary = self.spec.canary
        if canary is None:
            self.trial = None
        elif self.trial is None or self.trial.revision != canary.revision:
            self.trial = Trial(canary.revision)

    def refresh(self, library: ModelLibrary) -> None:
        """Workers or their facts changed: choose the card, and which workers the index covers."""
        card = library.card(w.facts for w in self.workers.values() if w.facts is not None)
        self.splits = any(worker.role == PREFILL for worker in self.workers.values())
        self.card = card or self.card  # with nobody left a request is still understood, and told that nobody is there
        for worker in self.workers.values():
            covered = self.indexed(worker)
            if covered and worker.facts is not None:
                facts = worker.facts
                self.index.join(worker.worker_id, facts.total_blocks + facts.host_blocks + CAPACITY_SLACK)
                bit = self.index.bit(worker.worker_id)
                if self.index.new_epoch(worker.worker_id, worker.facts.epoch):
                    self.predictions.forget(bit)
            else:
                self.forget(worker.worker_id)
                if worker.facts is not None and worker.covered is not False:
                    log.warning(
                        "%s: worker %s has another model or block hash version; it is served, not indexed",
                        self.name, worker.worker_id,
                    )  # fmt: skip
            worker.covered = covered if worker.facts is not None else None
        self.changed.set()

    def indexed(self, worker: Peer) -> bool:
        """Whether the worker's blocks mean the same as this deployment's."""
        return self.card is not None and worker.facts is not None and self.card.indexable(worker.facts)

    @property
    def created_at(self) -> float:
        """When its resource was made; where nobody says so, when it became known here. Seconds since 1970."""
        return self.spec.created_at or self._known_at

    @property
    def hopeful(self) -> bool:
        """Whether a worker is about to be known that takes requests."""
        return any(worker.about_to_be_known for worker in self.workers.values())

    @property
    def serves(self) -> bool:
        """Whether a worker is there that takes requests."""
        return self.card is not None and bool(self.candidates(now(), frozenset()))

    @property
    def holds(self) -> bool:
        """Whether a request waits here for a worker: there is none, and one is started for whoever asks."""
        return self.spec.hold_s > 0 and not self.serves

    def forget(self, worker_id: str) -> None:
        """Drop all that the index says about a worker."""
        self.predictions.forget(self.index.bit(worker_id))
        self.index.leave(worker_id)

    @property
    def adapters(self) -> dict[str, str]:
        """Names of the adapters that its workers have, and which one each is (digest): where they differ, as with an
        adapter that is being replaced, that of most workers.
        """
        count = Counter(
            (name, digest)
            for worker in self.workers.values()
            if not worker.spec.terminating
            for name, digest in worker.adapters.items()
        )
        return {name: digest for (name, digest), _ in sorted(count.items(), key=lambda pair: pair[1])}

    def may_come(self, adapter: str) -> bool:
        """Whether nobody is known to have an adapter (by name), and a worker has not said yet which it has."""
        silent = any(worker.load is None for worker in self.workers.values() if worker.facts is not None)
        return bool(adapter) and silent and adapter not in self.adapters

    def served_as(self, fingerprint: str) -> ServedModel | None:
        """The facts of a worker that has this fingerprint; None where none is known."""
        facts = (worker.facts for worker in self.workers.values())
        return next((known for known in facts if known is not None and known.fingerprint == fingerprint), None)

    def may_have(self, alike: ServedModel | None) -> bool:
        """Whether a worker may come to be there that gives the same answers as `alike`."""
        known = [worker.facts for worker in self.workers.values()]
        return not known or any(facts is None or facts.answers_as(alike) for facts in known)

    def candidates(
        self,
        time: float,
        excluded: frozenset[str],
        *,
        wanted: int = 0,
        alike: ServedModel | None = None,
        adapter: str = "",
    ) -> list[Peer]:
        """Workers that may get a request of `wanted` tokens: those that can hold it, and of these the healthy ones.

        If there is no healthy one, those that failed a moment ago; if none can hold all of it, the largest: what can't
        be had is refused, or cut, by the worker's own words. With `alike` only healthy ones that would give the same
        answer; with `adapter` only those that have the one with this digest.
        """
        card = self.card
        known = [
            w
            for w in self.workers.values()
            if not w.spec.terminating
            and w.worker_id not in excluded
            and w.facts is not None
            and (not adapter or adapter in w.adapters.values())
            # token ids of another tokenizer would be another prompt
            and (card is None or w.facts.tokenizer_key == card.facts.tokenizer_key)
        ]
        # with nobody else, whoever answers: the operator, which declares pods ready, may be away
        usable = [w for w in known if w.spec.serving] or [w for w in known if w.answers(time)]
        if card is not None:
            wanted = min(wanted, card.facts.max_model_len)
        if alike is not None:
            return [
                w
                for w in usable
                if w.answers(time) and w.facts is not None and w.facts.answers_as(alike, wanted=wanted)
            ]
        usable = [w for w in usable if w.fits(wanted)] or _largest(usable)
        return [w for w in usable if w.answers(time)] or usable


def _largest(workers: list[Peer]) -> list[Peer]:
    sizes = [min(w.facts.max_model_len, w.facts.total_blocks * w.facts.block_size) if w.facts else 0 for w in workers]
    return [w for w, size in zip(workers, sizes, strict=True) if size == max(sizes)]
