"""Wires the router together, and runs it until it is told to stop."""

import asyncio
import contextlib
import gc
import logging
import signal
import socket
from collections.abc import AsyncIterator
from typing import Any

import grpc
from aiohttp import web
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from argosy_api import limits, net
from argosy_api.ending import end
from argosy_api.inference import inference_pb2, inference_pb2_grpc
from argosy_api.tracing import tracing
from argosy_api.v1 import worker_pb2, worker_pb2_grpc
from argosy_router import pages
from argosy_router.all_metrics import AllMetrics
from argosy_router.certificates import Certificates
from argosy_router.clock import now
from argosy_router.fleet import monitor, silence
from argosy_router.fleet.deployment import DeploymentState
from argosy_router.fleet.fleet import Fleet
from argosy_router.fleet.index_feed import IndexFeed
from argosy_router.fleet.membership import MembershipSource
from argosy_router.fleet.peer import Peer
from argosy_router.fleet.redis_link import RedisLink
from argosy_router.fronts import grpc_common
from argosy_router.fronts.bodies import Bodies
from argosy_router.fronts.connections import Connections, GuardedRunner
from argosy_router.fronts.credentials import Credentials
from argosy_router.fronts.http import HttpFront
from argosy_router.fronts.native import NativeFront
from argosy_router.fronts.oip import OipFront
from argosy_router.fronts.picker import PickerFront
from argosy_router.fronts.picker_server import PickerServer
from argosy_router.gauges import Gauges
from argosy_router.metrics import Metrics
from argosy_router.page.front import Page
from argosy_router.picking.picker import Picker
from argosy_router.picking.picks import Picks
from argosy_router.picking.routers import Routers
from argosy_router.routing.dispatch import Dispatcher
from argosy_router.service import Service
from argosy_router.settings import Settings
from argosy_router.tasks import keep_running
from argosy_router.tenants.files import AccessFiles
from argosy_router.tenants.shared import SharedUsage
from argosy_router.text.models import ModelLibrary

log = logging.getLogger(__name__)

SERVICES = (
    worker_pb2.DESCRIPTOR.services_by_name["Inference"].full_name,
    inference_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].full_name,
)
POLL_S = 0.05
BACKLOG = 1024
"""Connections that wait to be accepted."""
SHARE_S = 1.0
YOUNG = 10_000
"""Objects that come before the collector looks at them. A request makes some thousands, and few of them in cycles."""


class Router:
    """The whole router in one event loop. `start`, then `stop`."""

    def __init__(self, settings: Settings, source: MembershipSource) -> None:
        self._settings = settings
        self._source = source
        self.metrics = Metrics()
        self._redis = RedisLink(settings.redis_url, self.metrics)
        self._library = ModelLibrary()
        self.fleet = Fleet(self._library, self._watch, self._feed, self._see_off)
        dispatcher = Dispatcher(self.metrics)
        picks = Picks() if settings.picker_port is not None else None
        self.service = Service(
            self.fleet, dispatcher, self.metrics,
            attempts=settings.attempts, tell_decisions=settings.decision_headers,
            longest_wait_s=settings.max_wait_seconds, picks=picks, tracing=tracing("argosy-router"),
        )  # fmt: skip
        self._gauges = Gauges(self.service, self.metrics, source)
        self._access = AccessFiles(self.service.identity, document=settings.access, directory=settings.api_keys)
        self._usage = SharedUsage(self.service.gate.quotas, self._redis.client)
        self._bodies = Bodies()
        self._certificates = None if settings.tls is None else Certificates("--tls", settings.tls, settings.tls_clients)
        self._for_gateways = (
            None
            if settings.picker_tls is None
            else Certificates("--picker-tls", settings.picker_tls, settings.picker_tls_clients)
        )
        self.connections = Connections(security=None if self._certificates is None else self._certificates.context)
        self._picker: PickerServer | None = None
        if picks is not None:
            routers = Routers(settings.picker_routers)
            picker = Picker(self.fleet, dispatcher, self.service.admission, picks, routers)
            front = PickerFront(picker, self.service.identity, self._bodies, self.metrics)
            self._picker = PickerServer(front, routers, self._for_gateways)
        self._health: Any = health.aio.HealthServicer()  # type: ignore[attr-defined]
        self._server: grpc.aio.Server | None = None
        self._runners: list[web.AppRunner] = []
        self._front: asyncio.Server | None = None
        """For clients over HTTP."""
        self._tasks: list[asyncio.Task[None]] = []
        self.http_port = self.grpc_port = self.metrics_port = self.picker_port = 0

    def _watch(self, state: DeploymentState, worker: Peer) -> asyncio.Task[None]:
        name = f"the watch over {state.name}/{worker.worker_id}"
        return asyncio.create_task(
            keep_running(name, lambda: monitor.watch(state, worker, self._library, self.metrics))
        )

    async def _see_off(self, state: DeploymentState, worker: Peer) -> None:
        await silence.watch_to_the_end(state, worker, self.metrics)

    def _feed(self, state: DeploymentState) -> asyncio.Task[None]:
        return asyncio.create_task(
            keep_running(f"the index feed of {state.name}", lambda: IndexFeed(state, self.metrics, self._redis).run())
        )

    # --- life

    async def start(self) -> None:
        """Binds the ports and begins to follow the membership.

        Raises:
            PortTakenError: one of the ports cannot be bound.
            InvalidArgumentError: the document of who may ask, or a certificate, cannot be read, or is wrong.

        """
        settings = self._settings
        await self._access.load()
        certificates = [found for found in (self._certificates, self._for_gateways) if found is not None]
        for found in certificates:
            await found.load()
        self.metrics_port = await self._listen(
            pages.application(self.service, self.metrics), "metrics", settings.metrics_port
        )
        self.grpc_port = await self._listen_grpc()
        # a client that goes away cancels its handler, and so the worker's call
        application = HttpFront(self.service, self._bodies, self.connections, settings.cors_origins).application()
        Page(self.service, grpc_port=self.grpc_port, orders=settings.orders).add_to(application)
        application.router.add_get("/metrics", AllMetrics(self.service, self.metrics).for_admins)
        self.http_port = await self._listen(application, "HTTP", settings.http_port, self.connections)
        if self._picker is not None:
            self.picker_port = await self._picker.start(settings.host, settings.picker_port or 0)
        self._tasks = [
            asyncio.create_task(keep_running("following the membership", self._follow)),
            asyncio.create_task(keep_running("the watch over who may ask", self._access.watch)),
            asyncio.create_task(keep_running("sharing what tenants use", self._share)),
            asyncio.create_task(keep_running("the gauges", self._gauges.watch)),
            asyncio.create_task(keep_running("the watch over connections", self.connections.watch)),
            asyncio.create_task(keep_running("the watch over the event loop", self._gauges.bursts)),
            *(asyncio.create_task(keep_running("the watch over a certificate", c.watch)) for c in certificates),
        ]
        tls = "" if self._certificates is None else ", with TLS"
        log.info("HTTP on %d, gRPC on %d%s; metrics on %d", self.http_port, self.grpc_port, tls, self.metrics_port)
        if self._picker is not None:
            log.info("gateways are told where to send to on %d", self.picker_port)

    async def _listen(self, app: web.Application, what: str, port: int, connections: Connections | None = None) -> int:
        options: dict[str, Any] = {"handler_cancellation": True, "access_log": None, "shutdown_timeout": 1.0}
        host = self._settings.host
        try:
            listening = net.listen(host, port, backlog=BACKLOG)
        except OSError as error:
            raise grpc_common.PortTakenError(
                f"cannot listen on {net.address(host, port)} for {what}: {error.strerror}"
            ) from error
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, limits.MAX_UNSENT_BYTES)  # theirs, too
        runner: web.AppRunner
        if connections is None:
            runner = web.AppRunner(app, **options)
            await runner.setup()
            await web.SockSite(runner, listening, backlog=BACKLOG).start()
        else:
            runner = guarded = GuardedRunner(app, connections, **options)
            await runner.setup()
            self._front = await guarded.listen(listening, BACKLOG)
        self._runners.append(runner)
        return int(listening.getsockname()[1])

    async def _listen_grpc(self) -> int:
        server = grpc.aio.server(
            interceptors=[Credentials(self.service.identity, self.metrics)],
            options=grpc_common.OPTIONS,
            maximum_concurrent_rpcs=limits.MAX_ALL_CALLS,
        )
        worker_pb2_grpc.add_InferenceServicer_to_server(NativeFront(self.service), server)
        inference_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(OipFront(self.service), server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        reflection.enable_server_reflection((*SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
        credentials = None if self._certificates is None else self._certificates.credentials()
        port = grpc_common.bind(server, self._settings.host, self._settings.grpc_port, "gRPC", credentials)
        await self._set_health(serving=False)
        await server.start()
        self._server = server
        return port

    async def _set_health(self, *, serving: bool) -> None:
        status = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        for name in ("", *SERVICES):
            await self._health.set(name, status)

    async def _follow(self) -> None:
        async for view in self._source.views():
            self.fleet.apply(view)
            if not self.service.draining:
                await self._set_health(serving=True)

    async def _share(self) -> None:
        while not self.service.identity.required:  # noqa: ASYNC110 - a file may change it at any time
            await asyncio.sleep(SHARE_S)
        await self._usage.run()

    async def drain(self) -> None:
        """No new requests; running ones get up to `drain_seconds`."""
        self.service.draining = True
        for who in (self.fleet.turn_away, self.service.gate.close):
            who("the router is shutting down; try again elsewhere")
        await self._set_health(serving=False)
        if self._front is not None:  # the metrics stay
            self._front.close()
        end = now() + self._settings.drain_seconds
        servers = (self._server.stop if self._server else None, self._picker.drain if self._picker else None)
        stopping = asyncio.gather(*(stop(self._settings.drain_seconds) for stop in servers if stop is not None))
        while self.service.running and now() < end:  # noqa: ASYNC110 - once in a life, and free of cost for requests
            await asyncio.sleep(POLL_S)
        if self.service.running:
            log.warning("%d requests did not end within %g s", self.service.running, self._settings.drain_seconds)
        await stopping

    async def stop(self) -> None:
        """Ends everything at once."""
        await end(*self._tasks)
        self.service.recent.write()
        if self._server is not None:
            await self._server.stop(0)
        if self._picker is not None:
            await self._picker.stop()
        if self._front is not None:
            self._front.close()
        for runner in self._runners:
            await runner.cleanup()
        await self.fleet.close()
        await self._usage.leave()
        await self._redis.close()
        await self._bodies.close()
        await self.service.close()
        await self._library.close()


@contextlib.asynccontextmanager
async def running(settings: Settings, source: MembershipSource) -> AsyncIterator[Router]:
    """A started router; stopped on the way out."""
    router = Router(settings, source)
    try:
        await router.start()
        yield router
    finally:
        await router.stop()


async def serve(settings: Settings, source: MembershipSource) -> None:
    """Runs until SIGTERM or SIGINT, then drains; a second signal ends at once."""
    loop = asyncio.get_running_loop()
    asked, again = asyncio.Event(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, lambda: again.set() if asked.is_set() else asked.set())
    async with running(settings, source) as router:
        # a full collection looks at every object there is: a pause of 30 ms and more, if it were not told to pass over
        # the modules' hundred thousand
        gc.collect()
        gc.freeze()
        # and once more over what is left, nothing: full collections come when a quarter of what the last one found has
        # been added, and it had found the modules
        gc.collect()
        gc.set_threshold(YOUNG)
        await asked.wait()
        log.info("draining for up to %g s", settings.drain_seconds)
        draining = asyncio.create_task(router.drain())
        hurried = asyncio.create_task(again.wait())
        await asyncio.wait({draining, hurried}, return_when=asyncio.FIRST_COMPLETED)
        for task in (draining, hurried):
            task.cancel()
        await asyncio.gather(draining, hurried, return_exceptions=True)
