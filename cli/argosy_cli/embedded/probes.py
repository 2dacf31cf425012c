"""Asking a worker how it is: /state and /healthz on its metrics port, and gRPC health. No answer is an answer."""

import asyncio
from typing import Self

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from argosy_api import routes
from argosy_api.worker_status import WorkerStatus
from argosy_cli.embedded.pages import Pages

_TIMEOUT_S = 5.0


class Probes:
    """Probes of one worker process. Close it when the process is gone."""

    def __init__(self, *, grpc_port: int, metrics_port: int) -> None:
        self._pages = Pages(f"127.0.0.1:{metrics_port}")
        options = [("grpc.max_reconnect_backoff_ms", 500), ("grpc.enable_http_proxy", 0)]
        self._channel = grpc.aio.insecure_channel(f"127.0.0.1:{grpc_port}", options=options)
        self._health = health_pb2_grpc.HealthStub(self._channel)

    async def close(self) -> None:
        """Drop the connections."""
        await self._pages.close()
        await self._channel.close(None)

    async def status(self) -> WorkerStatus | None:
        """What the worker says; None when it does not answer (yet)."""
        body = await self._pages.get("/state")
        return None if body is None else WorkerStatus.parse(body)

    async def alive(self) -> bool:
        """Liveness: the process answers and its engine's loop turns."""
        return await self._pages.get("/healthz") is not None

    async def serving(self) -> bool:
        """Readiness: gRPC health of the whole server."""
        request = health_pb2.HealthCheckRequest(service="")
        try:
            answer = await self._health.Check(request, timeout=_TIMEOUT_S)
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


class Routes:
    """What the router says about its workers: /routes on its metrics port. An asynchronous context manager."""

    def __init__(self, metrics: str) -> None:
        self._pages = Pages(metrics)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._pages.close()

    async def said(self) -> routes.Routes | None:
        """All of it; None while the router does not answer."""
        try:
            return routes.Routes.parse(await self._pages.get("/routes") or b"")
        except ValueError:
            return None

    async def ready(self) -> set[tuple[str, str]]:
        """(namespace, worker id) of the workers that it sends requests to; none while it does not answer."""
        said = await self.said()
        if said is None:
            return set()
        return {(deployment.namespace, worker) for deployment in said.deployments for worker in deployment.ready}
