"""Puts the parts together and runs them in one event loop."""

import asyncio
import contextlib
import functools
import logging
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import aiohttp
import kopf

from argosy_api.net import PageServer
from argosy_api.resource import GROUP, PLURAL, VERSION
from argosy_kube import http as kube_http
from argosy_kube.access import Access
from argosy_kube.http import HttpTransport
from argosy_kube.reflector import Key, Reflector
from argosy_operator.controller import Controller, Wakeups, kopf_settings, registry_for
from argosy_operator.kube import HttpKubeApi
from argosy_operator.metrics import Health, Metrics, page
from argosy_operator.reconcile import Reconciler
from argosy_operator.redis_users import RedisUsers
from argosy_operator.routers import Routers
from argosy_operator.settings import Settings
from argosy_operator.store import ChildStore
from argosy_operator.workers import HttpWorkerProbe

log = logging.getLogger(__name__)


async def run(
    settings: Settings,
    access: Access,
    *,
    metrics: Metrics | None = None,
    health: Health | None = None,
    stop_flag: threading.Event | None = None,
    ready_flag: threading.Event | None = None,
) -> None:
    """Operate until a signal comes or `stop_flag` is set. Kopf wants a loop in which nothing runs but this.

    Raises:
        OSError: the port for metrics is taken.

    """
    metrics, health = metrics or Metrics(), health or Health()
    server = PageServer(settings.host, settings.metrics_port, functools.partial(page, metrics, health))
    try:
        await _run(settings, access, metrics=metrics, health=health, stop_flag=stop_flag, ready_flag=ready_flag)
    finally:
        server.close()


async def _run(
    settings: Settings,
    access: Access,
    *,
    metrics: Metrics,
    health: Health,
    stop_flag: threading.Event | None,
    ready_flag: threading.Event | None,
) -> None:
    wakeups = Wakeups()
    background: set[asyncio.Task[None]] = set()

    def start(work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        background.add(task)
        task.add_done_callback(background.discard)

    def end() -> None:  # before Kopf does: it would wait for all that was begun after itself
        for task in list(background):
            task.cancel()

    async with _sessions(access) as (kube_session, session):
        api = HttpKubeApi(kube_session, access)
        routers = Routers(session, settings.router_status_url, wakeups.poke)
        store = ChildStore(
            changed=lambda namespace, name: wakeups.poke((namespace, name)),
            pod_gone=lambda namespace, name: start(controller.pod_gone(namespace, name)),
        )
        reconciler = Reconciler(
            api,
            settings,
            children=store.of,
            routers=routers.facts,
            probe=HttpWorkerProbe(session),
            hurry=routers.hurry,
        )
        controller = Controller(
            api=api,
            reconciler=reconciler,
            store=store,
            wakeups=wakeups,
            metrics=metrics,
            health=health,
            redis_url=settings.plan.redis_url,
            start=start,
        )
        transport = HttpTransport(kube_session, access)
        store.reflect(transport, settings.namespaces)
        for reflector in store.reflectors:
            start(reflector.run())
        users = RedisUsers(
            settings.plan.redis_url,
            settings.redis_router_url,
            settings.plan.redis_access,
            namespaces=lambda: {key.namespace for canary in canaries for key in canary.objects},
            report=metrics.redis_users_up.set,
        )
        canaries = _canaries(transport, settings, health, users.wake)
        for canary in canaries:
            start(canary.run())
        start(users.run())
        start(routers.run())
        start(_beat(health))
        start(_announce_ready(store, health, ready_flag))
        try:
            await kopf.operator(
                registry=registry_for(controller, access, end),
                settings=kopf_settings(namespaced=bool(settings.namespaces)),
                clusterwide=not settings.namespaces,
                namespaces=settings.namespaces,
                standalone=True,
                stop_flag=stop_flag,
            )
        finally:
            health.ready = False
            tasks = list(background)
            end()
            await asyncio.gather(*tasks, return_exceptions=True)


@contextlib.asynccontextmanager
async def _sessions(access: Access) -> AsyncIterator[tuple[aiohttp.ClientSession, aiohttp.ClientSession]]:
    """One for the API server, and one without its credentials for workers and routers."""
    kube = kube_http.session(access)
    others = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=64))
    async with kube, others:
        yield kube, others


def _canaries(
    transport: HttpTransport, settings: Settings, health: Health, came_or_went: Callable[[], None]
) -> list[Reflector[str]]:
    """Watch the resources a second time, versions only, to notice when Kopf's own watch has died silently."""

    def version(item: dict[str, Any]) -> str:
        return str(item["metadata"]["resourceVersion"])

    def changed(key: Key, before: str | None, after: str | None) -> None:
        health.expect((key.namespace, key.name), after)
        if before is None or after is None:
            came_or_went()

    root = f"/apis/{GROUP}/{VERSION}"
    paths = [f"{root}/namespaces/{n}/{PLURAL}" for n in settings.namespaces] or [f"{root}/{PLURAL}"]
    return [Reflector(transport, path, version, changed) for path in paths]


async def _beat(health: Health) -> None:
    while True:
        health.beat()
        await asyncio.sleep(1.0)


async def _announce_ready(store: ChildStore, health: Health, ready_flag: threading.Event | None) -> None:
    await store.synced()
    health.ready = True
    if ready_flag is not None:
        ready_flag.set()
