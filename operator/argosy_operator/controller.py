"""Kopf's side: one level-triggered control loop per resource, and what must happen before a resource may go.

No create, update or resume handlers: they would write the whole spec into an annotation, and see edges only. Children
are not Kopf's business either: after 410 Gone it does not notice what has vanished, so reflectors watch them.
"""

import asyncio
import itertools
import logging
import random
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import kopf

from argosy_api.resource import GROUP, PLURAL, VERSION, Condition
from argosy_kube.access import Access
from argosy_operator import conditions, pods
from argosy_operator.carry_out import delete_own
from argosy_operator.errors import ApiError
from argosy_operator.kube import KubeApi
from argosy_operator.metrics import Health, Metrics
from argosy_operator.plan import DEPLOYMENT, Owner
from argosy_operator.reconcile import Memory, Reconciler
from argosy_operator.redis_cleanup import remove_keys
from argosy_operator.store import ChildStore

log = logging.getLogger(__name__)

DEBOUNCE_S = 0.05
"""Several children change at once; one pass is enough for them."""
DELETION_LIMIT_S = 45.0
"""A deletion waits for the workers this long at most; then they end without the resource."""
FINALIZER = f"{GROUP}/operator"
_ORPHAN = "orphan"

Key = tuple[str, str]


@dataclass(slots=True)
class _Loop:
    """One running control loop."""

    uid: str
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    """Something has changed: of the resource, a child or a router."""
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    """The resource has changed: reason enough not to wait for the end of a backoff."""
    generation: int = -1
    """Of the last pass."""
    passing: asyncio.Lock = field(default_factory=asyncio.Lock)
    memory: Memory = field(default_factory=Memory)


class Wakeups:
    """Wakes control loops; waking one that is not there is harmless."""

    def __init__(self) -> None:
        self._loops: dict[Key, _Loop] = {}

    def register(self, key: Key, uid: str) -> _Loop:
        """A loop begins, awake."""
        loop = self._loops[key] = _Loop(uid)
        loop.wake.set()
        return loop

    def unregister(self, key: Key, loop: _Loop) -> None:
        """It has ended."""
        if self._loops.get(key) is loop:
            del self._loops[key]

    def get(self, key: Key) -> _Loop | None:
        """The loop of a resource."""
        return self._loops.get(key)

    def poke(self, key: Key | None) -> None:
        """Wake one; None: all."""
        for loop in self._loops.values() if key is None else filter(None, [self._loops.get(key)]):
            loop.wake.set()


class Controller:
    """Control loops over a `Reconciler`."""

    def __init__(
        self,
        *,
        api: KubeApi,
        reconciler: Reconciler,
        store: ChildStore,
        wakeups: Wakeups,
        metrics: Metrics,
        health: Health,
        redis_url: str,
        start: Callable[[Coroutine[Any, Any, None]], None],
    ) -> None:
        """`start` runs something in the background for as long as the operator lives."""
        self._api, self._reconciler, self._store = api, reconciler, store
        self._wakeups, self._metrics, self._health = wakeups, metrics, health
        self._redis_url, self._start = redis_url, start
        self._going: set[str] = set()

    async def control(self, body: Mapping[str, Any], is_stopped: Callable[[], bool], stopped: asyncio.Event) -> None:
        """The loop of one resource. `body` is live: what it shows changes as the resource does."""
        metadata = body["metadata"]
        key = (metadata["namespace"], metadata["name"])
        await self._store.synced()
        loop = self._wakeups.register(key, metadata["uid"])
        due = 0.0
        try:
            while not is_stopped():
                # while calls fail, children that come and go must not turn into a hail of further calls
                woken = await _first_of(loop.changed if loop.memory.failures else loop.wake, stopped, due)
                if is_stopped():
                    break
                loop.wake.clear()
                loop.changed.clear()
                if not woken:
                    loop.memory.status = None  # compare with what is there, which others may have changed
                async with loop.passing:
                    if "deletionTimestamp" in body["metadata"]:
                        break
                    loop.generation = body["metadata"].get("generation", 0)
                    due = await self._pass(dict(body), loop.memory)
                await asyncio.sleep(DEBOUNCE_S)
        finally:
            self._wakeups.unregister(key, loop)
            self._metrics.set_ready(*key, None)

    async def _pass(self, body: Mapping[str, Any], memory: Memory) -> float:
        key = (body["metadata"]["namespace"], body["metadata"]["name"])
        began = time.monotonic()
        try:
            due, status = await self._reconciler.run(body, memory)
        except Exception:
            # whatever leaves a control loop would stop it for good
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

    async def heard(self, body: Mapping[str, Any]) -> None:
        """Something about a resource has changed."""
        metadata = body["metadata"]
        key = (metadata["namespace"], metadata["name"])
        self._health.seen(key, metadata.get("resourceVersion", ""))
        loop = self._wakeups.get(key)
        if "deletionTimestamp" in metadata:
            if FINALIZER in metadata.get("finalizers", ()):
                await self._before_it_goes(body, loop)
                self._going.add(metadata["uid"])
                self._start(self._nudge(metadata))
            else:
                self._going.discard(metadata["uid"])  # somebody else's finalizer keeps it
        elif loop is not None and metadata.get("generation", 0) != loop.generation:  # else it is our own status
            loop.changed.set()
            loop.wake.set()

    def gone(self, uid: str) -> None:
        """A resource is no longer there."""
        self._going.discard(uid)

    async def _before_it_goes(self, body: Mapping[str, Any], loop: _Loop | None) -> None:
        """Kopf lets the resource go when this returns. Bounded, and it never raises: a deletion must not hang."""
        try:
            if loop is None:
                await self._end_workers(body)
            else:
                async with loop.passing:  # a pass on its way would make again what is deleted here
                    await self._end_workers(body)
        except Exception:
            # a time-out, an answer that is none: whatever it is, the workers then end with the resource
            log.exception("%s/%s: its workers end with it", body["metadata"]["namespace"], body["metadata"]["name"])
        await remove_keys(self._redis_url, body["metadata"]["namespace"], body["metadata"]["name"])

    async def _end_workers(self, body: Mapping[str, Any]) -> None:
        metadata = body["metadata"]
        if _ORPHAN in metadata.get("finalizers", ()):
            return
        owner = Owner(metadata["namespace"], metadata["name"], metadata["uid"])
        async with asyncio.timeout(10.0):
            await self._store.synced()
        for ref in self._store.of(owner).children:
            if ref.kind == DEPLOYMENT:
                await delete_own(self._api, owner, ref)
        drain = ((body.get("spec") or {}).get("drain") or {}).get("timeoutSeconds", 30)
        grace = drain if isinstance(drain, int) else 30
        until = time.monotonic() + min(DELETION_LIMIT_S, grace + pods.PRE_STOP_S + pods.SLACK_S)
        while self._store.has_pods(owner.namespace, owner.name) and time.monotonic() < until:  # noqa: ASYNC110 - no event for "none left"
            await asyncio.sleep(0.1)

    async def _nudge(self, metadata: Mapping[str, Any]) -> None:
        """See to it that Kopf lets go of a resource: when its call fails it waits for the next event, ours to make."""
        for attempt in range(100):
            await asyncio.sleep(min(15.0, 1.2**attempt) * random.uniform(0.5, 1.0) + 0.5)
            if metadata["uid"] not in self._going:
                return
            now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            text = "The resource is being deleted."
            going = Condition(
                type=conditions.READY, status="False", reason="Deleting", message=text, last_transition_time=now
            )
            status = {"reason": "Deleting", "conditions": [going.model_dump(by_alias=True, mode="json")]}
            try:
                await self._api.apply_status(metadata, status)
            except ApiError as error:
                log.debug("%s/%s: %s", metadata["namespace"], metadata["name"], error.message)
            else:
                return  # the event that follows brings us here again, should that be needed

    async def pod_gone(self, namespace: str, name: str) -> None:
        """A worker has ended; when its resource is gone already, nobody else tidies up after it."""
        if self._wakeups.get((namespace, name)) is None and not self._store.has_pods(namespace, name):
            await remove_keys(self._redis_url, namespace, name)


async def _first_of(wake: asyncio.Event, stopped: asyncio.Event, seconds: float) -> bool:
    """Return when one is set, or (False) after so many seconds."""
    if wake.is_set() or stopped.is_set():
        return True
    waits = [asyncio.ensure_future(wake.wait()), asyncio.ensure_future(stopped.wait())]
    try:
        done, _ = await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        return bool(done)
    finally:
        for wait in waits:
            wait.cancel()


def registry_for(controller: Controller, access: Access, end: Callable[[], None]) -> kopf.OperatorRegistry:
    """Kopf's handlers, none of which leaves anything on the object but the finalizer. `end` is called at the end."""
    registry = kopf.OperatorRegistry()

    @kopf.on.cleanup(registry=registry)
    async def cleanup(**_: Any) -> None:
        end()

    @kopf.on.login(registry=registry)
    async def login(**_: Any) -> kopf.ConnectionInfo:
        return connection_info(access)

    @kopf.on.event(GROUP, VERSION, PLURAL, registry=registry)
    async def resource_event(body: kopf.Body, type: str | None, **_: Any) -> None:  # noqa: A002 - Kopf's name
        if type == "DELETED":
            controller.gone(body["metadata"]["uid"])
        else:
            await controller.heard(body)

    # without a timeout a loop that hangs would keep its resource from being deleted
    @kopf.daemon(GROUP, VERSION, PLURAL, registry=registry, cancellation_timeout=10.0)
    async def control_loop(body: kopf.Body, stopped: kopf.DaemonStopped, **_: Any) -> None:
        flag = asyncio.Event()

        async def watch_flag() -> None:
            await stopped.wait()
            flag.set()

        watcher = asyncio.create_task(watch_flag())
        try:
            await controller.control(body, lambda: bool(stopped), flag)
        finally:
            watcher.cancel()

    return registry


def connection_info(access: Access) -> kopf.ConnectionInfo:
    """The same credentials for Kopf; after 401 it asks for them again."""
    return kopf.ConnectionInfo(
        server=access.server,
        ca_data=access.ca or None,
        insecure=access.insecure or None,
        certificate_path=access.certificate or None,
        private_key_path=access.key or None,
        token=access.token() if access.token is not None else None,
    )


def kopf_settings(*, namespaced: bool) -> kopf.OperatorSettings:
    """Kopf's settings."""
    settings = kopf.OperatorSettings()
    settings.persistence.finalizer = FINALIZER
    settings.posting.enabled = False  # what a person should read is posted by `events`
    settings.watching.connect_timeout = 10.0
    settings.networking.request_timeout = 30.0
    settings.networking.error_backoffs = _Endless()
    settings.queueing.error_delays = _Endless()  # after a conflict over the finalizer: again, soon
    settings.execution.default_backoff = 5.0
    settings.background.instant_exit_timeout = 0.5  # a loop that is told to stop does; no need to cancel it
    settings.scanning.disabled = namespaced  # else rights to list namespaces and definitions would be needed
    return settings


class _Endless:
    """Kopf iterates over these anew for each request, and gives up where they end."""

    def __iter__(self) -> Iterator[float]:
        return (min(5.0, 0.2 * 1.6 ** min(n, 10)) * random.uniform(0.5, 1.0) for n in itertools.count())
