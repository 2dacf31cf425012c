"""One child process: its own session, its own log file, and it dies with us."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_LAUNCHER = Path(__file__).with_name("launch.py")
_MAX_LOG_BYTES = 8 * 1024 * 1024
_TAIL_BYTES = 16 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """What to run. `env` is the whole environment, not an addition."""

    argv: Sequence[str]
    env: Mapping[str, str]
    log: Path
    cwd: Path


class Process:
    """A running child."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    async def start(cls, command: Command) -> "Process":
        """Start it in its own session (the terminal's Ctrl-C is ours to pass on), output appended to its log."""
        _rotate(command.log)
        with command.log.open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-S", str(_LAUNCHER), str(os.getpid()), *command.argv),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=dict(command.env),
                cwd=command.cwd,
                start_new_session=True,
            )
        return cls(process)

    @property
    def pid(self) -> int:
        """Process id; stays the same over the launcher's exec."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether its end was not seen yet."""
        return self._process.returncode is None

    async def wait(self) -> int:
        """Exit code; negative for a signal."""
        return await self._process.wait()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, if it still runs."""
        if self.alive:
            # not the library's send_signal: that reaps a child which has just died, and its exit code is lost
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    async def end(self, grace_s: float) -> int:
        """SIGTERM, and SIGKILL when that was not enough in `grace_s`."""
        self.signal(signal.SIGTERM)
        return await self.wait_or_kill(grace_s)

    async def wait_or_kill(self, grace_s: float) -> int:
        """Wait for its end; SIGKILL when that takes longer than `grace_s`."""
        try:
            async with asyncio.timeout(grace_s):
                return await self.wait()
        except TimeoutError:
            self.signal(signal.SIGKILL)
            return await self.wait()


def describe_exit(code: int) -> str:
    """`exit code 3`, or `killed by SIGKILL`."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"


def tail(log: Path, lines: int = 8) -> list[str]:
    """The last lines of a log, decoded leniently; none when there is no log."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - _TAIL_BYTES))
            text = file.read().decode(errors="replace")
    except OSError:
        return []
    return [line for line in text.splitlines() if line.strip()][-lines:]


def _rotate(log: Path) -> None:
    """Keep one old log beside a fresh one, so that a child that restarts for days fills no disk."""
    if log.exists() and log.stat().st_size > _MAX_LOG_BYTES:
        log.replace(log.with_name(f"{log.name}.1"))
