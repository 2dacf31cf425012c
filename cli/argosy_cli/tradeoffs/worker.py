"""A worker process that is measured: started, asked over gRPC, ended."""

import asyncio
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc

from argosy_api import limits, process
from argosy_api.process import Termination
from argosy_api.resource import ModelSpec
from argosy_api.v1 import worker_pb2 as pb
from argosy_api.v1 import worker_pb2_grpc as rpc
from argosy_api.worker_spec import WorkerSpec
from argosy_cli.embedded.ports import free_port
from argosy_cli.embedded.probes import Probes
from argosy_cli.embedded.process import Command, Process, describe_exit, tail
from argosy_cli.errors import CommandError
from argosy_cli.tradeoffs.setups import Setup

READY_S = 900.0
"""A model of many gigabytes is read from a disk, and quantized."""
_GRACE_S = 20.0
_POLL_S = 0.05
_PAGE = os.sysconf("SC_PAGE_SIZE")


class SetupRefusedError(CommandError):
    """The worker cannot be set up like that here; `message` is its own word."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of one request."""

    tokens: list[int]
    times: list[float]
    """When each token came, in seconds since the request was sent."""
    prompt: list[tuple[float, int]]
    """For each prompt token but the first: its log-probability, and the most likely token there."""


class MeasuredWorker:
    """A running worker."""

    def __init__(self, pid: int, channel: grpc.aio.Channel, info: pb.ModelInfo) -> None:
        self._pid, self._stub, self.info = pid, rpc.WorkerStub(channel), info
        self._asked = 0

    @property
    def resident_bytes(self) -> int:
        """Its resident memory now."""
        fields = Path(f"/proc/{self._pid}/statm").read_text(encoding="ascii").split()
        return int(fields[1]) * _PAGE

    async def ask(self, prompt: Sequence[int], sampling: pb.SamplingParams) -> Answer:
        """One request. It shares no blocks of the prefix cache with any other.

        Raises:
            CommandError: the worker refused it, or is gone.

        """
        self._asked += 1
        name = f"tradeoffs-{self._asked}"
        request = pb.GenerateRequest(
            request_id=name, attempt=1, prompt_tokens=prompt, sampling=sampling, cache_salt=name
        )
        answer, begun = Answer([], [], []), time.perf_counter()
        try:
            async for chunk in self._stub.Generate(request):
                answer.tokens.extend(chunk.token_ids)
                answer.times.extend([time.perf_counter() - begun] * len(chunk.token_ids))
                answer.prompt.extend((one.logprob, one.top[0].token) for one in chunk.prompt_logprobs if one.top)
        except grpc.aio.AioRpcError as error:
            raise CommandError(f"the worker answered {error.code().name}: {error.details()}") from None
        return answer


@asynccontextmanager
async def measured_worker(uri: str, setup: Setup, environment: Mapping[str, str]) -> AsyncIterator[MeasuredWorker]:
    """Start a worker for this setup and wait until it serves; it ends with the block.

    Raises:
        SetupRefusedError: it cannot serve like that; says why.
        CommandError: it does not come up, for another reason.

    """
    spec = WorkerSpec(model=ModelSpec(uri=uri, served_name="m"), engine=setup.engine, quantization=setup.quantization)
    port, metrics_port = free_port(), free_port()
    with tempfile.TemporaryDirectory(prefix="argosy-tradeoffs-") as folder:
        log, word = Path(folder) / "worker.log", Path(folder) / "word"
        told = {
            process.HOST: "127.0.0.1",
            process.GRPC_PORT: str(port),
            process.METRICS_PORT: str(metrics_port),
            process.DEPLOYMENT: "m",
            process.TERMINATION_LOG: str(word),
            process.REDIS_URL: "",
        }
        command = Command(
            argv=(sys.executable, "-m", "argosy_worker", spec.argument()),
            env={**environment, **told},
            log=log,
            cwd=Path(folder),
        )
        running = await Process.start(command)
        probes = Probes(grpc_port=port, metrics_port=metrics_port)
        options = [("grpc.max_receive_message_length", limits.MAX_GRPC_MESSAGE), ("grpc.enable_http_proxy", 0)]
        channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options)
        try:
            await _ready(running, probes, log, word)
            info = await rpc.WorkerStub(channel).GetModel(pb.GetModelRequest())
            yield MeasuredWorker(running.pid, channel, info)
        finally:
            await channel.close(None)
            await probes.close()
            await running.end(_GRACE_S)


def _last_word(path: Path) -> Termination | None:
    return Termination.parse(path.read_bytes()) if path.exists() else None


async def _ready(running: Process, probes: Probes, log: Path, word: Path) -> None:
    deadline = time.monotonic() + READY_S
    while not await probes.serving():
        ended = not running.alive  # asked before its last word is looked for
        last = _last_word(word)
        if last is not None:
            raise SetupRefusedError(last.message)
        if ended:
            end = " ".join(tail(log, 1))
            raise CommandError(f"a worker ended: {describe_exit(await running.wait())}; {end}")
        if time.monotonic() > deadline:
            raise CommandError(f"a worker was not ready within {READY_S:.0f} s")
        await asyncio.sleep(_POLL_S)
