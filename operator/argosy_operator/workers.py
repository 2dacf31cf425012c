"""Asks workers how they are: while they start, and what they found in the model once they have."""

import asyncio
from typing import Protocol

import aiohttp

from argosy_api import labels, limits, net
from argosy_api.worker_status import WorkerStatus
from argosy_kube.http import body_of

STATE_TIMEOUT_S = 1.0


class WorkerProbe(Protocol):
    """How workers are asked."""

    async def status(self, ip: str) -> WorkerStatus | None:
        """What a worker says of itself; None when it does not answer."""
        ...


class HttpWorkerProbe:
    """`WorkerProbe` over the network of pods."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def status(self, ip: str) -> WorkerStatus | None:
        """GET /state on the metrics port."""
        try:
            async with (
                asyncio.timeout(STATE_TIMEOUT_S),
                self._session.get(f"http://{net.address(ip, labels.METRICS_PORT)}/state") as response,
            ):
                return WorkerStatus.parse(await body_of(response, most=limits.MAX_STATE_BYTES))
        except (TimeoutError, aiohttp.ClientError, OSError, ValueError):
            return None
