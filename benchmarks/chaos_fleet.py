"""Workers and routers as processes at fixed ports, and what happens to them: each fault is verified."""

import abc
import asyncio
import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

import grpc
import processes
from chaos_history import MODEL, ask, some_request

from argosy_api.membership import Deployment, Membership, Worker
from argosy_api.resource import DrainSpec, EngineSpec, ModelSpec
from argosy_api.v1 import worker_pb2 as pb
from argosy_api.v1 import worker_pb2_grpc as rpc
from argosy_api.worker_spec import WorkerSpec

URI = "sim://bench?prefill_tps=20000&decode_ms={decode_ms}&kv_blocks=4096&check=1"
STOPPED_S = (2.0, 6.0)
DRAIN_S = 0
"""For the streams of a worker that drains: none of them ends there."""
ROUTER_DRAIN_S = 1
"""For those of a router: most do not."""


class Slot(abc.ABC):
    """A process at one port, again and again, as the kubelet would start it."""

    def __init__(
        self, port: int, arguments: Sequence[str], environment: Mapping[str, str], logs: Path | None = None
    ) -> None:
        """`logs`: the folder where a log of each process is kept, if it is wanted."""
        self.port = port
        self._log = Path(os.devnull) if logs is None else logs / f"{port}.log"
        self._command = [sys.executable, *arguments]
        self._environment = {**os.environ, **environment}
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def process(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise RuntimeError("the process was not started")
        return self._process

    def start(self) -> None:
        with self._log.open("a") as log:
            self._process = subprocess.Popen(
                self._command, env=self._environment, stdout=subprocess.DEVNULL, stderr=log
            )

    def wake(self) -> None:
        """It goes on, where it was stopped; it is started, where it had ended."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
        else:
            self.start()

    def end(self) -> None:
        self.process.send_signal(signal.SIGCONT)
        self.process.kill()
        self.process.wait()

    @abc.abstractmethod
    async def serving(self) -> None:
        """Until it answers again as it should."""

    async def happens(self, fault: str, rng: random.Random) -> None:
        """One fault, verified. Raises RuntimeError where it did not happen."""
        if fault == "stop":
            self.process.send_signal(signal.SIGSTOP)
            await self._until_state("T")
            await asyncio.sleep(rng.uniform(*STOPPED_S))
            self.process.send_signal(signal.SIGCONT)
            await self._until_state("SRD")
            return
        number = signal.SIGKILL if fault == "kill" else signal.SIGTERM
        self.process.send_signal(number)
        code = await asyncio.to_thread(self.process.wait, 30)
        if code not in ((-signal.SIGKILL,) if fault == "kill" else (0, -signal.SIGTERM)):
            raise RuntimeError(f"{fault} did not happen: the process ended with {code}")
        self.start()

    async def _until_state(self, wanted: str) -> None:
        until = time.monotonic() + 5
        while (Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()[0]) not in wanted:
            if time.monotonic() > until:
                raise RuntimeError("the process did not change its state")
            await asyncio.sleep(0.01)


class WorkerSlot(Slot):
    """A worker."""

    def __init__(self, uri: str, logs: Path | None = None) -> None:
        port = processes.free_port()
        model = ModelSpec(uri=uri, served_name=MODEL)
        spec = WorkerSpec(model=model, engine=EngineSpec(), drain=DrainSpec(timeout_seconds=DRAIN_S))
        environment = {
            "ARGOSY_HOST": "127.0.0.1",
            "ARGOSY_GRPC_PORT": str(port),
            "ARGOSY_METRICS_PORT": str(processes.free_port()),
            "ARGOSY_REDIS_URL": "",
            "ARGOSY_NAMESPACE": "default",
            "ARGOSY_DEPLOYMENT": MODEL,
            "ARGOSY_WORKER_ID": f"{MODEL}-{port}",
        }
        super().__init__(port, ["-m", "argosy_worker", spec.argument()], environment, logs)

    async def serving(self) -> None:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{self.port}") as channel:
            while True:
                with contextlib.suppress(grpc.aio.AioRpcError):
                    await rpc.WorkerStub(channel).GetModel(pb.GetModelRequest(), timeout=1)
                    return
                await asyncio.sleep(0.05)


class RouterSlot(Slot):
    """A router that reads the workers from a file."""

    def __init__(self, membership: Path, program: Sequence[str], logs: Path | None = None) -> None:
        port, self.http_port, self.metrics_port = (processes.free_port() for _ in range(3))
        ports = [f"--grpc-port={port}", f"--http-port={self.http_port}", f"--metrics-port={self.metrics_port}"]
        options = [f"--membership=file:{membership}", f"--drain-seconds={ROUTER_DRAIN_S}"]
        super().__init__(port, [*program, "--host=127.0.0.1", *options, *ports], {"ARGOSY_REDIS_URL": ""}, logs)

    async def serving(self) -> None:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{self.port}") as channel:
            while True:
                first = some_request(random.Random(1))
                await ask(rpc.InferenceStub(channel), first)
                if not first.error:
                    return
                await asyncio.sleep(0.1)


@contextlib.asynccontextmanager
async def fleet(
    workers: int,
    routers: int,
    decode_ms: float,
    *,
    uri: str = "",
    router: Sequence[str] = ("-m", "argosy_router"),
    logs: Path | None = None,
) -> AsyncIterator[tuple[list[Slot], list[Slot]]]:
    """Workers, simulated where no other `uri` is given, and routers that know them all.

    `router`: what Python is to run as one, before its arguments. `logs`: a folder for those of all processes.
    """
    slots: list[Slot] = []
    try:
        slots += (WorkerSlot(uri or URI.format(decode_ms=decode_ms), logs) for _ in range(workers))
        await asyncio.gather(*(slot.serving() for slot in slots))
        members = tuple(Worker(worker_id=f"{MODEL}-{s.port}", address=f"127.0.0.1:{s.port}") for s in slots)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "membership.json"
            path.write_text(
                Membership((Deployment(namespace="default", name=MODEL, served_name=MODEL, workers=members),)).to_json()
            )
            slots += (RouterSlot(path, router, logs) for _ in range(routers))
            await asyncio.gather(*(slot.serving() for slot in slots[workers:]))
            await asyncio.sleep(2)  # the reports of all workers are there
            yield slots[:workers], slots[workers:]
    finally:
        for slot in slots:
            slot.end()
