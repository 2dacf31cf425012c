"""What the user sees of a run: lines for what happens, and on a terminal a table of what is the case."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, Self

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from argosy_cli.embedded import states
from argosy_cli.embedded.process import tail
from argosy_cli.embedded.states import ProcessState, ResourceState, RunState

_COLOURS = {states.READY: "green", states.FAILED: "red", states.NOT_READY: "yellow"}
_LOUD_STEP = 0.25
"""Progress between two lines about the same thing."""


class Display(Protocol):
    """Where a run reports to."""

    def line(self, text: str) -> None:
        """Something happened."""
        ...

    def update(self, state: RunState) -> None:
        """Something is different."""
        ...


class Lines:
    """The differences between two states, as lines. Knows no terminal."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._seen: dict[str, tuple[str, str]] = {}
        self._told: dict[str, float] = {}
        self._ready: dict[str, int] = {}
        self._introduced = False

    def update(self, state: RunState) -> None:
        """Say what changed since the last call."""
        for service in state.services:
            self._process(service.name, service, service.name)
        for resource in state.resources:
            for replica in resource.replicas:
                self._process(
                    f"{resource.namespace}/{replica.name}", replica, f"{resource.name}: replica {replica.name}"
                )
            self._count(resource)
        self._introduce(state)

    def _process(self, key: str, process: ProcessState, label: str) -> None:
        if process.phase == states.CONNECTING:
            return  # takes no longer than a blink
        now = (process.phase, process.reason)
        before = self._seen.get(key)
        moved = process.progress - self._told.get(key, 0.0) >= _LOUD_STEP
        if now == before and not moved:
            return
        self._seen[key], self._told[key] = now, process.progress
        if process.phase == states.STARTING and before is None:
            return
        self._say(f"{label}: {describe(process)}")
        if process.phase == states.FAILED and process.reason in ("Crashed", "StartFailed"):
            for line in tail(Path(process.log), 5):
                self._say(f"    | {line[:300]}")

    def _count(self, resource: ResourceState) -> None:
        key = f"{resource.namespace}/{resource.name}"
        if any(replica.phase in (states.STOPPING, states.ENDED) for replica in resource.replicas):
            return  # on the way out nobody counts
        if resource.ready != self._ready.get(key, 0):
            self._ready[key] = resource.ready
            self._say(f"{resource.name}: {resource.ready} of {len(resource.replicas)} replicas ready")

    def _introduce(self, state: RunState) -> None:
        """Once, when whoever can be asked can be asked."""
        router = next(s for s in state.services if s.name == "router")
        served = [r for r in state.resources if r.ready]
        if self._introduced or not router.ready or not served or not all(r.settled for r in state.resources):
            return
        self._introduced = True
        body = json.dumps({"model": served[0].served_name, "messages": [{"role": "user", "content": "Hello!"}]})
        self._say(f"page               http://{state.http}/")
        self._say(f"HTTP (OpenAI API)  http://{state.http}/v1")
        self._say(f"gRPC               {state.grpc}")
        self._say(f"metrics            http://{state.metrics}/metrics/all")
        self._say("Try it:")
        self._say(f"  curl http://{state.http}/v1/chat/completions -H 'Content-Type: application/json' -d '{body}'")
        model = f" --model {served[0].served_name}" if len(state.resources) > 1 else ""
        self._say(f"  argosy chat{model}")


class PlainDisplay:
    """For files and pipes: one line at a time."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._lines = Lines(self.line)

    def line(self, text: str) -> None:
        """Write it."""
        self._write(text)

    def update(self, state: RunState) -> None:
        """Write what changed."""
        self._lines.update(state)


class TerminalDisplay:
    """For people: the lines, and below them a table that is always current. A context manager."""

    def __init__(self, console: Console) -> None:
        self._live = Live(console=console, auto_refresh=False, transient=True)
        self._lines = Lines(self.line)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def line(self, text: str) -> None:
        """Print it above the table."""
        self._live.console.print(Text(text), soft_wrap=True)

    def update(self, state: RunState) -> None:
        """Print what changed, and draw the table anew."""
        self._lines.update(state)
        self._live.update(table(state, self._live.console.width), refresh=True)


def describe(process: ProcessState) -> str:
    """One process in words."""
    if process.phase == states.FAILED:
        what = (
            f"ModelLoaded=False {process.reason}"
            if process.reason.startswith("Model")
            else f"Failed ({process.reason})"
        )
        # while a worker that has said why it failed still ends, its next start is not known
        return f"{what}: {process.message}" + (f"; next start in {process.retry_s:g} s" if process.retry_s else "")
    text = process.phase
    if process.progress and process.phase != states.READY:
        text += f" {process.progress:.0%}"
    if process.reason and process.reason != process.phase:
        text += f" ({process.reason})"
    if process.phase == states.READY and process.address:
        text += f" at {process.address}"
    return f"{text}: {process.message}" if process.message else text


_NARROW, _NARROWER = 110, 80
_END = 11
"""Of a long name: what tells replicas apart."""


def table(state: RunState, width: int = 200) -> Table:
    """All processes of a run; in a narrow terminal without what matters less, and with the ends of long names."""
    out = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    columns = ("RESOURCE", "PROCESS", "STATE", "RESTARTS", "PID")[: 5 if width >= _NARROW else 3]
    for column in columns:
        out.add_column(column, overflow="fold", no_wrap=column == "PROCESS")
    rows = [("", s) for s in state.services]
    rows += [(r.name, replica) for r in state.resources for replica in r.replicas]
    for owner, process in rows:
        name = process.name if width >= _NARROWER or len(process.name) <= _END else f"…{process.name[-_END:]}"
        style = _COLOURS.get(process.phase, "")
        cells = (Text(owner), Text(name), Text(describe(process), style), str(process.restarts), str(process.pid or ""))
        out.add_row(*cells[: len(columns)])
    return out
