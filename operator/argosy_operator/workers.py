"""Asks workers how they are: while they start, and what they found in the model once they have."""

import asyncio
import json
from typing import Any, Protocol

import aiohttp
import grpc

from argosy_api import labels
from argosy_api.resource import ModelStatus
from argosy_api.v1 import worker_pb2, worker_pb2_grpc
from argosy_operator.diagnose import WorkerState

STATE_TIMEOUT_S = 1.0
MODEL_TIMEOUT_S = 3.0
_MAX_STATE_BYTES = 64 * 1024
_MAX_TEXT = 4096
_MAX_MODEL_BYTES = 64 * 1024 * 1024
"""A tokenizer travels with the model's description."""


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
        try:
            async with (
                asyncio.timeout(STATE_TIMEOUT_S),
                self._session.get(f"http://{_host(ip)}:{labels.METRICS_PORT}/state") as response,
            ):
                body = await response.content.read(_MAX_STATE_BYTES)
        except (TimeoutError, aiohttp.ClientError, OSError):
            return None
        return parse_state(body)

    async def model(self, ip: str) -> ModelStatus | None:
        """GetModel on the gRPC port; in a thread, because gRPC wants no loop beside Kopf's."""
        return await asyncio.to_thread(_get_model, f"{_host(ip)}:{labels.GRPC_PORT}")


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


def _get_model(address: str) -> ModelStatus | None:
    options = [("grpc.max_receive_message_length", _MAX_MODEL_BYTES)]
    with grpc.insecure_channel(address, options=options) as channel:
        try:
            info = worker_pb2_grpc.WorkerStub(channel).GetModel(worker_pb2.GetModelRequest(), timeout=MODEL_TIMEOUT_S)
        except grpc.RpcError:
            return None
    return ModelStatus(
        architecture=info.architecture,
        quantization=info.quantization,
        compute=info.compute,
        device=info.device,
        max_model_len=info.max_model_len,
        kv_blocks_per_replica=info.total_blocks,
    )


def _host(ip: str) -> str:
    return f"[{ip}]" if ":" in ip else ip
