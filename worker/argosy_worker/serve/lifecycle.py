"""What phase the process is in: for `/state`, the health service and error messages. Written by any thread."""

import threading
from dataclasses import replace

from argosy_api.worker_status import Phase, ServedModel, WorkerStatus


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
            self._now = WorkerStatus(phase=phase, reason=reason, message=message)

    def ready(self, model: ServedModel) -> None:
        """The model is served."""
        with self._lock:
            self._now = WorkerStatus(phase=Phase.READY, progress=1.0, model=model)

    def progress(self, message: str, fraction: float) -> None:
        """Say how far the phase is."""
        with self._lock:
            self._now = replace(self._now, message=message, progress=min(1.0, max(0.0, fraction)))
