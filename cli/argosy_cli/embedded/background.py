"""A run in the background: the same `argosy up`, as a process of its own that reads its resources from a pipe."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from argosy_cli.embedded import run, states
from argosy_cli.embedded.assembly import Options
from argosy_cli.embedded.process import tail
from argosy_cli.embedded.states import RunState
from argosy_cli.errors import CommandError, StartError

LOG = "up.log"
LOOK_S = 0.1
END_S = 600.0
"""Longer than any drain that is asked for here takes; then it is killed."""
_LAUNCHER = Path(__file__).with_name("launch.py")


class EndedError(CommandError):
    """The run in the background ended before it served; the exit code is its own."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.exit_code = code  # type: ignore[misc]  # each has its own


@dataclass(frozen=True, slots=True)
class Background:
    """A started supervisor."""

    process: "subprocess.Popen[bytes]"
    root: Path
    output: Path
    """What it prints; moves into the run's folder as soon as there is one."""

    def state(self) -> RunState | None:
        """What it says of itself; None before it says anything.

        Raises:
            EndedError: it has ended, with its last words.

        """
        state = next((s for s in run.live(self.root) if s.pid == self.process.pid), None)
        if state is not None and self.output.exists():
            self.output.replace(self.root / state.run / LOG)  # it writes on, under the new name
        if state is None and (code := self.process.poll()) is not None:
            raise EndedError(_last_words(self.output, self.root, self.process.pid), code or 1)
        return state

    def end(self) -> None:
        """As with Ctrl-C; a second Ctrl-C while that lasts ends it at once."""
        try:
            self.process.send_signal(signal.SIGINT)
            self.process.wait(END_S)
        except KeyboardInterrupt:
            self.process.send_signal(signal.SIGINT)
            self.process.wait(END_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        finally:
            self.output.unlink(missing_ok=True)


def start(text: str, options: Options, environment: Mapping[str, str], *, detached: bool) -> Background:
    """Start a run of these resources (YAML).

    Args:
        text: the file.
        options: where it listens.
        environment: of the process.
        detached: whether it goes on when we end; else it ends with us, however we end.

    Raises:
        StartError: no state can be kept.

    """
    root = run.home(environment)
    try:
        root.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix="up-", suffix=".log", dir=root)
    except OSError as error:
        raise StartError(f"{root}: cannot keep state there: {error.strerror}; set {run.HOME_VARIABLE}") from None
    command = [sys.executable, "-m", "argosy_cli", "up", "-", *options.arguments()]
    if not detached:
        command = [sys.executable, "-I", "-S", str(_LAUNCHER), str(os.getpid()), *command]
    with os.fdopen(handle, "wb") as log:
        process = subprocess.Popen(  # noqa: S603 - our own command
            command, env=dict(environment), stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True
        )
    with contextlib.suppress(BrokenPipeError):  # it has ended; `state` says why
        if process.stdin is not None:
            process.stdin.write(text.encode())
            process.stdin.close()
    return Background(process, root, Path(name))


def follow(started: Background, see: Callable[[RunState], None]) -> RunState:
    """Show each change until every replica and service is ready, or failed and says why.

    Raises:
        EndedError: it ended.

    """
    shown = ""
    while True:
        state = started.state()
        if state is not None:
            if (now := state.to_json()) != shown:
                shown = now
                see(state)
            if settled(state) and not states.hopeless(state):  # else it ends, and says why
                return state
        time.sleep(LOOK_S)


def settled(state: RunState) -> bool:
    """Whether nothing is on its way."""
    return all(s.ready for s in state.services) and all(r.settled for r in state.resources)


@contextlib.contextmanager
def attached(text: str, options: Options, environment: Mapping[str, str]) -> Iterator[Background]:
    """A run that ends with the block."""
    started = start(text, options, environment, detached=False)
    try:
        yield started
    finally:
        started.end()


def _last_words(output: Path, root: Path, pid: int) -> str:
    """What it printed at last: its own error, without the prefix that ours gets."""
    moved = next(iter(root.glob(f"*-{pid}/{LOG}")), output)
    lines = tail(moved, 12)
    output.unlink(missing_ok=True)
    at = next((i for i, line in enumerate(lines) if line.startswith("error: ")), None)
    if at is None:
        return "`argosy up` ended" + "".join(f"\n  {line}" for line in lines)
    return "\n".join(lines[at:]).removeprefix("error: ")
