"""Puts the parts together and runs them in one event loop."""

import asyncio
import contextlib
import functools
import logging
import threading
from collections.abc import AsyncIterator, Callable, Iterator

import aiohttp

from argosy_api.ending import end
from argosy_api.net import PageServer
from argosy_kube import http as kube_http
from argosy_kube.access import Access
from argosy_kube.http import HttpTransport
from argosy_operator import kopf_edge
from argosy_operator.autoscaling.edge import Autoscaler
from argosy_operator.background import Background
from argosy_operator.controller import Controller
from argosy_operator.kube import HttpKubeApi
from argosy_operator.leading import Process, Stopping, lead
from argosy_operator.loops import Wakeups
from argosy_operator.metrics import Health, Metrics, page
from argosy_operator.reconcile import Reconciler
from argosy_operator.redis_cleanup import RedisCleanup
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
        OSError: a port is taken.

    """
    metrics, health = metrics or Metrics(), health or Health()
    server = PageServer(settings.host, settings.metrics_port, functools.partial(page, metrics, health))
    try:
        with _face(settings, access, health):
            async with Stopping(stop_flag) as stopping:
                process = Process(metrics=metrics, health=health, stopping=stopping, ready_flag=ready_flag)
                heart = asyncio.create_task(_beat(health))
                work = functools.partial(_run, settings, access, process)
                try:
                    if settings.lease is None:
                        metrics.leads(leads=True)
                        await work(stop=stopping.event, may_write=lambda: True)
                    else:
                        await lead(settings.lease, access, process, work)
                finally:
                    await end(heart)
    finally:
        server.close()


@contextlib.contextmanager
def _face(settings: Settings, access: Access, health: Health) -> Iterator[None]:
    """What other autoscalers ask, if it is to be served."""
    if settings.external_metrics is None and settings.keda_port is None:
        yield
        return
    from argosy_operator.external.face import Face  # noqa: PLC0415 - 30 MB of libraries that most operators never need

    face = Face(settings, access, health)
    try:
        yield
    finally:
        face.close()


def _keep_certificate(transport: HttpTransport, settings: Settings, background: Background) -> None:
    if settings.external_metrics is None:
        return
    from argosy_operator.external.keeper import Keeper  # noqa: PLC0415 - as above

    background.keep("the keeper of the serving certificate", Keeper(transport, settings.external_metrics).run)


async def _run(
    settings: Settings, access: Access, process: Process, *, stop: asyncio.Event, may_write: Callable[[], bool]
) -> None:
    """Operate until `stop` is set. While `may_write` is false nothing is changed, in the cluster or in Redis."""
    metrics, health = process.metrics, process.health
    wakeups, background = Wakeups(), Background(health)
    async with _sessions(access, may_write) as (kube_session, session):
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
            may_write=may_write,
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
            is_new=resources.is_new,
            hurry=routers.hurry,
        )
        controller = Controller(
            api=api,
            reconciler=reconciler,
            store=store,
            wakeups=wakeups,
            metrics=metrics,
            health=health,
            redis=RedisCleanup(settings.plan.redis_url, may_write),
        )
        store.reflect(transport, settings.namespaces)
        resources.reflect(transport, settings.namespaces)
        for path, watch in (*store.watches(), *resources.watches()):
            background.keep(f"the watch of {path}", watch)
        background.keep("the keeper of Redis users", users.run)
        _keep_certificate(transport, settings, background)
        if settings.router_status_url:
            background.keep("the questions to routers", routers.run)
        background.start(_announce_ready(store, process))
        try:
            await kopf_edge.operate(
                controller,
                api,
                access,
                health,
                namespaces=settings.namespaces,
                may_write=may_write,
                start=background.start,
                begun=process.stopping.hear_signals,
                end=background.cancel,
                stop=stop,
            )
        finally:
            health.ended()
            await background.end()


@contextlib.asynccontextmanager
async def _sessions(
    access: Access, may_write: Callable[[], bool]
) -> AsyncIterator[tuple[aiohttp.ClientSession, aiohttp.ClientSession]]:
    """One for the API server, and one without its credentials for workers and routers."""
    kube = kube_http.session(access, may_write)
    others = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=64))
    async with kube, others:
        yield kube, others


async def _beat(health: Health) -> None:
    while True:
        health.beat()
        await asyncio.sleep(1.0)


async def _announce_ready(store: ChildStore, process: Process) -> None:
    await store.synced()
    process.ready()
