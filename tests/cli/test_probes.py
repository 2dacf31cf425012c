"""Asking the router and workers: every kind of answer, and none."""

import asyncio
import json

import pytest

from argosy_api.worker_status import Phase, WorkerStatus
from argosy_cli.embedded.probes import Probes, Routes


@pytest.fixture
async def server():
    """A tiny HTTP server: `answers` maps a path to (status, body); what it has not is 404."""
    answers = {}

    async def handle(reader, writer):
        while line := await reader.readline():
            path = line.split()[1].decode()
            while (await reader.readline()).strip():
                pass
            status, body = answers.get(path, (404, ""))
            writer.write(f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
            await writer.drain()
        writer.close()

    listening = await asyncio.start_server(handle, "127.0.0.1", 0)
    answers["port"] = listening.sockets[0].getsockname()[1]
    yield answers
    listening.close()


WORKERS = [
    {"worker_id": "a", "revision": "r", "state": "ready"},
    {"worker_id": "b", "revision": "r", "state": "connecting"},
    {"worker_id": "c", "revision": "r", "state": "terminating"},
]


@pytest.mark.parametrize(
    ("answer", "ready"),
    [
        ((200, json.dumps({"deployments": [{"namespace": "n", "name": "m", "workers": WORKERS}]})), {("n", "a")}),
        ((200, '{"deployments": []}'), set()),
        ((200, "not JSON"), set()),
        ((200, '{"deployments": [{"namespace": "n"}]}'), set()),
        ((503, ""), set()),
        ((404, ""), set()),
    ],
)
async def test_routes(server, answer, ready):
    server["/routes"] = answer
    async with Routes(f"127.0.0.1:{server['port']}") as routes:
        assert await routes.ready() == ready


async def test_a_router_that_is_not_there_routes_to_nobody():
    async with Routes("127.0.0.1:1") as routes:
        assert await routes.ready() == set()


@pytest.mark.parametrize(
    ("answer", "state"),
    [
        (
            '{"phase": "Loading", "reason": "", "message": "weights", "progress": 0.5}',
            WorkerStatus(phase=Phase.LOADING, message="weights", progress=0.5),
        ),
        (
            '{"phase": "Failed", "reason": "ModelInvalid", "progress": 7}',
            WorkerStatus(phase=Phase.FAILED, reason="ModelInvalid"),
        ),
        ('{"phase": "Ready", "message": null, "progress": -1}', WorkerStatus(phase=Phase.READY)),
        ('{"progress": "much"}', None),
        ("[]", None),
        ("", None),
    ],
)
async def test_worker_state(server, answer, state):
    server["/state"] = (200, answer)
    probes = Probes(grpc_port=1, metrics_port=server["port"])
    try:
        assert await probes.status() == state
    finally:
        await probes.close()


async def test_liveness_and_readiness_of_nobody(server):
    probes = Probes(grpc_port=1, metrics_port=server["port"])
    try:
        server["/healthz"] = (200, "ok")
        assert await probes.alive() is True
        server["/healthz"] = (503, "the engine hangs")
        assert await probes.alive() is False
        assert await probes.serving() is False
    finally:
        await probes.close()
