"""Metrics, and whether the operator lives, over HTTP in a thread of its own: it must answer when the loop hangs."""

import logging
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from argosy_api import metric_names

log = logging.getLogger(__name__)

LOOP_STALE_S = 30.0
WATCH_STALE_S = 75.0
"""More than the time for which a deletion keeps Kopf from hearing of that resource."""


class Metrics:
    """The operator's metrics."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.passes = Counter(
            metric_names.OPERATOR_PASSES, "Passes over a resource", ["result"], registry=self.registry
        )
        self.pass_seconds = Histogram(
            metric_names.OPERATOR_PASS_SECONDS,
            "Time of a pass",
            registry=self.registry,
            buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
        )
        self.resources = Gauge(
            metric_names.OPERATOR_RESOURCES, "Resources by readiness", ["ready"], registry=self.registry
        )
        self.last_pass_age = Gauge(
            metric_names.OPERATOR_LAST_PASS_AGE, "Seconds since the last pass", registry=self.registry
        )
        self.redis_users_up = Gauge(
            metric_names.OPERATOR_REDIS_USERS_UP,
            "1 while the users of workers and routers in Redis are as they should be",
            registry=self.registry,
        )
        self._ready: dict[tuple[str, str], bool] = {}
        self._last_pass = time.monotonic()
        self.last_pass_age.set_function(lambda: time.monotonic() - self._last_pass)

    def passed(self, result: str, seconds: float) -> None:
        """A pass has ended: result is ok, retry or failed."""
        self._last_pass = time.monotonic()
        self.passes.labels(result).inc()
        self.pass_seconds.observe(seconds)

    def set_ready(self, namespace: str, name: str, ready: bool | None) -> None:
        """Count a resource as ready or not; None: it is gone."""
        if ready is None:
            self._ready.pop((namespace, name), None)
        else:
            self._ready[namespace, name] = ready
        good = sum(self._ready.values())
        self.resources.labels("true").set(good)
        self.resources.labels("false").set(len(self._ready) - good)


class Health:
    """Whether the loop turns, and whether Kopf still hears of the resources that the API server has."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._beat_at = clock()
        self._expected: dict[tuple[str, str], tuple[str, float]] = {}
        self._lock = threading.Lock()
        self.ready = False

    def beat(self) -> None:
        """The loop turns."""
        self._beat_at = self._clock()

    def expect(self, key: tuple[str, str], version: str | None) -> None:
        """Our own watch saw this version of a resource (None: it is gone), so Kopf must come to see it as well."""
        with self._lock:
            if version is None:
                self._expected.pop(key, None)
            else:
                self._expected[key] = (version, self._clock())

    def seen(self, key: tuple[str, str], version: str) -> None:
        """Kopf was told of this version."""
        with self._lock:
            if self._expected.get(key, ("",))[0] == version:
                del self._expected[key]

    def problem(self) -> str:
        """Why the process should be restarted; empty when it should not."""
        now = self._clock()
        if now - self._beat_at > LOOP_STALE_S:
            return f"the event loop has been stuck for {now - self._beat_at:.0f} s"
        with self._lock:
            oldest = min((since for _, since in self._expected.values()), default=now)
        if now - oldest > WATCH_STALE_S:
            return f"the watch of resources has missed a change for {now - oldest:.0f} s"
        return ""


class StatusServer:
    """/metrics, /healthz and /readyz."""

    def __init__(self, host: str, port: int, metrics: Metrics, health: Health) -> None:
        """Listens at once.

        Raises:
            OSError: the port is taken.

        """
        handler = type("Handler", (_Handler,), {"metrics": metrics, "health": health})
        self._server = ThreadingHTTPServer((host, port), handler)
        self._server.daemon_threads = True
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, name="status", daemon=True)

    def start(self) -> None:
        """Answer requests from now on."""
        self._thread.start()

    def stop(self) -> None:
        """Close the port."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    metrics: Metrics
    health: Health
    timeout = 10

    def do_GET(self) -> None:
        if self.path == "/metrics":
            self._answer(200, generate_latest(self.metrics.registry), "text/plain; version=0.0.4; charset=utf-8")
        elif self.path == "/healthz":
            problem = self.health.problem()
            self._answer(503 if problem else 200, (problem or "ok").encode())
        elif self.path == "/readyz":
            self._answer(200 if self.health.ready else 503, b"ok" if self.health.ready else b"starting")
        else:
            self._answer(404, b"not found")

    def _answer(self, status: int, body: bytes, content_type: str = "text/plain") -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Probes each second are no news."""
