"""The port on which gateways ask the endpoint picker."""

import asyncio
from collections.abc import Sequence
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from argosy_api import limits
from argosy_api.ending import end
from argosy_router.certificates import Certificates
from argosy_router.fronts import grpc_common
from argosy_router.fronts.picker import PickerFront
from argosy_router.fronts.picker_messages import SERVICE
from argosy_router.picking.routers import Routers
from argosy_router.tasks import keep_running

NAMES = ("readiness", SERVICE)
"""What the protocol has gateways ask after, beside whether the process lives."""
ALIVE = ("", "liveness")
LOOK_S = 0.2
OPTIONS: Sequence[tuple[str, int]] = (
    *(option for option in grpc_common.OPTIONS if option[0] != "grpc.max_concurrent_streams"),
    ("grpc.max_concurrent_streams", limits.MAX_ALL_CALLS),  # a gateway has all its clients on a few connections
)


class PickerServer:
    """`start`, then `stop`."""

    def __init__(self, front: PickerFront, routers: Routers, certificates: Certificates | None = None) -> None:
        self._front = front
        self._routers = routers
        self._certificates = certificates
        self._health: Any = health.aio.HealthServicer()  # type: ignore[attr-defined]
        self._server: grpc.aio.Server | None = None
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self, host: str, port: int) -> int:
        """The port; any free one for 0.

        Raises:
            PortTakenError: it can't be bound.

        """
        server = grpc.aio.server(options=OPTIONS, maximum_concurrent_rpcs=limits.MAX_ALL_CALLS)
        server.add_generic_rpc_handlers((self._front.handler(),))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        credentials = None if self._certificates is None else self._certificates.credentials()
        found = grpc_common.bind(server, host, port, "gateways", credentials)
        await self._tell(ALIVE, serving=True)
        await self._routers.look()
        await server.start()
        self._server = server
        self._tasks = [
            asyncio.create_task(keep_running("looking up the routers", self._routers.follow)),
            asyncio.create_task(keep_running("the picker's health", self._watch)),
        ]
        return found

    async def drain(self, seconds: float) -> None:
        """No new requests; those that are on their way have so long for their answers."""
        if self._server is not None:
            await self._server.stop(seconds)

    async def stop(self) -> None:
        """Ends everything at once."""
        await end(*self._tasks)
        await self.drain(0)

    async def _watch(self) -> None:
        while True:
            await self._tell(NAMES, serving=self._front.picker.ready)
            await asyncio.sleep(LOOK_S)

    async def _tell(self, names: Sequence[str], *, serving: bool) -> None:
        status = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        for name in names:
            await self._health.set(name, status)
