"""One replica: the worker process of one pod, watched as a kubelet does with the pod's own probes."""

import asyncio
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from argosy_api import process as names
from argosy_api.membership import Worker
from argosy_api.process import EXIT_CONFIG, MAX_TERMINATION_BYTES, Termination
from argosy_api.worker_spec import with_threads
from argosy_api.worker_status import Phase, WorkerStatus
from argosy_cli.embedded import pods, ports, states
from argosy_cli.embedded.keeper import Kind, crash
from argosy_cli.embedded.pods import Limits, Pod
from argosy_cli.embedded.probes import Probes
from argosy_cli.embedded.process import Command, Process
from argosy_cli.embedded.states import ProcessState

POLL_S = 0.1
READY_POLL_S = 1.0
UNREADY_AFTER = 2
"""Failed readiness probes in a row before no new requests are sent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What this machine decides for all workers of a run."""

    folder: Path
    """State folder of the run: logs and termination messages."""
    python: str
    environment: Mapping[str, str]
    """What children inherit."""
    overrides: Mapping[str, str]
    """Environment that wins over the manifest's: Redis, folders."""
    secret: Callable[[str, str], str]
    threads: int
    """For workers whose resource does not say how many."""
    taken: set[int]
    """Ports given out in this run."""

    def with_overrides(self, more: Mapping[str, str]) -> "Surroundings":
        """The same, with more environment of one resource's."""
        return replace(self, overrides={**self.overrides, **more})


class Replica:
    """The job of a worker: see `keeper.Job`."""

    def __init__(
        self, pod: Pod, state: ProcessState, around: Surroundings, *, gpu: str | None, changed: Callable[[], None]
    ) -> None:
        self.pod = pod
        self.state = state
        self.limits: Limits = pods.limits(pod)
        self._around = around
        self._gpu = gpu
        self._changed = changed
        self._ports = (0, 0)
        self._stem = f"{pod.namespace}.{pod.name}"
        state.log = str(around.folder / f"{self._stem}.log")

    def member(self) -> Worker | None:
        """What the router is told: nothing until it was ready, and nothing as soon as its process is gone."""
        if not self.state.address:
            return None
        return Worker(
            worker_id=self.pod.name,
            address=self.state.address,
            revision=self.pod.revision,
            serving=self.state.phase in (states.CONNECTING, states.READY),
            metrics=f"127.0.0.1:{self._ports[1]}",
        )

    def routed(self) -> None:
        """The router sends requests here."""
        if self.state.phase == states.CONNECTING:
            self.state.phase = states.READY
            self._changed()

    def command(self) -> Command:
        """Command with free ports: those of the life before may have been taken in the meantime."""
        around = self._around
        around.taken.difference_update(self._ports)
        chosen: list[int] = []
        for _ in range(2):
            chosen.append(ports.free_port(around.taken))
            around.taken.add(chosen[-1])
        self._ports = (chosen[0], chosen[1])
        self._termination.unlink(missing_ok=True)
        overrides = {
            **around.overrides,
            names.HOST: "127.0.0.1",
            names.GRPC_PORT: str(chosen[0]),
            names.METRICS_PORT: str(chosen[1]),
            names.TERMINATION_LOG: str(self._termination),
        }
        if self._gpu is not None:
            overrides["CUDA_VISIBLE_DEVICES"] = self._gpu
        started = pods.start(self.pod, python=around.python, overrides=overrides, secret=around.secret)
        return Command(
            argv=with_threads(started.argv, around.threads),
            env={**around.environment, **started.env},
            log=Path(self.state.log),
            cwd=around.folder,
        )

    async def watch(self, process: Process) -> None:
        """Report the way to ready, then probe readiness and liveness."""
        probes = Probes(grpc_port=self._ports[0], metrics_port=self._ports[1])
        try:
            await self._until_ready(probes, process)
            await asyncio.gather(self._readiness(probes), self._liveness(probes, process))
        finally:
            await probes.close()

    def verdict(self, code: int) -> tuple[Kind, str, str]:
        """What the worker wrote before it left; else how it ended."""
        said = read_termination(self._termination)
        if code != EXIT_CONFIG or said is None:
            return crash(code, Path(self.state.log))
        # a port that was taken under the worker's nose is another matter: its next start has other ports
        return Kind.MODEL if said.reason.startswith("Model") else Kind.CRASH, said.reason, said.message

    @property
    def _termination(self) -> Path:
        return self._around.folder / f"{self._stem}.termination"

    async def _until_ready(self, probes: Probes, process: Process) -> None:
        began = time.monotonic()
        answered = False
        while True:
            said = await probes.status()
            answered = answered or said is not None
            if said is not None and said.phase is Phase.READY and await probes.serving():
                self._healthy()
                return
            if said is not None and said.phase is not Phase.READY:
                self._progress(said)
            if not answered and time.monotonic() - began > self.limits.startup_s:
                process.signal(signal.SIGKILL)
            await asyncio.sleep(POLL_S)

    async def _readiness(self, probes: Probes) -> None:
        failures = 0
        while True:
            await asyncio.sleep(READY_POLL_S)
            failures = 0 if await probes.serving() else failures + 1
            if failures == 0 and self.state.phase == states.NOT_READY:
                self._healthy()
            elif failures >= UNREADY_AFTER and self.state.phase in (states.CONNECTING, states.READY):
                self.state.phase, self.state.reason = states.NOT_READY, "Unresponsive"
                self.state.message = "does not answer its health checks"
                self._changed()

    async def _liveness(self, probes: Probes, process: Process) -> None:
        failures = 0
        while failures < self.limits.liveness_failures:
            await asyncio.sleep(self.limits.liveness_period_s)
            failures = 0 if await probes.alive() else failures + 1
        process.signal(signal.SIGKILL)

    def _healthy(self) -> None:
        """Tell the router; ready it is only when the router says that it sends requests here."""
        state = self.state
        state.phase, state.reason, state.message, state.progress = states.CONNECTING, "", "", 0.0
        state.address, state.pages = (f"127.0.0.1:{port}" for port in self._ports)
        self._changed()

    def _progress(self, said: WorkerStatus) -> None:
        state = self.state
        new = (said.phase, said.reason, said.message, said.progress)
        if state.phase == states.STOPPING or new == (state.phase, state.reason, state.message, state.progress):
            return
        state.phase, state.reason, state.message, state.progress = new
        self._changed()


def read_termination(path: Path) -> Termination | None:
    """A worker's last word, or None."""
    try:
        with path.open("rb") as file:
            return Termination.parse(file.read(MAX_TERMINATION_BYTES))
    except OSError:
        return None
