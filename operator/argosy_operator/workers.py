"""Asks workers how they are: while they start, and what they found in the model once they have."""

import asyncio
import json
from typing import Any, Protocol

import aiohttp

from argosy_api import labels
from argosy_api.resource import ModelStatus
from argosy_operator.diagnose import WorkerState

STATE_TIMEOUT_S = 1.0
_MAX_STATE_BYTES = 64 * 1024
_MAX_TEXT = 4096


class WorkerProbe(Protocol):
    """Both return None when the worker does not answer."""

    async def state(self, ip: str) -> WorkerState | None:
        """What a starting worker says of itself."""
        ...

    async def model(self, ip: str) -> ModelStatus | None:
        """What a ready worker serves."""
        ...


class HttpWorkerProbe:
    """`WorkerProbe` over the network of pods."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def state(self, ip: str) -> WorkerState | None:
        """GET /state on the metrics port."""
        return parse_state(await self._get(ip))

    async def model(self, ip: str) -> ModelStatus | None:
        """The same: a worker that serves says there what it serves."""
        return parse_model(await self._get(ip))

    async def _get(self, ip: str) -> bytes:
        try:
            async with (
                asyncio.timeout(STATE_TIMEOUT_S),
                self._session.get(f"http://{_host(ip)}:{labels.METRICS_PORT}/state") as response,
            ):
                return await response.content.read(_MAX_STATE_BYTES)
        except (TimeoutError, aiohttp.ClientError, OSError):
            return b""


def parse_state(body: bytes) -> WorkerState | None:
    """Read the JSON of /state; None for anything else."""
    try:
        document: Any = json.loads(body)
    except ValueError:
        return None
    if not isinstance(document, dict) or not isinstance(document.get("phase"), str):
        return None
    progress = document.get("progress", 0.0)
    known = isinstance(progress, int | float) and 0 <= progress <= 1
    return WorkerState(
        phase=document["phase"][:64],
        reason=str(document.get("reason") or "")[:64],
        message=str(document.get("message") or "")[:_MAX_TEXT],
        progress=float(progress) if known else 0.0,
    )


def parse_model(body: bytes) -> ModelStatus | None:
    """Read `model` in the JSON of /state; None when it is not there or no such object."""
    try:
        return ModelStatus.model_validate(json.loads(body)["model"])
    except (ValueError, TypeError, KeyError):
        return None


def _host(ip: str) -> str:
    return f"[{ip}]" if ":" in ip else ip
