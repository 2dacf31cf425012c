"""The router's Prometheus metrics: names from the contract, labels kept few (`model` is always a known served name)."""

from prometheus_client import CollectorRegistry, Gauge, disable_created_metrics
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from argosy_api import metric_names as names
from argosy_api.plain_metrics import Counter, Histogram
from argosy_api.plain_metrics import Gauge as PlainGauge
from argosy_router.tenants.shown import Shown

ADDED = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1)
BURSTS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1)
UNKNOWN_MODEL = "-"
"""Label of requests for models that do not exist: a client must not be able to make new time series."""


class Metrics:
    """All series of one router, in a registry of its own. The event loop alone writes them."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a third of the page, which nobody asks for
        self.registry = registry = CollectorRegistry()
        GCCollector(registry)
        PlatformCollector(registry)
        ProcessCollector(registry=registry)
        model = ["model"]
        self.requests = Counter(names.ROUTER_REQUESTS, "Requests ended", ["model", "api", "code"], registry=registry)
        http = ["method", "handler"]
        self.http = Counter(names.HTTP_REQUESTS, "HTTP requests, without probes", [*http, "status"], registry=registry)
        self.http_seconds = Histogram(
            names.HTTP_SECONDS, "HTTP requests to the end of their answers", http,
            registry=registry, buckets=names.SECONDS,
        )  # fmt: skip
        self.refused = Counter(
            names.ROUTER_UNAUTHENTICATED, "Calls without a credential that counts", ["api"], registry=registry
        )
        self.picks = Counter(names.ROUTER_PICKS, "Requests of gateways that asked", ["result"], registry=registry)
        self.tenants = Shown()
        self.tenant_tokens = Counter(
            names.ROUTER_TENANT_TOKENS, "Tokens of tenants' requests", ["tenant", "kind"], registry=registry
        )
        self.tenant_requests = Counter(
            names.ROUTER_TENANT_REQUESTS, "Tenants' requests ended", ["tenant", "code"], registry=registry
        )
        self.shed = Counter(
            names.ROUTER_SHED, "Requests refused before any work was done", ["model", "why"], registry=registry
        )
        self.line = Gauge(names.ROUTER_LINE, "Answers that wait for their turn", model, registry=registry)
        self.inflight = PlainGauge(names.ROUTER_INFLIGHT, "Requests in flight", model, registry=registry)
        self.ttft = Histogram(
            names.ROUTER_TTFT_SECONDS, "Until the first token", model, registry=registry, buckets=names.SECONDS
        )
        self.duration = Histogram(
            names.ROUTER_DURATION_SECONDS, "Whole requests", model, registry=registry, buckets=names.SECONDS
        )
        self.added = Histogram(
            names.ROUTER_ADDED_SECONDS, "In the router, before a worker is called", registry=registry, buckets=ADDED
        ).labels()
        self.retries = Counter(names.ROUTER_RETRIES, "Other workers tried", ["model", "why"], registry=registry)
        self.resumed = Counter(
            names.ROUTER_RESUMED, "Streams that went on at another worker", ["model", "why"], registry=registry
        )
        self.gap = Histogram(
            names.ROUTER_RESUME_GAP_SECONDS, "Between the last token of a lost worker and the next one", model,
            registry=registry, buckets=names.SECONDS,
        )  # fmt: skip
        self.hung = Counter(names.ROUTER_HUNG, "Attempts taken from workers that hang", model, registry=registry)
        self.quarantined = Counter(
            names.ROUTER_QUARANTINED, "Requests of which two workers died", model, registry=registry
        )
        self.prefills = Counter(
            names.ROUTER_PREFILLS, "Prompts computed by prefill workers", ["model", "result"], registry=registry
        )
        self.decisions = Counter(
            names.ROUTER_DECISIONS, "Routing decisions", ["model", "policy", "reason"], registry=registry
        )
        self.predicted = Counter(
            names.ROUTER_PREDICTED_CACHED_TOKENS, "Prompt tokens expected in the cache", model, registry=registry
        )
        self.cached = Counter(
            names.ROUTER_CACHED_TOKENS, "Prompt tokens that workers found cached", model, registry=registry
        )
        self.missed = Counter(
            names.ROUTER_MISSED_TOKENS, "Predicted in a cache, and not found there", model, registry=registry
        )
        self.unforeseen = Counter(
            names.ROUTER_UNFORESEEN_TOKENS, "Found in a cache, and not predicted", model, registry=registry
        )
        self.prompt = Counter(names.ROUTER_PROMPT_TOKENS, "Prompt tokens", model, registry=registry)
        self.generated = Counter(names.ROUTER_GENERATED_TOKENS, "Generated tokens", model, registry=registry)
        self.index_blocks = Gauge(names.ROUTER_INDEX_BLOCKS, "Blocks in the index", model, registry=registry)
        self.repairs = Counter(names.ROUTER_INDEX_REPAIRS, "Index repairs", ["model", "why"], registry=registry)
        self.redis_up = Gauge(names.ROUTER_REDIS_UP, "Whether Redis answers", registry=registry)
        self.membership_up = Gauge(
            names.ROUTER_MEMBERSHIP_UP, "Whether news of deployments and workers would come", registry=registry
        )
        self.burst = Histogram(
            names.ROUTER_LOOP_BURST, "Processor time until a waiting task got its turn", registry=registry,
            buckets=BURSTS,
        ).labels()  # fmt: skip
        self.tasks = Gauge(names.ROUTER_TASKS, "Tasks of the event loop", registry=registry)
        self.held = Gauge(names.ROUTER_HELD_BYTES, "Bytes that requests hold", registry=registry)
        self.workers = Gauge(names.ROUTER_WORKERS, "Workers by state", ["model", "state"], registry=registry)

    def forget(self, model: str) -> None:
        """A deployment is gone: its gauges must not stand still for ever."""
        self.inflight.forget(model)
        for gauge in (self.line, self.index_blocks, self.workers):
            gauge.remove_by_labels({"model": model})
