"""`argosy ps`, `argosy down` and `argosy logs`: what runs in the background, and how it ends."""

import json
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from argosy_api.orders import Order, new_key
from argosy_cli.cluster.explain import age
from argosy_cli.embedded import background, orders, run
from argosy_cli.embedded.states import RunState
from argosy_cli.errors import CommandError

LOOK_S = 0.1
END_S = 600.0
NOTHING = "nothing runs here; start it with `argosy up FILE.yaml`, `argosy serve MODEL` or `argosy run MODEL`"


def ps(console: Console, *, as_json: bool) -> None:
    """A line for each resource of each run."""
    live = run.live(run.home(os.environ))
    if as_json:
        print(json.dumps({"items": [document(state) for state in live]}, indent=1))
        return
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for column in ("NAME", "READY", "MODEL", "HTTP", "AGE", "RUN"):
        table.add_column(column, no_wrap=column != "MODEL", overflow="fold")
    for state in live:
        for item in state.resources:
            ready = f"{item.ready}/{len(item.replicas)}"
            style = "" if item.ready == len(item.replicas) else "yellow"
            since = age(time.time() - state.started)
            cells = (item.served_name, ready, item.uri, f"http://{state.http}/v1", since, state.run)
            table.add_row(*map(Text, cells), style=style)
    console.print(table)


def document(state: RunState) -> dict[str, Any]:
    """For programs."""
    return {key: value for key, value in asdict(state).items() if key != "answers"}


def down(names: Sequence[str], *, everything: bool, say: Callable[[str], None]) -> None:
    """End runs, or single resources of them.

    Raises:
        CommandError: there is nothing such, or it is not clear which is meant.

    """
    root = run.home(os.environ)
    live = run.live(root)
    if not live:
        raise CommandError(NOTHING)
    if not names:
        if len(live) > 1 and not everything:
            raise CommandError(
                f"{len(live)} runs go on; name a run or a resource, or end them all with --all: "
                + ", ".join(f"{state.run} ({', '.join(r.name for r in state.resources)})" for state in live)
            )
        for state in live:
            _end(root, state, say)
        return
    for name in names:
        _end_named(root, name, say)


def _end_named(root: Path, name: str, say: Callable[[str], None]) -> None:
    for state in run.live(root):
        if state.run == name:
            _end(root, state, say)
            return
        if any(name in {item.name, item.served_name} for item in state.resources):
            if len(state.resources) == 1:
                _end(root, state, say)
                return
            found = next(item.name for item in state.resources if name in {item.name, item.served_name})
            orders.ask(root, state.run, Order(key=new_key(), remove=[found]))
            say(f"{found} ended; run {state.run} goes on with {len(state.resources) - 1} more")
            return
    there = sorted({item.name for state in run.live(root) for item in state.resources})
    raise CommandError(f"nothing here is called {name}; there are: {', '.join(there)}")


def _end(root: Path, state: RunState, say: Callable[[str], None]) -> None:
    """Ask it to end, and wait until it has; running requests may finish first."""
    try:
        os.kill(state.pid, signal.SIGTERM)
    except ProcessLookupError:
        return
    deadline = time.monotonic() + END_S
    while any(other.run == state.run for other in run.live(root)):
        if time.monotonic() > deadline:
            raise CommandError(f"run {state.run} (process {state.pid}) does not end")
        time.sleep(LOOK_S)
    say(f"ended run {state.run}: {', '.join(item.name for item in state.resources)}")


# --- logs


def logs(name: str | None, *, follow: bool, lines: int) -> Iterator[str]:
    """The last lines of the logs, and with `follow` those that come, until the run ends.

    Args:
        name: a resource, a replica, `router`, `valkey` or a run; None: all of the newest run.
        follow: go on.
        lines: of each log, from its end.

    Raises:
        CommandError: there is nothing such.

    """
    root = run.home(os.environ)
    folder, files = _chosen(root, name)
    width = max((len(title) for title in files), default=0)
    readers = [_Reader(path, f"{title:<{width}} | " if len(files) > 1 else "", lines) for title, path in files.items()]
    for reader in readers:
        yield from reader.lines()
    while follow:
        going = any(state.run == folder.name for state in run.live(root))
        for reader in readers:
            yield from reader.lines()
        if not going:
            return
        time.sleep(LOOK_S)


def _chosen(root: Path, name: str | None) -> tuple[Path, dict[str, Path]]:
    """The folder of a run, and the logs of it that are meant, by their titles."""
    for folder in run.folders(root):
        found = {path.name.removesuffix(".log"): path for path in sorted(folder.glob("*.log"))}
        if name is None or name == folder.name:
            return folder, found
        # files are called namespace.pod, and pods begin with their resource's name
        mine = {
            title: path
            for title, path in found.items()
            if title in {name, Path(background.LOG).stem if name == "up" else name}
            or title.partition(".")[2] == name
            or title.partition(".")[2].startswith(f"{name}-")
        }
        if mine:
            return folder, mine
    raise CommandError(f"no run here has logs of {name}" if name else NOTHING)


class _Reader:
    """What a log says from some line before its end on."""

    def __init__(self, path: Path, prefix: str, lines: int) -> None:
        self._path, self._prefix = path, prefix
        self._rest = b""
        with path.open("rb") as file:
            content = file.read()
        kept = content.splitlines(keepends=True)[-lines:] if lines else []
        self._at = len(content) - sum(map(len, kept))

    def lines(self) -> Iterator[str]:
        """Whole lines that came since the last call."""
        try:
            if self._path.stat().st_size < self._at:  # a long one has begun anew
                self._at, self._rest = 0, b""
            with self._path.open("rb") as file:
                file.seek(self._at)
                new = file.read()
        except OSError:
            return
        self._at += len(new)
        *whole, self._rest = (self._rest + new).split(b"\n")
        for line in whole:
            yield self._prefix + line.decode(errors="replace")
