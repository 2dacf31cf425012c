"""What phase the process is in: for `/state`, the health service and error messages. Written by any thread."""

import threading
from collections.abc import Sequence
from dataclasses import replace

from argosy_api.worker_status import AdapterState, Phase, ServedModel, WorkerStatus


class Lifecycle:
    """The current status."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._now = WorkerStatus()

    @property
    def now(self) -> WorkerStatus:
        """The current status."""
        return self._now

    def enter(self, phase: Phase, message: str = "", *, reason: str = "") -> None:
        """Begin a phase."""
        with self._lock:
            self._now = WorkerStatus(phase=phase, reason=reason, message=message, adapters=self._now.adapters)

    def ready(self, model: ServedModel) -> None:
        """The model is served."""
        with self._lock:
            self._now = WorkerStatus(phase=Phase.READY, progress=1.0, model=model, adapters=self._now.adapters)

    def adapters(self, states: Sequence[AdapterState]) -> None:
        """What became of the adapters that are listed."""
        with self._lock:
            self._now = replace(self._now, adapters=tuple(states))

    def progress(self, message: str, fraction: float) -> None:
        """Say how far the phase is."""
        with self._lock:
            self._now = replace(self._now, message=message, progress=min(1.0, max(0.0, fraction)))
