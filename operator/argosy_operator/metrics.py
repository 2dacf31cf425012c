"""Metrics, and whether the operator lives: what it tells over HTTP, also when its event loop hangs."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from argosy_api import metric_names
from argosy_api.net import Page
from argosy_operator.autoscaling.pilot import Course

log = logging.getLogger(__name__)

LOOP_STALE_S = 30.0
RESTARTS, RESTARTS_S = 8, 120.0
"""A task that has to be begun anew so often in so many seconds won't come to itself."""
WATCH_STALE_S = 75.0
"""More than the time for which a deletion keeps Kopf from hearing of that resource."""

PASS_STALE_S = 900.0
"""Longer than any pass takes: each of its calls ends after seconds, and after one without an answer the rest waits."""


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
            metric_names.OPERATOR_LAST_PASS_AGE,
            "Seconds since the last pass; 0 while there is no resource to pass over",
            registry=self.registry,
        )
        self.redis_users_up = Gauge(
            metric_names.OPERATOR_REDIS_USERS_UP,
            "1 while the users of workers and routers in Redis are as they should be",
            registry=self.registry,
        )
        self.leader = Gauge(
            metric_names.OPERATOR_LEADER, "1 while this process is the one that operates", registry=self.registry
        )
        self.leader_terms = Counter(
            metric_names.OPERATOR_LEADER_TERMS, "How often it became that", registry=self.registry
        )
        resource = ["namespace", "name"]
        self.wanted_replicas = Gauge(
            metric_names.OPERATOR_WANTED_REPLICAS, "Workers that autoscaling wants", resource, registry=self.registry
        )
        self.scaling_signals = Gauge(
            metric_names.OPERATOR_SCALING_SIGNALS,
            "What autoscaling goes by: complete, sources, requests, held, queue_seconds, arriving, kv_used",
            [*resource, "signal"],
            registry=self.registry,
        )
        self.scaling_decisions = Counter(
            metric_names.OPERATOR_SCALING_DECISIONS, "Decisions of autoscaling", ["reason"], registry=self.registry
        )
        self._ready: dict[tuple[str, str], bool] = {}
        self._scaled: set[tuple[str, str]] = set()
        self._last_pass = time.monotonic()
        self.last_pass_age.set_function(lambda: time.monotonic() - self._last_pass if self._ready else 0.0)

    def leads(self, *, leads: bool) -> None:
        """Take note that this process begins, or ends, to be the one that operates."""
        self.leader.set(leads)
        if leads:
            self.leader_terms.inc()

    def passed(self, result: str, seconds: float) -> None:
        """A pass has ended: result is ok, retry or failed."""
        self._last_pass = time.monotonic()
        self.passes.labels(result).inc()
        self.pass_seconds.observe(seconds)

    def scaled(self, namespace: str, name: str, course: Course | None) -> None:
        """Where autoscaling of a resource goes; None: nowhere (any more)."""
        if course is None:
            if (namespace, name) not in self._scaled:
                return
            self._scaled.discard((namespace, name))
            for gauge in (self.wanted_replicas, self.scaling_signals):
                gauge.remove_by_labels({"namespace": namespace, "name": name})
            return
        self._scaled.add((namespace, name))
        self.wanted_replicas.labels(namespace, name).set(course.replicas)
        self.scaling_decisions.labels(course.decision.why).inc()
        told = course.signals
        values = {
            "complete": told.complete,
            "sources": told.sources,
            "requests": told.requests,
            "held": told.held,
            "queue_seconds": told.queue_s,
            "arriving": told.arriving,
            "kv_used": told.kv_used,
        }
        for signal, value in values.items():
            self.scaling_signals.labels(namespace, name, signal).set(value)

    def set_ready(self, namespace: str, name: str, ready: bool | None) -> None:
        """Count a resource as ready or not; None: it is gone."""
        if ready is None:
            self._ready.pop((namespace, name), None)
            self.scaled(namespace, name, None)
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
        self._restarts: dict[str, deque[float]] = {}
        self._owed: dict[tuple[str, str], float] = {}
        self._lock = threading.Lock()
        self.ready = False

    def ended(self) -> None:
        """Operating has ended: nothing is expected of it any more."""
        self.ready = False
        with self._lock:
            self._expected.clear()
            self._owed.clear()

    def beat(self) -> None:
        """The loop turns."""
        self._beat_at = self._clock()

    def restarted(self, task: str) -> None:
        """Something that should never end had to be begun anew."""
        with self._lock:
            self._restarts.setdefault(task, deque(maxlen=RESTARTS)).append(self._clock())

    def expect(self, key: tuple[str, str], version: str | None) -> None:
        """Our own watch saw this version of a resource (None: it is gone), so Kopf must come to see it as well."""
        with self._lock:
            if version is None:
                self._expected.pop(key, None)
            else:
                self._expected[key] = (version, self._clock())

    def owe_pass(self, key: tuple[str, str], due_s: float | None) -> None:
        """A pass over a resource is due in so many seconds at the latest; None: no more."""
        with self._lock:
            if due_s is None:
                self._owed.pop(key, None)
            else:
                self._owed[key] = self._clock() + due_s

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
            key, owed = min(self._owed.items(), key=lambda item: item[1], default=(("", ""), now))
            failing = [t for t, at in self._restarts.items() if len(at) == RESTARTS and now - at[0] < RESTARTS_S]
        if now - oldest > WATCH_STALE_S:
            return f"the watch of resources has missed a change for {now - oldest:.0f} s"
        if now - owed > PASS_STALE_S:
            return f"a pass over {'/'.join(key)} has been due for {now - owed:.0f} s"
        if failing:
            return f"{failing[0]} has failed {RESTARTS} times in {RESTARTS_S:.0f} s"
        return ""


def page(metrics: Metrics, health: Health, path: str) -> Page:
    """/metrics, /healthz and /readyz."""
    match path:
        case "/metrics":
            return 200, CONTENT_TYPE_LATEST, generate_latest(metrics.registry)
        case "/healthz":
            problem = health.problem()
            return 503 if problem else 200, "text/plain", (problem or "ok").encode()
        case "/readyz":
            return (200, "text/plain", b"ok") if health.ready else (503, "text/plain", b"starting")
        case _:
            return 404, "text/plain", b"here are /metrics, /healthz and /readyz"
