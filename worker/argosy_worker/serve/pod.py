"""The processes of a pod that share its model: the first starts the others, watches them, and none outlives it.

All or none: one that ends takes the first with it, which says why, and the rest end as it does.
"""

import asyncio
import ctypes
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from threading import Thread

from argosy_api import net, process
from argosy_api.process import EXIT_CONFIG, EXIT_FAULT, EXIT_OK, MAX_TERMINATION_BYTES, Termination
from argosy_worker.serve.hosting import GROUP_LOST, Loss, tell
from argosy_worker.serve.settings import GPUS, Settings

log = logging.getLogger(__name__)

_PR_SET_PDEATHSIG = 1
_REAPED_S = 1.0


@dataclass(frozen=True, slots=True)
class _Local:
    rank: int
    process: subprocess.Popen[bytes]
    said: int
    """Descriptor from which its last word is read."""


class LocalRanks:
    """The other processes of this pod; none, where it has one rank. Made in the process's main thread, as a process
    ends with the thread that has started it.
    """

    def __init__(
        self,
        settings: Settings,
        leader: tuple[str, int],
        *,
        loop: asyncio.AbstractEventLoop,
        lost: Callable[[Loss], object],
        left: Callable[[], object],
    ) -> None:
        """Start them, each on its own GPU, and this process on the first: no library may have looked at GPUs before.

        `leader`: where rank 0 takes them in. `lost` is told in any thread why one of them has failed, `left` that one
        was told to end and has.
        """
        self._lost, self._left, self._loop = lost, left, loop
        self._fell: asyncio.Future[Loss] = loop.create_future()
        self._ends = False
        numbers = range(0) if settings.local_rank else range(1, settings.local_ranks)
        self._locals = [_start(settings, number, leader) for number in numbers]
        if self._locals:
            os.environ[GPUS] = settings.gpus[0]
            log.info("rank %d has started %d more of its pod", settings.rank, len(self._locals))
        for one in self._locals:
            Thread(target=self._watch, args=(one,), name="pod", daemon=True).start()

    async def cause(self, loss: Loss | None) -> Loss | None:
        """Why one of this pod has failed, where one has; else `loss`. What the others notice may come first."""
        if self._locals:
            await asyncio.wait({self._fell}, timeout=_REAPED_S)
        return self._fell.result() if self._fell.done() else loss

    def wait(self, seconds: float) -> None:
        """Until all have ended, which they were told to."""
        self._ends, until = True, time.monotonic() + seconds
        for one in self._locals:
            with suppress(subprocess.TimeoutExpired):
                one.process.wait(max(0.0, until - time.monotonic()))

    def close(self) -> None:
        """End those that are there."""
        self._ends = True
        for one in self._locals:
            one.process.kill()
            one.process.wait()

    def _watch(self, one: _Local) -> None:
        code = one.process.wait()
        try:
            said = Termination.parse(os.read(one.said, MAX_TERMINATION_BYTES))
        except OSError:  # a process that it has started has the other end
            said = None
        finally:
            os.close(one.said)
        if self._ends:
            return
        if code == EXIT_OK:
            self._left()
            return
        loss = reason(one.rank, code, said)
        if said is None or said.reason != GROUP_LOST:  # else it has ended because another one has
            tell(self._loop, self._fell, loss)
        self._lost(loss)


def reason(rank: int, code: int, said: Termination | None) -> Loss:
    """Why the worker ends, by how a process of its pod has."""
    who = f"rank {rank}, a process of this pod,"
    if said is not None:
        return Loss(f"{who} says: {said.message}", said.reason, EXIT_CONFIG if code == EXIT_CONFIG else EXIT_FAULT)
    if code >= 0:
        return Loss(f"{who} has ended with code {code}; the log has the cause")
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    memory = " (so ends one for which the pod has no memory)" if -code == signal.SIGKILL else ""
    return Loss(f"{who} was ended by {name}{memory}")


def end_with_parent(parent: int) -> bool:
    """Have the kernel end this process when the one that started it does, however that ends; False: it has already."""
    with suppress(OSError, AttributeError):  # no Linux
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    return os.getppid() == parent


def _start(settings: Settings, number: int, leader: tuple[str, int]) -> _Local:
    rank = settings.rank + number
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    environment = {
        **os.environ,
        GPUS: settings.gpus[number],
        process.LOCAL_RANK: str(number),
        process.PARENT: str(os.getpid()),
        process.GROUP_LEADER: net.address(*leader),
        process.GRPC_PORT: "0",
        process.METRICS_PORT: "0",
        process.WORKER_ID: f"{settings.worker_id}.{number}",
        process.TERMINATION_LOG: f"/dev/fd/{writing}",
    }
    command = [sys.executable, "-m", "argosy_worker", settings.spec.argument()]
    try:
        made = subprocess.Popen(  # noqa: S603 - this program, told what this process was told
            command, env=environment, pass_fds=(writing,), stdin=subprocess.DEVNULL
        )
    finally:
        os.close(writing)
    return _Local(rank, made, reading)
