"""The state folder: one folder for each run, with its logs, its state and a lock that lives as long as the run."""

import fcntl
import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from argosy_api.orders import FOLDER
from argosy_api.process import MODEL_CACHE
from argosy_cli.embedded.states import RunState
from argosy_cli.errors import StartError

HOME_VARIABLE = "ARGOSY_HOME"
KEPT_RUNS = 5
"""Folders of ended runs that are kept, for their logs."""


@dataclass(frozen=True, slots=True)
class RunFolder:
    """The folder of a run that we own."""

    path: Path
    lock: IO[bytes]

    @property
    def membership(self) -> Path:
        """What the router watches."""
        return self.path / "membership.json"

    @property
    def orders(self) -> Path:
        """Where orders for it are left."""
        return self.path / FOLDER

    @property
    def state(self) -> Path:
        """What `argosy status` reads."""
        return self.path / "state.json"


def home(environment: Mapping[str, str]) -> Path:
    """Where a user's runs are kept, whatever folder he is in: $ARGOSY_HOME, or `argosy` in the XDG state folder."""
    if chosen := environment.get(HOME_VARIABLE):
        return Path(chosen).resolve()
    states = environment.get("XDG_STATE_HOME", "")
    # the standard: a relative path is no setting
    return (Path(states) if Path(states).is_absolute() else Path.home() / ".local" / "state") / "argosy"


def cache(environment: Mapping[str, str]) -> Path:
    """Where downloaded models are kept: $ARGOSY_MODEL_CACHE, or `argosy` in the XDG cache folder."""
    if chosen := environment.get(MODEL_CACHE):
        return Path(chosen).resolve()
    caches = environment.get("XDG_CACHE_HOME", "")
    return (Path(caches) if Path(caches).is_absolute() else Path.home() / ".cache") / "argosy"


def create(root: Path) -> RunFolder:
    """A new folder, locked until this process ends, however it ends."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        _prune(root)
        path = root / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
        path.mkdir(mode=0o700)
        lock = (path / "lock").open("wb")
    except OSError as error:
        raise StartError(f"{root}: cannot keep state there: {error.strerror}; set {HOME_VARIABLE}") from None
    fcntl.flock(lock, fcntl.LOCK_EX)  # waits for no longer than somebody looks whether it is locked
    return RunFolder(path, lock)


def write(path: Path, text: str) -> None:
    """Replace a file as a whole: a reader sees the old or the new text, never a part."""
    fresh = path.with_suffix(".new")
    fresh.write_text(text)
    fresh.replace(path)


def live(root: Path) -> list[RunState]:
    """The states of all runs that go on, newest first. A process id may be reused, a lock cannot."""
    states = []
    for path in folders(root):
        if not _locked(path):
            continue
        try:
            states.append(RunState.from_json((path / "state.json").read_text()))
        except (OSError, ValueError):  # it has only just begun
            continue
    return states


def folders(root: Path) -> list[Path]:
    """Of all runs that there are traces of, newest first."""
    return sorted((p.parent for p in root.glob("*/lock")), key=lambda p: p.name, reverse=True)


def _locked(path: Path) -> bool:
    try:
        with (path / "lock").open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _prune(root: Path) -> None:
    ended = [path for path in folders(root) if not _locked(path)]
    for path in ended[KEPT_RUNS:]:
        shutil.rmtree(path, ignore_errors=True)
