"""Asking a worker how it is: /state and /healthz on its metrics port, and gRPC health. No answer is an answer."""

import asyncio
from dataclasses import dataclass
from typing import Any, Self

import grpc
import httpx
from grpc_health.v1 import health_pb2, health_pb2_grpc

_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerState:
    """What a worker says about itself, from the very start of its process."""

    phase: str
    """Starting, Downloading, Loading, Ready, Draining or Failed."""
    reason: str = ""
    message: str = ""
    progress: float = 0.0
    """0 to 1, of the phase."""


class Probes:
    """Probes of one worker process. Close it when the process is gone."""

    def __init__(self, *, grpc_port: int, metrics_port: int) -> None:
        self._http = httpx.AsyncClient(base_url=f"http://127.0.0.1:{metrics_port}", timeout=_TIMEOUT_S, trust_env=False)
        options = [("grpc.max_reconnect_backoff_ms", 500), ("grpc.enable_http_proxy", 0)]
        self._channel = grpc.aio.insecure_channel(f"127.0.0.1:{grpc_port}", options=options)
        self._health = health_pb2_grpc.HealthStub(self._channel)

    async def close(self) -> None:
        """Drop the connections."""
        await self._http.aclose()
        await self._channel.close(None)

    async def state(self) -> WorkerState | None:
        """What the worker says; None when it does not answer (yet)."""
        try:
            document = (await self._http.get("/state")).raise_for_status().json()
            return WorkerState(
                phase=_text(document, "phase"),
                reason=_text(document, "reason"),
                message=_text(document, "message"),
                progress=max(0.0, min(1.0, float(document.get("progress", 0.0)))),
            )
        except (httpx.HTTPError, ValueError, TypeError, AttributeError):
            return None

    async def alive(self) -> bool:
        """Liveness: the process answers and its engine's loop turns."""
        try:
            return (await self._http.get("/healthz")).status_code == httpx.codes.OK
        except httpx.HTTPError:
            return False

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
        self._http = httpx.AsyncClient(base_url=f"http://{metrics}", timeout=_TIMEOUT_S, trust_env=False)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def ready(self) -> set[tuple[str, str]]:
        """(namespace, worker id) of the workers that it sends requests to; none while it does not answer."""
        try:
            document = (await self._http.get("/routes")).raise_for_status().json()
            return {
                (deployment["namespace"], worker["worker_id"])
                for deployment in document["deployments"]
                for worker in deployment["workers"]
                if worker["state"] == "ready"
            }
        except (httpx.HTTPError, ValueError, TypeError, KeyError):
            return set()


def _text(document: dict[str, Any], key: str) -> str:
    return str(document.get(key) or "")
