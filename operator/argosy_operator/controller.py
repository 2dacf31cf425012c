"""One level-triggered control loop per resource, and what must happen before a resource may go."""

import asyncio
import logging
import random
import time
from collections.abc import Callable, Mapping
from typing import Any

from argosy_api.backoff import Backoff
from argosy_api.faults import is_fault
from argosy_operator import conditions, pods
from argosy_operator.carry_out import delete_own
from argosy_operator.errors import ApiError
from argosy_operator.kube import KubeApi
from argosy_operator.loops import Loop, Wakeups
from argosy_operator.metrics import Health, Metrics
from argosy_operator.plan import WORKLOADS, ChildRef, Owner
from argosy_operator.reconcile import Memory, Reconciler
from argosy_operator.redis_cleanup import RedisCleanup
from argosy_operator.store import ChildStore

log = logging.getLogger(__name__)

DEBOUNCE_S = 0.05
"""Several children change at once; one pass is enough for them."""
DELETION_LIMIT_S = 45.0
"""A deletion waits for the workers this long at most; then they end without the resource."""
PATIENCE_S = 15.0
"""For so long it is tried again to delete workloads, where the API server does not do it."""
_AGAIN = Backoff(first=0.2, cap=4.0)
_ORPHAN = "orphan"

Body = Mapping[str, Any]


class Controller:
    """Control loops over a `Reconciler`. Who calls it and keeps the finalizer is not its business."""

    def __init__(
        self,
        *,
        api: KubeApi,
        reconciler: Reconciler,
        store: ChildStore,
        wakeups: Wakeups,
        metrics: Metrics,
        health: Health,
        redis: RedisCleanup,
    ) -> None:
        self._api, self._reconciler, self._store = api, reconciler, store
        self._wakeups, self._metrics, self._health, self._redis = wakeups, metrics, health, redis

    async def control(self, body: Body, is_stopped: Callable[[], bool], stopped: asyncio.Event) -> None:
        """The loop of one resource. `body` is live: what it shows changes as the resource does."""
        metadata = body["metadata"]
        key = (metadata["namespace"], metadata["name"])
        await self._store.synced()
        loop = self._wakeups.register(key, metadata["uid"])
        due = 0.0
        try:
            while not is_stopped():
                self._health.owe_pass(key, due)
                woken = await loop.news(stopped, due)
                if is_stopped() or loop.gone:
                    break
                if not woken:
                    loop.memory.status = None  # compare with what is there, which others may have changed
                async with loop.passing:
                    if "deletionTimestamp" in body["metadata"]:
                        break
                    loop.generation = body["metadata"].get("generation", 0)
                    self._health.owe_pass(key, 0.0)
                    due = await self._pass(dict(body), loop.memory)
                await asyncio.sleep(DEBOUNCE_S)
        finally:
            self._wakeups.unregister(key, loop)
            self._health.owe_pass(key, None)
            self._metrics.set_ready(*key, None)

    async def _pass(self, body: Body, memory: Memory) -> float:
        key = (body["metadata"]["namespace"], body["metadata"]["name"])
        began = time.monotonic()
        try:
            due, status = await self._reconciler.run(body, memory)
        except BaseException as error:
            if not is_fault(error):
                raise
            # whatever leaves a control loop would stop it for good, the panic of a library too
            memory.failures += 1
            due = random.uniform(15.0, 30.0)
            log.exception("%s/%s: the pass failed; again in %.0f s", *key, due)
            result = "failed"
        else:
            result = "retry" if memory.failures else "ok"
            ready = next(c for c in status.conditions if c.type == conditions.READY)
            self._metrics.set_ready(*key, ready.status == "True")
        self._metrics.passed(result, time.monotonic() - began)
        return due

    def heard(self, body: Body) -> None:
        """Something about a resource has changed."""
        metadata = body["metadata"]
        loop = self._wakeups.get((metadata["namespace"], metadata["name"]))
        if loop is not None and metadata.get("generation", 0) != loop.generation:  # else it is our own status
            loop.changed.set()
            loop.wake.set()

    async def before_it_goes(self, body: Body) -> None:
        """Let the workers end in peace. Bounded in time, and it never raises: a deletion must not hang."""
        metadata = body["metadata"]
        namespace, name = metadata["namespace"], metadata["name"]
        loop = self._wakeups.get((namespace, name))
        try:
            await self._end_workers(body, loop)
        except BaseException as error:
            if not is_fault(error):
                raise
            # a time-out, a call that is refused: whatever it is, the workers then end with the resource
            log.exception("%s/%s: its workers end with it", namespace, name)
        await self._redis.remove_keys(namespace, name)

    async def _end_workers(self, body: Body, loop: Loop | None) -> None:
        if loop is None:
            await self._delete_workloads(body)
        else:
            async with loop.passing:  # a pass on its way would make again what is deleted here
                await self._delete_workloads(body)

    async def _delete_workloads(self, body: Body) -> None:
        metadata = body["metadata"]
        if _ORPHAN in metadata.get("finalizers", ()):
            return
        owner = Owner(metadata["namespace"], metadata["name"], metadata["uid"])
        async with asyncio.timeout(10.0):
            await self._store.synced()
        for ref in self._store.of(owner).children:
            if ref.kind in WORKLOADS:
                await self._delete_patiently(owner, ref)
        drain = ((body.get("spec") or {}).get("drain") or {}).get("timeoutSeconds", 30)
        grace = drain if isinstance(drain, int) else 30
        until = time.monotonic() + min(DELETION_LIMIT_S, grace + pods.PRE_STOP_S + pods.SLACK_S)
        while self._store.has_pods(owner.namespace, owner.name) and time.monotonic() < until:  # noqa: ASYNC110 - no event for "none left"
            await asyncio.sleep(0.1)

    async def _delete_patiently(self, owner: Owner, ref: ChildRef) -> None:
        """An API server that fails for a moment must not cost the workers the time that they have to end."""
        until, failures = time.monotonic() + PATIENCE_S, 0
        while True:
            try:
                await delete_own(self._api, owner, ref)
            except ApiError as error:
                failures += 1
                wait = _AGAIN.jittered(failures)
                if not error.passing or time.monotonic() + wait > until:
                    raise
                await asyncio.sleep(wait)
            else:
                return

    async def pod_gone(self, namespace: str, name: str) -> None:
        """A worker has ended; when its resource is gone already, nobody else tidies up after it."""
        if self._wakeups.get((namespace, name)) is None and not self._store.has_pods(namespace, name):
            await self._redis.remove_keys(namespace, name)
