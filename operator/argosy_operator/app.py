"""Puts the parts together and runs them in one event loop."""

import asyncio
import contextlib
import functools
import logging
import threading
from collections.abc import AsyncIterator

import aiohttp

from argosy_api.net import PageServer
from argosy_kube import http as kube_http
from argosy_kube.access import Access
from argosy_kube.http import HttpTransport
from argosy_operator import kopf_edge
from argosy_operator.autoscaling.edge import Autoscaler
from argosy_operator.background import Background
from argosy_operator.controller import Controller
from argosy_operator.kube import HttpKubeApi
from argosy_operator.loops import Wakeups
from argosy_operator.metrics import Health, Metrics, page
from argosy_operator.reconcile import Reconciler
from argosy_operator.redis_users import RedisUsers
from argosy_operator.resources import Resources
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
    wakeups, background = Wakeups(), Background(health)
    async with _sessions(access) as (kube_session, session):
        api = HttpKubeApi(kube_session, access)
        transport = HttpTransport(kube_session, access)
        routers = Routers(session, settings.router_status_url, wakeups.poke)
        store = ChildStore(
            changed=lambda namespace, name: wakeups.poke((namespace, name)),
            pod_gone=lambda namespace, name: background.start(controller.pod_gone(namespace, name)),
        )
        users = RedisUsers(
            settings.plan.redis_url,
            settings.redis_router_url,
            settings.plan.redis_access,
            namespaces=lambda: resources.namespaces(),  # noqa: PLW0108 - it is made below
            report=metrics.redis_users_up.set,
        )
        resources = Resources(health, gone=wakeups.end, changed=wakeups.poke, came_or_went=users.wake)
        reconciler = Reconciler(
            api,
            settings,
            children=store.of,
            routers=routers.facts,
            probe=HttpWorkerProbe(session),
            autoscaler=Autoscaler(api, routers.told, metrics.scaled),
            name_holder=resources.name_holder,
            hurry=routers.hurry,
        )
        controller = Controller(
            api=api,
            reconciler=reconciler,
            store=store,
            wakeups=wakeups,
            metrics=metrics,
            redis_url=settings.plan.redis_url,
        )
        store.reflect(transport, settings.namespaces)
        resources.reflect(transport, settings.namespaces)
        for path, watch in (*store.watches(), *resources.watches()):
            background.keep(f"the watch of {path}", watch)
        background.keep("the keeper of Redis users", users.run)
        if settings.router_status_url:
            background.keep("the questions to routers", routers.run)
        background.keep("the heartbeat", lambda: _beat(health))
        background.start(_announce_ready(store, health, ready_flag))
        try:
            await kopf_edge.operate(
                controller,
                api,
                access,
                health,
                namespaces=settings.namespaces,
                start=background.start,
                end=background.cancel,
                stop_flag=stop_flag,
            )
        finally:
            health.ready = False
            await background.end()


@contextlib.asynccontextmanager
async def _sessions(access: Access) -> AsyncIterator[tuple[aiohttp.ClientSession, aiohttp.ClientSession]]:
    """One for the API server, and one without its credentials for workers and routers."""
    kube = kube_http.session(access)
    others = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=64))
    async with kube, others:
        yield kube, others


async def _beat(health: Health) -> None:
    while True:
        health.beat()
        await asyncio.sleep(1.0)


async def _announce_ready(store: ChildStore, health: Health, ready_flag: threading.Event | None) -> None:
    await store.synced()
    health.ready = True
    if ready_flag is not None:
        ready_flag.set()
