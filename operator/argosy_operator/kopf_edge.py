"""All that has to do with Kopf: its handlers, its settings, and what it leaves undone.

Kopf watches the resources, runs one daemon for each, and holds a finalizer while the daemon runs. No create, update
or resume handlers: they would write the whole spec into an annotation, and see edges only. Children are not Kopf's
business either: after 410 Gone it does not notice what has vanished, so reflectors watch them.

When Kopf's call for the finalizer is answered with a conflict, it forgets the event and waits for another one, which
may never come. `_Finalizer` sees to both cases: one that is not put on, and one that is not taken off.
"""

import asyncio
import functools
import itertools
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import kopf

from argosy_api.backoff import Backoff
from argosy_api.resource import GROUP, PLURAL, VERSION
from argosy_api.status import Condition
from argosy_kube import http as kube_http
from argosy_kube.access import Access
from argosy_operator import conditions
from argosy_operator.controller import Controller
from argosy_operator.errors import ApiError
from argosy_operator.kube import KubeApi
from argosy_operator.metrics import Health

log = logging.getLogger(__name__)

FINALIZER = f"{GROUP}/operator"
_TRIES = 100
_OURS = Backoff(first=0.5, cap=3.0)
_KOPFS = Backoff(first=0.2, cap=5.0)

Start = Callable[[Coroutine[Any, Any, None]], None]
"""Runs something in the background for as long as the operator lives."""


async def operate(
    controller: Controller,
    api: KubeApi,
    access: Access,
    health: Health,
    *,
    namespaces: tuple[str, ...],
    may_write: Callable[[], bool],
    start: Start,
    begun: Callable[[], None],
    end: Callable[[], None],
    stop: asyncio.Event,
) -> None:
    """Run Kopf until `stop` is set.

    `begun` is called when Kopf has begun, and has taken the process's signals for itself. `end` is called before Kopf
    ends: it would wait for all tasks that were begun after itself.
    """
    login = functools.partial(_connection, access, may_write)
    await kopf.operator(
        registry=_registry(controller, _Finalizer(api, start), login, health, begun=begun, end=end),
        settings=_settings(namespaced=bool(namespaces)),
        clusterwide=not namespaces,
        namespaces=namespaces,
        standalone=True,
        stop_flag=stop,
    )


class _Finalizer:
    """Looks after resources that wait for Kopf's call for the finalizer."""

    def __init__(self, api: KubeApi, start: Start) -> None:
        self._api, self._start = api, start
        self._going: set[str] = set()
        self._unguarded: set[str] = set()

    def seen(self, metadata: Mapping[str, Any]) -> None:
        """Take note of an event about a resource that is there."""
        uid, has_it = metadata["uid"], FINALIZER in metadata.get("finalizers", ())
        if "deletionTimestamp" not in metadata:
            if has_it:
                self._unguarded.discard(uid)
            elif uid not in self._unguarded:
                self._unguarded.add(uid)
                self._start(self._put_on(metadata))
        elif has_it:
            if uid not in self._going:
                self._going.add(uid)
                self._start(self._nudge(metadata))
        else:
            self.gone(uid)  # somebody else's finalizer keeps it

    def gone(self, uid: str) -> None:
        """Forget a resource that is no longer there."""
        self._going.discard(uid)
        self._unguarded.discard(uid)

    async def _put_on(self, metadata: Mapping[str, Any]) -> None:
        """Put the finalizer on where Kopf has not managed to: without it, workers would be cut off by a deletion."""
        async for _ in _tries():
            if metadata["uid"] not in self._unguarded:
                return
            try:
                await self._api.apply_finalizer(metadata, FINALIZER)
            except ApiError as error:
                log.debug("%s/%s: %s", metadata["namespace"], metadata["name"], error.message)
            else:
                return

    async def _nudge(self, metadata: Mapping[str, Any]) -> None:
        """See to it that Kopf lets go of a resource: make the event that it waits for, until the resource is gone.

        One event is not enough: Kopf's next call may be refused as well, and a write within the same second as the one
        before changes nothing, so that no event comes of it.
        """
        async for _ in _tries():
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


async def _tries() -> AsyncIterator[int]:
    """Moments to try something that Kopf does by itself, if all goes well: not at once, then ever more seldom."""
    for attempt in range(1, _TRIES + 1):
        await asyncio.sleep(0.5 + _OURS.jittered(attempt))
        yield attempt


def _registry(
    controller: Controller,
    finalizer: _Finalizer,
    connection: Callable[[], kopf.AiohttpSession],
    health: Health,
    *,
    begun: Callable[[], None],
    end: Callable[[], None],
) -> kopf.OperatorRegistry:
    """Kopf's handlers, none of which leaves anything on the object but the finalizer."""
    registry = kopf.OperatorRegistry()

    @kopf.on.startup(registry=registry)
    async def startup(**_: Any) -> None:
        asyncio.get_running_loop().call_soon(begun)  # Kopf takes the signals just after it has begun this

    @kopf.on.cleanup(registry=registry)
    async def cleanup(**_: Any) -> None:
        end()

    @kopf.on.login(registry=registry)
    async def login(**_: Any) -> kopf.AiohttpSession:
        return connection()

    @kopf.on.event(GROUP, VERSION, PLURAL, registry=registry)
    async def resource_event(body: kopf.Body, type: str | None, **_: Any) -> None:  # noqa: A002 - Kopf's name
        metadata = body["metadata"]
        if type == "DELETED":
            finalizer.gone(metadata["uid"])
            return
        health.seen((metadata["namespace"], metadata["name"]), metadata.get("resourceVersion", ""))
        if "deletionTimestamp" not in metadata:
            controller.heard(body)
        elif FINALIZER in metadata.get("finalizers", ()):
            await controller.before_it_goes(body)  # Kopf lets the resource go when this returns
        finalizer.seen(metadata)

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


def _connection(access: Access, may_write: Callable[[], bool]) -> kopf.AiohttpSession:
    """The same credentials for Kopf, and the same gate; after 401 it asks for another one, and closes this."""
    session = kube_http.session(access, may_write, access.headers())
    return kopf.AiohttpSession(server=access.server, aiohttp_session=session)


def _settings(*, namespaced: bool) -> kopf.OperatorSettings:
    settings = kopf.OperatorSettings()
    settings.persistence.finalizer = FINALIZER
    settings.persistence.diffbase_storage = _NoDifferences()
    settings.posting.enabled = False  # what a person should read is posted by `events`
    settings.watching.connect_timeout = 10.0
    settings.networking.request_timeout = 30.0
    settings.networking.error_backoffs = _Endless()
    settings.queueing.error_delays = _Endless()  # after a conflict over the finalizer: again, soon
    settings.execution.default_backoff = 5.0
    settings.background.instant_exit_timeout = 0.5  # a loop that is told to stop does; no need to cancel it
    settings.scanning.disabled = namespaced  # else rights to list namespaces and definitions would be needed
    return settings


class _NoDifferences(kopf.DiffBaseStorage):
    """Kopf would copy each resource at each event, to find changes of which no handler here wants to know."""

    def build(
        self,
        *,
        body: kopf.Body,  # noqa: ARG002 - as Kopf calls it
        extra_fields: Iterable[kopf.FieldSpec] | None = None,  # noqa: ARG002
    ) -> kopf.BodyEssence:
        return kopf.BodyEssence()

    def fetch(self, *, body: kopf.Body) -> kopf.BodyEssence | None:  # noqa: ARG002
        return None

    def store(self, *, body: kopf.Body, patch: kopf.Patch, essence: kopf.BodyEssence) -> None:
        """Nothing is kept."""


class _Endless:
    """Kopf iterates over these anew for each request, and gives up where they end."""

    def __iter__(self) -> Iterator[float]:
        return (_KOPFS.jittered(n) for n in itertools.count(1))
