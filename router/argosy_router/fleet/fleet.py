"""The deployments and workers that the router knows, kept in step with the membership."""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

import grpc

from argosy_api.ending import end
from argosy_api.errors import NotFoundError
from argosy_api.measures import Trial
from argosy_api.membership import Deployment, Membership
from argosy_api.names import holders
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

CLOSE_GRACE_S = 600.0
"""A worker that left the membership may still end its streams; then its channel is closed."""
CAPACITY_SLACK = 64
"""Blocks above a worker's pool that its index entries may reach: removals can lag behind by one step."""


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
        self.changed = asyncio.Event()
        """Set when workers came, went or became known: the index feed looks at once."""
        self.trial: Trial | None = None
        """What is measured while there is a canary."""
        self._ring: HashRing | None = None

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

    def served_as(self, fingerprint: str) -> ServedModel | None:
        """The facts of a worker that has this fingerprint; None where none is known."""
        facts = (worker.facts for worker in self.workers.values())
        return next((known for known in facts if known is not None and known.fingerprint == fingerprint), None)

    def may_have(self, alike: ServedModel | None) -> bool:
        """Whether a worker may come to be there that gives the same answers as `alike`."""
        known = [worker.facts for worker in self.workers.values()]
        return not known or any(facts is None or facts.answers_as(alike) for facts in known)

    def candidates(
        self, time: float, excluded: frozenset[str], *, wanted: int = 0, alike: ServedModel | None = None
    ) -> list[Peer]:
        """Workers that may get a request of `wanted` tokens: those that can hold it, and of these the healthy ones.

        If there is no healthy one, those that failed a moment ago; if none can hold all of it, the largest: what can't
        be had is refused, or cut, by the worker's own words. With `alike` only healthy ones that would give the same
        answer.
        """
        card = self.card
        known = [
            w
            for w in self.workers.values()
            if not w.spec.terminating
            and w.worker_id not in excluded
            and w.facts is not None
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


class Fleet:
    """All deployments. `watch` is called for each new worker and `feed` for each deployment; both return their task.

    `see_off` waits until a worker that has left has no request any more.
    """

    def __init__(
        self,
        library: ModelLibrary,
        watch: Callable[[DeploymentState, Peer], asyncio.Task[None]],
        feed: Callable[[DeploymentState], asyncio.Task[None]],
        see_off: Callable[[DeploymentState, Peer], Coroutine[Any, Any, None]],
    ) -> None:
        self._library = library
        self._watch = watch
        self._feed = feed
        self._see_off = see_off
        self._deployments: dict[str, DeploymentState] = {}
        self._names: dict[str, DeploymentState] = {}
        self._tasks: dict[object, asyncio.Task[None]] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self.known = False
        """Whether a membership was read."""

    @property
    def deployments(self) -> list[DeploymentState]:
        """All of them, in the order of their names."""
        return sorted(self._deployments.values(), key=lambda d: d.name)

    def resolve(self, model: str) -> DeploymentState:
        """The deployment that a request's `model` picks: by its served name, or by `namespace/name`.

        Raises:
            NotFoundError: there is none; lists those that are.

        """
        found = self._names.get(model)
        if found is not None:
            return found
        names = [d.name for d in self.deployments]
        listed = ", ".join(names[:20]) + (", …" if len(names) > 20 else "")
        raise NotFoundError(
            f"model: {model[:100]!r} is not served here; " + (f"served are: {listed}" if names else "nothing is")
        )

    def apply(self, view: Membership) -> None:
        """Bring everything in step with a new view."""
        wanted = {d.qualified_name: d for d in view.deployments}
        for key in self._deployments.keys() - wanted.keys():
            gone = self._deployments.pop(key)
            for worker in list(gone.workers.values()):
                self._remove(gone, worker)
            self._stop(key)
        for key, spec in wanted.items():
            state = self._deployments.get(key)
            if state is None:
                state = self._deployments[key] = DeploymentState(spec)
                self._tasks[key] = self._feed(state)
            state.spec = spec
            state.follow_canary()
            self._apply_workers(state)
        self._name_all()
        self.known = True

    def _name_all(self) -> None:
        """Of equal served names the oldest deployment has it; `namespace/name` can't be taken by anybody's."""
        have = holders(state.spec.claim for state in self._deployments.values())
        self._names = {}
        for key, state in self._deployments.items():
            holder = have[state.spec.served_name]
            mine = holder == state.spec.claim
            state.name = state.spec.served_name if mine else key
            state.name_taken_by = "" if mine else f"{holder.namespace}/{holder.name}"
            self._names[state.name] = state
        self._names |= self._deployments

    def _apply_workers(self, state: DeploymentState) -> None:
        wanted = {w.worker_id: w for w in state.spec.workers}
        before = set(state.workers)
        for worker in list(state.workers.values()):
            spec = wanted.get(worker.worker_id)
            if spec is None or spec.address != worker.spec.address:
                self._remove(state, worker)
            else:
                worker.spec = spec
        for worker_id, spec in wanted.items():
            if worker_id not in state.workers:
                worker = state.workers[worker_id] = Peer(spec)
                self._tasks[worker] = self._watch(state, worker)
        if before != set(state.workers):
            state.refresh(self._library)

    def _remove(self, state: DeploymentState, worker: Peer) -> None:
        del state.workers[worker.worker_id]
        state.forget(worker.worker_id)
        self._stop(worker)
        self._later(self._leave(state, worker))

    async def _leave(self, state: DeploymentState, worker: Peer) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_GRACE_S):
                await self._see_off(state, worker)
        await _close(worker.channel, None)

    def _stop(self, key: object) -> None:
        task = self._tasks.pop(key, None)
        if task is not None:
            self._later(end(task))

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        closing = asyncio.create_task(work)
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)

    def turn_away(self, why: str) -> None:
        """Whoever waits for a first worker is told this."""
        for state in self._deployments.values():
            state.room.close(why)

    async def close(self) -> None:
        """Ends all watching and closes all channels."""
        await end(*self._tasks.values(), *self._closing)
        for deployment in self._deployments.values():
            for worker in deployment.workers.values():
                await _close(worker.channel, None)


async def _close(channel: grpc.aio.Channel, grace: float | None) -> None:
    with contextlib.suppress(asyncio.CancelledError):
        await channel.close(grace)
