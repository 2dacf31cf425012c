"""The small HTTP server of a worker: `/metrics`, `/healthz`, `/state`.

It has its own threads, so it answers while the model loads and even when the event loop or the engine is stuck; that is
what a liveness probe is for.
"""

import socket
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from argosy_worker.engine.metrics import Pulse, WorkerMetrics
from argosy_worker.serve.lifecycle import Lifecycle

STUCK_AFTER_S = 60.0
"""A step that takes longer than this while requests wait means that the engine hangs."""


class MetricsServer:
    """The HTTP server. Made before anything else, so that `/state` tells the whole story of a start."""

    def __init__(self, host: str, port: int, *, metrics: WorkerMetrics, state: Lifecycle) -> None:
        """Bind.

        Raises:
            OSError: the port is taken.

        """
        self._metrics = metrics
        self._state = state
        self._engine: Pulse | None = None
        page = self._page

        class Handler(BaseHTTPRequestHandler):
            timeout = 10  # of an idle or slow connection, in seconds

            def do_GET(self) -> None:
                status, kind, body = page(self.path.partition("?")[0])
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
                """Probes come every few seconds; nobody wants to read about them."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            allow_reuse_address = True
            request_queue_size = 64
            address_family = socket.AF_INET6 if ":" in host else socket.AF_INET

        self._server = Server((host, port), Handler)
        self.port: int = self._server.server_address[1]
        self._thread = Thread(target=self._server.serve_forever, name="metrics", daemon=True)
        self._thread.start()

    def attach(self, engine: Pulse) -> None:
        """From now on health is the engine's."""
        self._engine = engine
        self._metrics.watch(engine)

    def close(self) -> None:
        """End the server."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _page(self, path: str) -> tuple[int, str, bytes]:
        if path == "/metrics":
            return 200, CONTENT_TYPE_LATEST, generate_latest(self._metrics.registry)
        if path == "/state":
            return 200, "application/json", self._state.now.to_json().encode()
        if path == "/healthz":
            problem = unhealthy(self._engine)
            return (503, "text/plain", problem.encode()) if problem else (200, "text/plain", b"ok\n")
        return 404, "text/plain", b"here are /metrics, /healthz and /state\n"


def unhealthy(engine: Pulse | None) -> str:
    """Why the process should be restarted; empty when it should not. A process that still loads is healthy."""
    if engine is None:
        return ""
    if not engine.alive:
        return "the engine thread is dead\n"
    if engine.busy and engine.last_step_age > STUCK_AFTER_S:
        return f"the engine hangs: its last step began {engine.last_step_age:.0f} s ago\n"
    return ""
