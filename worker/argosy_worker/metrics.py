"""Prometheus metrics and the small HTTP server that shows them: `/metrics`, `/healthz`, `/state`.

The server has its own threads, so it answers while the model loads and even when the event loop or the engine is stuck;
that is what a liveness probe is for.
"""

import socket
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Protocol, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from argosy_api import metric_names as names
from argosy_worker.core.request import Finish
from argosy_worker.load import LoadView
from argosy_worker.state import WorkerState

STUCK_AFTER_S = 60.0
"""A step that takes longer than this while requests wait means that the engine hangs."""
_LATENCY = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100)
_GAPS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)

_M = TypeVar("_M", Counter, Gauge)


class Pulse(Protocol):
    """The engine, as far as health and gauges look at it."""

    view: LoadView

    @property
    def alive(self) -> bool:
        """Whether its thread can still make steps."""
        ...

    @property
    def busy(self) -> bool:
        """Whether there is a request."""
        ...

    @property
    def last_step_age(self) -> float:
        """Seconds since its loop came around."""
        ...


class WorkerMetrics:
    """All metrics of one worker, in a registry of their own."""

    def __init__(self, *, model: str, worker: str) -> None:
        self.registry = CollectorRegistry()
        GCCollector(self.registry)
        PlatformCollector(self.registry)
        ProcessCollector(registry=self.registry)
        self._labels = {"model": model, "worker": worker}
        self._requests = self._make(Counter, names.WORKER_REQUESTS, "Requests that ended", ("reason",))
        self._prompt_tokens = self._counter(names.WORKER_PROMPT_TOKENS, "Prompt tokens of requests that got a token")
        self._cached_tokens = self._counter(names.WORKER_CACHED_TOKENS, "Of these, found in the prefix cache")
        self._generated = self._counter(names.WORKER_GENERATED_TOKENS, "Generated tokens")
        self._preemptions = self._counter(
            names.WORKER_PREEMPTIONS, "Requests that lost their blocks and are recomputed"
        )
        self._step_seconds = self._histogram(names.WORKER_STEP_SECONDS, "Time of a step", _GAPS)
        self._step_tokens = self._histogram(names.WORKER_STEP_TOKENS, "Tokens of a step", _SIZES)
        self._ttft = self._histogram(names.WORKER_TTFT_SECONDS, "From arrival to the first token", _LATENCY)
        self._itl = self._histogram(names.WORKER_ITL_SECONDS, "Between two tokens of a request", _GAPS)
        self._queue = self._histogram(names.WORKER_QUEUE_SECONDS, "From arrival to admission", _LATENCY)
        self.events_dropped = self._counter(names.WORKER_EVENTS_DROPPED, "KV event batches that Redis never got")
        self.redis_up = self._gauge(names.WORKER_REDIS_UP, "1 while Redis takes our events")

    def step(self, seconds: float, tokens: int, preempted: int) -> None:
        """A step was computed."""
        self._step_seconds.observe(seconds)
        self._step_tokens.observe(tokens)
        if preempted:
            self._preemptions.inc(preempted)

    def first_token(self, *, queued_s: float, ttft_s: float, prompt_tokens: int, cached_tokens: int) -> None:
        """A request got its first token."""
        self._queue.observe(queued_s)
        self._ttft.observe(ttft_s)
        self._prompt_tokens.inc(prompt_tokens)
        self._cached_tokens.inc(cached_tokens)
        self._generated.inc()

    def next_token(self, gap_s: float) -> None:
        """A request got another token."""
        self._itl.observe(gap_s)
        self._generated.inc()

    def finished(self, reason: Finish) -> None:
        """A request ended."""
        self._requests.labels(**self._labels, reason=reason.value).inc()

    def watch(self, engine: Pulse) -> None:
        """Gauges that look at the engine when they are scraped."""
        reads: list[tuple[str, str, Callable[[], float]]] = [
            (names.WORKER_REQUESTS_RUNNING, "Requests that hold blocks", lambda: engine.view.running),
            (names.WORKER_REQUESTS_WAITING, "Requests that wait for admission", lambda: engine.view.waiting),
            (names.WORKER_PREFILL_RATE, "Measured speed of prompts", lambda: engine.view.prefill_rate),
            (names.WORKER_LAST_STEP_AGE, "Heartbeat of the engine's loop", lambda: engine.last_step_age),
        ]
        for name, text, read in reads:
            self._gauge(name, text).set_function(read)
        blocks = self._make(Gauge, names.WORKER_BLOCKS, "KV cache blocks by state", ("state",))
        states: dict[str, Callable[[], float]] = {
            "free": lambda: engine.view.free_blocks,
            "cached": lambda: engine.view.cached_blocks,
            "used": lambda: engine.view.used_blocks,
        }
        for state, read in states.items():
            blocks.labels(**self._labels, state=state).set_function(read)

    def _make(self, kind: type[_M], name: str, text: str, more: tuple[str, ...] = ()) -> _M:
        return kind(name, text, (*self._labels, *more), registry=self.registry)

    def _counter(self, name: str, text: str) -> Counter:
        return self._make(Counter, name, text).labels(**self._labels)

    def _gauge(self, name: str, text: str) -> Gauge:
        return self._make(Gauge, name, text).labels(**self._labels)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(name, text, tuple(self._labels), registry=self.registry, buckets=buckets).labels(
            **self._labels
        )


class MetricsServer:
    """The HTTP server. Made before anything else, so that `/state` tells the whole story of a start."""

    def __init__(self, host: str, port: int, *, metrics: WorkerMetrics, state: WorkerState) -> None:
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
