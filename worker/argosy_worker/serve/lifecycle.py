"""What phase the process is in: for `/state`, the health service and error messages. Written by any thread."""

import json
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from enum import StrEnum


class Phase(StrEnum):
    """Life of a worker, in this order (but for FAILED, which ends it anywhere)."""

    STARTING = "Starting"
    DOWNLOADING = "Downloading"
    LOADING = "Loading"
    READY = "Ready"
    DRAINING = "Draining"
    FAILED = "Failed"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state at one moment."""

    phase: Phase = Phase.STARTING
    reason: str = ""
    """CamelCase, when the phase needs one: "ModelInvalid"."""
    message: str = ""
    progress: float = 0.0
    """0 to 1 within the phase."""
    model: Mapping[str, str | int] | None = None
    """What is served, once it is: fields of the resource's `status.model`."""

    def to_json(self) -> str:
        """The body of `/state`."""
        return json.dumps({name: value for name, value in asdict(self).items() if value is not None})


class Lifecycle:
    """The current snapshot."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._now = Snapshot()

    @property
    def now(self) -> Snapshot:
        """The current snapshot."""
        return self._now

    def enter(self, phase: Phase, message: str = "", *, reason: str = "") -> None:
        """Begin a phase."""
        with self._lock:
            self._now = Snapshot(phase, reason, message)

    def ready(self, model: Mapping[str, str | int]) -> None:
        """The model is served."""
        with self._lock:
            self._now = Snapshot(Phase.READY, progress=1.0, model=model)

    def progress(self, message: str, fraction: float) -> None:
        """Say how far the phase is."""
        with self._lock:
            self._now = replace(self._now, message=message, progress=min(1.0, max(0.0, fraction)))
