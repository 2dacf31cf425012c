"""What is looked at now and then, not counted where it happens: tasks, bytes, workers, and the event loop's bursts."""

import asyncio
import time

from argosy_router.clock import now
from argosy_router.fleet.membership import MembershipSource
from argosy_router.metrics import Metrics
from argosy_router.service import Service

LOOK_S = 1.0
BURST_S = 0.02


class Gauges:
    """Of one router. `watch` and `bursts` run beside it until they are cancelled."""

    def __init__(self, service: Service, metrics: Metrics, source: MembershipSource) -> None:
        self._service = service
        self._metrics = metrics
        self._source = source
        self._shown: set[str] = set()

    async def watch(self) -> None:
        """Sets the gauges, and writes what is kept of the latest requests."""
        while True:
            self._look()
            await asyncio.sleep(LOOK_S)

    def _look(self) -> None:
        service, metrics = self._service, self._metrics
        names = {state.name for state in service.fleet.deployments}
        for name in self._shown - names:
            metrics.forget(name)
        self._shown = names
        service.recent.write()
        metrics.membership_up.set(not self._source.problem)
        metrics.tasks.set(len(asyncio.all_tasks()))
        metrics.held.set(service.admission.held)
        for state in service.fleet.deployments:
            workers, present = list(state.workers.values()), now()
            ready = sum(w.facts is not None and w.healthy(present) for w in workers)
            leaving = sum(w.spec.terminating for w in workers)
            waiting = sum(not w.spec.serving and not w.spec.terminating for w in workers)
            metrics.line.labels(state.name).set(service.gate.waiting(state))
            gauge = metrics.workers
            gauge.labels(state.name, "ready").set(ready)
            gauge.labels(state.name, "standby").set(waiting)
            gauge.labels(state.name, "terminating").set(leaving)
            gauge.labels(state.name, "ejected").set(len(workers) - ready - leaving - waiting)

    async def bursts(self) -> None:
        """How long the event loop works before someone else gets a turn: what one request costs all the others.

        Processor time, not time: on a busy machine a wait says nothing of what was done in it.
        """
        while True:
            before = time.thread_time()
            await asyncio.sleep(BURST_S)
            self._metrics.burst.observe(time.thread_time() - before)
