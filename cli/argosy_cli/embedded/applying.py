"""Changes of a run that goes on: resources that come, change and go, by what their pods are called.

A pod's name holds a hash of all that it is made of. So a pod that is still wanted under its name is left alone; what is
wanted under new names is started, and what is wanted no more ends once all that is new serves.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from argosy_api.ending import end
from argosy_api.orders import Order
from argosy_api.resource import InferenceDeployment, examine
from argosy_cli.embedded.assembly import Kept, Workers
from argosy_cli.embedded.states import RunState
from argosy_cli.errors import CommandError

LOOK_S = 0.2
Start = Callable[[Kept], None]


class Applier:
    """Carries out orders on the workers of a run; all in its event loop."""

    def __init__(
        self,
        state: RunState,
        workers: list[Workers],
        build: Callable[[InferenceDeployment], Workers],
        check: Callable[[Sequence[InferenceDeployment]], None],
        *,
        start: Start,
        scale: Callable[[Workers], "asyncio.Task[None]"],
        changed: Callable[[], None],
    ) -> None:
        """Set it up.

        Args:
            state: of the run; says which resources there are.
            workers: of the run; changed in place.
            build: makes the workers of a resource, none of which runs.
            check: refuses resources that this machine cannot run; raises CommandError.
            start: runs a replica.
            scale: begins to scale workers whose number follows the load.
            changed: called after each change.

        """
        self._state, self._workers, self._build, self._check = state, workers, build, check
        self._start, self._scale, self._changed = start, scale, changed
        self._scalers: dict[str, asyncio.Task[None]] = {}
        self._leaving: dict[str, asyncio.Task[None]] = {}

    def begin(self) -> None:
        """Scale those that are there from the start."""
        for workers in self._workers:
            self._scaled(workers)

    async def stop(self) -> None:
        """Nothing is scaled or replaced any more."""
        await end(*self._scalers.values(), *self._leaving.values())

    def cancel(self) -> None:
        """The same without waiting."""
        for task in (*self._scalers.values(), *self._leaving.values()):
            task.cancel()

    async def carry_out(self, order: Order) -> None:
        """Do it.

        Raises:
            CommandError: what of it cannot be done; nothing of it was.

        """
        wanted = [self._read(document) for document in order.apply]
        there = {_key(workers.resource): workers for workers in self._workers}
        gone = [self._named(name) for name in order.remove]
        self._refuse(wanted, there)
        for workers in gone:
            await self._end(workers)
        for resource in wanted:
            before = there.get(_key(resource))
            if before is None:
                self._add(self._build(resource))
            elif before.resource != resource:
                await self._change(before, self._build(resource))
        if order.kill:
            self._kill(order.kill)
        self._changed()

    @staticmethod
    def _read(document: Any) -> InferenceDeployment:
        found = examine(document)
        if isinstance(found, InferenceDeployment):
            return found
        raise CommandError(found[0].message)

    def _refuse(self, wanted: Sequence[InferenceDeployment], there: dict[str, Workers]) -> None:
        self._check(wanted)
        for resource in wanted:
            before = there.get(_key(resource))
            olds = [] if before is None else [before.resource]
            if any(r.spec.resources.gpu is not None for r in (resource, *olds)) and resource not in olds:
                raise CommandError(
                    f"{resource.metadata.name}: workers with GPUs are not changed in a run; `argosy down` first"
                )
        names = {key: workers.resource.served_name for key, workers in there.items()}
        names |= {_key(resource): resource.served_name for resource in wanted}
        for key, name in names.items():
            if list(names.values()).count(name) > 1:
                raise CommandError(f"{key}: another resource of this run is served as {name!r}, too")

    def _named(self, name: str) -> Workers:
        found = [w for w in self._workers if name in {w.resource.metadata.name, _key(w.resource)}]
        if len(found) != 1:
            there = ", ".join(sorted(w.resource.metadata.name for w in self._workers))
            raise CommandError(f"there is no resource {name} in this run; there are: {there}")
        return found[0]

    def _add(self, workers: Workers) -> None:
        self._workers.append(workers)
        self._state.resources.append(workers.state)
        for kept in workers.kept:
            self._start(kept)
        self._scaled(workers)

    def _scaled(self, workers: Workers) -> None:
        if workers.resource.spec.autoscaling is not None:
            self._scalers[_key(workers.resource)] = self._scale(workers)

    async def _change(self, workers: Workers, fresh: Workers) -> None:
        """Make `workers` what `fresh` is: the same pods stay, new ones start, the others end after that."""
        key = _key(workers.resource)
        await end(*filter(None, (self._scalers.pop(key, None), self._leaving.pop(key, None))))
        names = {kept.replica.pod.name for kept in fresh.kept}
        workers.resource, workers.make, workers.pods = fresh.resource, fresh.make, fresh.pods
        workers.state.served_name, workers.state.uri = fresh.state.served_name, fresh.state.uri
        going = [kept for kept in workers.kept if kept.replica.pod.name not in names]
        there = {kept.replica.pod.name for kept in workers.kept}
        for kept in fresh.kept:
            if kept.replica.pod.name not in there:
                workers.kept.append(kept)
                workers.state.replicas.append(kept.replica.state)
                self._start(kept)
        self._leaving[key] = asyncio.create_task(self._replace(workers, going, names))

    async def _replace(self, workers: Workers, going: list[Kept], names: set[str]) -> None:
        """End those that go, as soon as all that came serve: until then the old ones do."""
        came = [kept for kept in workers.kept if kept.replica.pod.name in names]
        while not all(kept.replica.state.ready for kept in came):  # noqa: ASYNC110 - processes decide
            await asyncio.sleep(LOOK_S)
        for kept in going:
            kept.keeper.terminate()
        await asyncio.gather(*(self._gone(workers, kept) for kept in going))
        self._scaled(workers)

    async def _gone(self, workers: Workers, kept: Kept) -> None:
        await kept.keeper.end()
        workers.remove(kept)
        self._changed()

    async def _end(self, workers: Workers) -> None:
        key = _key(workers.resource)
        await end(*filter(None, (self._scalers.pop(key, None), self._leaving.pop(key, None))))
        for kept in workers.kept:
            kept.keeper.terminate()
        self._changed()
        await asyncio.gather(*(kept.keeper.end() for kept in workers.kept))
        self._workers.remove(workers)
        self._state.resources.remove(workers.state)

    def _kill(self, name: str) -> None:
        found = [kept for w in self._workers for kept in w.kept if kept.replica.pod.name == name]
        if not found:
            raise CommandError(f"there is no replica {name} in this run")
        found[0].keeper.crash()


def _key(resource: InferenceDeployment) -> str:
    return f"{resource.metadata.namespace}/{resource.metadata.name}"
