"""Autoscaling of one resource's processes, by the operator's own decision and what the router tells."""

import asyncio
import time
from collections.abc import Callable

from argosy_cli.embedded import states
from argosy_cli.embedded.assembly import Kept, Workers
from argosy_cli.embedded.probes import Routes
from argosy_operator.autoscaling import pilot
from argosy_operator.autoscaling.edge import worth
from argosy_operator.autoscaling.pilot import Found, ScalingMemory
from argosy_operator.autoscaling.signals import Told, signals
from argosy_operator.autoscaling.victims import victims
from argosy_operator.observe import PodView

AGAIN_S = 1.0


class Scaler:
    """Runs until it is cancelled; who is being ended then is left to whoever ends the run."""

    def __init__(
        self, workers: Workers, routes: Routes, start: Callable[[Kept], None], *, changed: Callable[[], None]
    ) -> None:
        """`start` runs one more."""
        self._workers, self._routes, self._start, self._changed = workers, routes, start, changed
        self._memory = ScalingMemory()
        self._going: dict[asyncio.Task[None], Kept] = {}

    async def run(self) -> None:
        """Look, decide, start or end; again and again."""
        while True:
            told = await self._told()
            there = [kept for kept in self._workers.kept if kept not in self._going.values()]
            serving = sum(kept.replica.state.ready for kept in there)
            found = Found(len(there), serving, None)
            course = pilot.steer(self._workers.resource, found, signals(told, time.monotonic()), self._memory)
            if course is not None:
                self._follow(course.replicas, there, told)
            await asyncio.sleep(AGAIN_S)

    async def _told(self) -> Told | None:
        meta, said = self._workers.resource.metadata, await self._routes.said()
        if said is None:
            return None
        mine = [d for d in said.deployments if (d.namespace, d.name) == (meta.namespace, meta.name)]
        return Told(time.monotonic(), 1, [mine[0] if mine else None])

    def _follow(self, wanted: int, there: list[Kept], told: Told | None) -> None:
        # names of those that still end are not free
        for _ in range(min(wanted - len(there), len(self._workers.pods) - len(self._workers.kept))):
            self._start(self._workers.add())
        if wanted < len(there):
            for kept in self._who_goes(len(there) - wanted, there, told):
                self._going[asyncio.create_task(self._end(kept))] = kept
        self._changed()

    @staticmethod
    def _who_goes(count: int, there: list[Kept], told: Told | None) -> list[Kept]:
        views = [PodView(name=k.replica.pod.name, ready=k.replica.state.phase == states.READY) for k in there]
        losses = {} if told is None else worth(told, time.monotonic())
        names = {view.name for view in victims(views, losses, count)}
        starting = [k for k, view in zip(there, views, strict=True) if not view.ready][:count]
        return [*starting, *(k for k in there if k.replica.pod.name in names)]

    async def _end(self, kept: Kept) -> None:
        await kept.keeper.end()
        self._workers.remove(kept)
        task = asyncio.current_task()
        if task is not None:
            self._going.pop(task, None)
        self._changed()
