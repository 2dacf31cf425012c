"""The small HTTP server of a worker: `/metrics`, `/healthz`, `/state`, `/trace`.

It answers while the model loads and even when the event loop or the engine is stuck; that is what a liveness probe is
for.
"""

from typing import Protocol

from prometheus_client.exposition import CONTENT_TYPE_LATEST

from argosy_api import step_trace
from argosy_api.net import Page, PageServer
from argosy_worker.engine.metrics import Pulse, WorkerMetrics
from argosy_worker.engine.trace import StepTrace
from argosy_worker.serve import vllm_names
from argosy_worker.serve.lifecycle import Lifecycle

STUCK_AFTER_S = 60.0
"""A step that takes longer than this while requests wait means that the engine hangs."""


class Watched(Pulse, Protocol):
    """The engine, as far as this page looks at it."""

    @property
    def trace(self) -> StepTrace | None:
        """What its latest steps computed."""
        ...


class MetricsServer:
    """The HTTP server. Made before anything else, so that `/state` tells the whole story of a start."""

    def __init__(self, host: str, port: int, *, metrics: WorkerMetrics, state: Lifecycle) -> None:
        """Bind.

        Raises:
            OSError: the port is taken, or the address is not one of this machine.

        """
        self._metrics = metrics
        self._state = state
        self._engine: Watched | None = None
        self._server = PageServer(host, port, self._page)
        self.port = self._server.port

    def attach(self, engine: Watched, *, block_size: int) -> None:
        """From now on health is the engine's, whose KV blocks have so many tokens."""
        self._engine = engine
        self._metrics.watch(engine, block_size=block_size)

    def close(self) -> None:
        """End the server."""
        self._server.close()

    def _page(self, path: str) -> Page:
        if path == "/metrics":
            return 200, CONTENT_TYPE_LATEST, vllm_names.exposition(self._metrics.registry)
        if path == "/state":
            return 200, "application/json", self._state.now.to_json().encode()
        if path == "/healthz":
            problem = unhealthy(self._engine)
            return (503, "text/plain", problem.encode()) if problem else (200, "text/plain", b"ok\n")
        if path == "/trace":
            return self._trace()
        return 404, "text/plain", b"here are /metrics, /healthz, /state and /trace\n"

    def _trace(self) -> Page:
        trace = self._engine.trace if self._engine is not None else None
        if trace is None:
            return 404, "text/plain", b"this worker traces no steps: engine.stepTrace is off, or it still loads\n"
        return 200, step_trace.CONTENT_TYPE, trace.lines()


def unhealthy(engine: Pulse | None) -> str:
    """Why the process should be restarted; empty when it should not. A process that still loads is healthy."""
    if engine is None:
        return ""
    if not engine.alive:
        return "the engine thread is dead\n"
    if engine.busy and engine.last_step_age > STUCK_AFTER_S:
        return f"the engine hangs: its last step began {engine.last_step_age:.0f} s ago\n"
    return ""
