"""The deployments and workers that the router knows, kept in step with the membership."""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Collection, Coroutine
from typing import Any

import grpc

from argosy_api.adapters import joined_name
from argosy_api.ending import end
from argosy_api.errors import NotFoundError
from argosy_api.membership import Membership
from argosy_api.names import holders
from argosy_router.fleet.deployment import DeploymentState, Named
from argosy_router.fleet.peer import Peer
from argosy_router.text.models import ModelLibrary

log = logging.getLogger(__name__)

CLOSE_GRACE_S = 600.0
"""A worker that left the membership may still end its streams; then its channel is closed."""

_LATEST = ":latest"


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

    @property
    def states(self) -> Collection[DeploymentState]:
        """All of them, in no order: for what is done with every request."""
        return self._deployments.values()

    def resolve(self, model: str) -> DeploymentState:
        """The deployment that a request's `model` picks. Raises like `named`."""
        return self.named(model).deployment

    def named(self, model: str) -> Named:
        """What a request's `model` picks: a deployment by its served name, or by `namespace/name`; behind a colon one
        of its adapters.

        Raises:
            NotFoundError: there is none; lists those that are.

        """
        found = self._names.get(model)
        if found is not None:
            return Named(found, "")
        base, _, adapter = model.rpartition(":")
        found = self._names.get(base)
        if found is not None and (adapter in found.spec.adapters or adapter in found.adapters):
            return Named(found, adapter)
        names = [name for d in self.deployments for name in (d.name, *(joined_name(d.name, a) for a in d.adapters))]
        listed = ", ".join(names[:20]) + (", …" if len(names) > 20 else "")
        raise NotFoundError(
            f"model: {model[:100]!r} is not served here; " + (f"served are: {listed}" if names else "nothing is")
        )

    def known_as(self, model: str) -> str:
        """The name without the tag that clients of Ollama put behind one that has none, where only that is known."""
        if model.endswith(_LATEST):
            try:
                self.named(model)
            except NotFoundError:
                return model.removesuffix(_LATEST)
        return model

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
