"""Keeps one process running: start, watch, wait for its end, wait a little longer each time, start again."""

import asyncio
import contextlib
import signal
import time
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Protocol

from argosy_api.backoff import Backoff
from argosy_cli.embedded import states
from argosy_cli.embedded.process import Command, Process, describe_exit, tail
from argosy_cli.embedded.states import ProcessState
from argosy_cli.errors import CommandError

HEALTHY_S = 60.0
"""Running healthily for this long makes earlier failures forgotten."""


class Kind(Enum):
    """Why a process ended, as far as the wait before its next start is concerned."""

    CRASH = Backoff(first=0.2, cap=30.0)
    """Killed or crashed: a new try may well succeed, so the first one is quick."""
    MODEL = Backoff(first=10.0, cap=300.0)
    """The model cannot be loaded: the same will happen again until somebody changes something."""


def in_a_row(failures: int, healthy_s: float) -> int:
    """How many failures in a row the next one makes, of a process that had been healthy for so many seconds."""
    return 1 if healthy_s >= HEALTHY_S else failures + 1


class Job(Protocol):
    """What is kept running."""

    def command(self) -> Command:
        """Command of the next start; called anew each time, so that ports can be chosen anew."""
        ...

    async def watch(self, process: Process) -> None:
        """Look after the running process and write what is seen into the state; cancelled when the process ends."""
        ...

    def verdict(self, code: int) -> tuple[Kind, str, str]:
        """Why it ended: kind, reason, message."""
        ...


class Keeper:
    """Runs a job until it is told to end. All in one event loop."""

    def __init__(self, job: Job, state: ProcessState, *, grace_s: float, changed: Callable[[], None]) -> None:
        self._job = job
        self.state = state
        self._grace_s = grace_s
        self._changed = changed
        self._process: Process | None = None
        self._ending = asyncio.Event()

    async def run(self) -> None:
        """Keep it running; returns when `end` was called and the process is gone."""
        failures = 0
        while not self._ending.is_set():
            healthy_s = 0.0
            try:
                self._process = await Process.start(self._job.command())
                self.state.retry_s = 0.0
                self._update(states.STARTING, pid=self._process.pid)
                code, healthy_s = await self._live(self._process)
                kind, reason, message = self._job.verdict(code)
            except (OSError, CommandError) as error:  # no such program, no more processes, no free port
                kind, reason, message = Kind.CRASH, "StartFailed", str(error)
            if self._ending.is_set():
                break
            failures = in_a_row(failures, healthy_s)
            self.state.restarts += 1
            self.state.retry_s = kind.value.delay(failures)
            self._update(states.FAILED, reason=reason, message=message, pid=0)
            await self._sleep(self.state.retry_s)
        self._update(states.ENDED, pid=0)

    def terminate(self) -> None:
        """Ask it to end (SIGTERM), and start it no more; a second time: at once, as far as the program heeds it."""
        self._ending.set()
        if self._process is not None and self._process.alive:
            self._update(states.STOPPING, pid=self._process.pid)
            self._process.signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it now, and start it no more."""
        self._ending.set()
        if self._process is not None:
            self._process.signal(signal.SIGKILL)

    def crash(self) -> None:
        """Kill it as a fault would; it is started again."""
        if self._process is not None:
            self._process.signal(signal.SIGKILL)

    async def end(self) -> None:
        """`terminate` unless that was done already, and `kill` after the grace period; returns when it is gone."""
        if not self._ending.is_set():
            self.terminate()
        if self._process is not None:
            await self._process.wait_or_kill(self._grace_s)

    async def _live(self, process: Process) -> tuple[int, float]:
        """One life of the process: its exit code, and for how long it had been ready at its end.

        A fault of the watching itself is raised: a process that nobody looks after must not go on as if all were well.
        """
        clock = _Clock(self.state)
        watch = asyncio.create_task(self._job.watch(process))
        gone = asyncio.create_task(process.wait())
        measure = asyncio.create_task(clock.run())
        try:
            await asyncio.wait({watch, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not gone.done():
                process.signal(signal.SIGKILL)
                watch.result()
            # the process is gone: nobody may be sent to it from now on, while connections are still being closed
            self.state.address = self.state.pages = ""
            self._changed()
            return await gone, clock.healthy_s
        finally:
            for task in (watch, measure):
                task.cancel()
            await asyncio.gather(watch, measure, return_exceptions=True)

    async def _sleep(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._ending.wait()

    def _update(self, phase: str, *, reason: str = "", message: str = "", pid: int) -> None:
        state = self.state
        state.phase, state.reason, state.message, state.pid, state.progress = phase, reason, message, pid, 0.0
        if not pid:
            state.address = state.pages = ""
        self._changed()


class _Clock:
    """For how long a process has been ready without a break."""

    def __init__(self, state: ProcessState) -> None:
        self._state = state
        self.healthy_s = 0.0

    async def run(self) -> None:
        """Look once a second."""
        since: float | None = None
        while True:
            since = (since or time.monotonic()) if self._state.ready else None
            self.healthy_s = time.monotonic() - since if since is not None else 0.0
            await asyncio.sleep(1.0)


def crash(code: int, log: Path) -> tuple[Kind, str, str]:
    """The verdict on a process that said nothing: how it ended, and the last line of its log."""
    last = tail(log, 1)
    return Kind.CRASH, "Crashed", describe_exit(code) + (f" ({last[0][:300]})" if last else "")
