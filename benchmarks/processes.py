"""Processes that the benchmarks measure: start, wait until they answer, look at their memory, end."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import psutil
from grpc_health.v1 import health_pb2, health_pb2_grpc

from argosy_api.membership import Deployment, Membership, RoutingPolicy, Worker
from argosy_api.resource import EngineSpec, ModelSpec
from argosy_api.worker_spec import WorkerSpec


@dataclass(frozen=True, slots=True)
class Running:
    """A process that answers."""

    process: subprocess.Popen[bytes]
    port: int
    ready_after_s: float

    @property
    def resident_bytes(self) -> int:
        """Its resident memory now."""
        return int(psutil.Process(self.process.pid).memory_info().rss)


def free_port() -> int:
    """A loopback port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def started(arguments: list[str], environment: dict[str, str], port: int, limit_s: float = 120) -> Iterator[Running]:
    """Run a Python module with a gRPC server on `port` until it reports SERVING; end it afterwards."""
    log = tempfile.TemporaryFile()  # noqa: SIM115 - closed below, after the process that writes it
    begun = time.perf_counter()
    process = subprocess.Popen([sys.executable, *arguments], env={**os.environ, **environment}, stdout=log, stderr=log)
    try:
        while not _serving(port):
            if process.poll() is not None or time.perf_counter() - begun > limit_s:
                log.seek(0)
                raise RuntimeError(f"{arguments} did not start:\n{log.read().decode()[-2000:]}")
            time.sleep(0.02)
        yield Running(process, port, time.perf_counter() - begun)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        log.close()


def _serving(port: int) -> bool:
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=1)
        except grpc.RpcError:
            return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def worker(uri: str, engine: EngineSpec | None = None) -> contextlib.AbstractContextManager[Running]:
    """A worker that serves `uri`."""
    port = free_port()
    environment = {
        "ARGOSY_HOST": "127.0.0.1",
        "ARGOSY_GRPC_PORT": str(port),
        "ARGOSY_METRICS_PORT": str(free_port()),
        "ARGOSY_NAMESPACE": "default",
        "ARGOSY_DEPLOYMENT": "bench",
        "ARGOSY_WORKER_ID": f"bench-{port}",
    }
    spec = WorkerSpec(model=ModelSpec(uri=uri, served_name="bench"), engine=engine or EngineSpec())
    return started(["-m", "argosy_worker", spec.argument()], environment, port)


@contextlib.contextmanager
def router(workers: list[Running]) -> Iterator[Running]:
    """A router in front of `workers`, which serve the model `bench`."""
    members = tuple(Worker(worker_id=f"bench-{w.port}", address=f"127.0.0.1:{w.port}") for w in workers)
    deployment = Deployment(
        namespace="default", name="bench", served_name="bench", policy=RoutingPolicy.KV_AWARE, workers=members
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "membership.json"
        path.write_text(Membership((deployment,)).to_json())
        port = free_port()
        ports = [f"--grpc-port={port}", f"--http-port={free_port()}", f"--metrics-port={free_port()}"]
        with started(["-m", "argosy_router", "--host=127.0.0.1", f"--membership=file:{path}", *ports], {}, port) as it:
            yield it
