"""Spans for an OpenTelemetry collector, over OTLP (gRPC). Off unless the standard variables name a collector.

The library is loaded only then: it is the extra `tracing`. Names are those of the GenAI conventions, which are in
motion: all that we use stand here.
"""

import asyncio
import logging
import os
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from argosy_api.errors import InvalidArgumentError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span

log = logging.getLogger(__name__)

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
CARRIED = ("traceparent", "tracestate")
"""Headers, or keys of a call's metadata, that join spans of several processes (W3C Trace Context)."""
PROVIDER = "argosy"
FLUSH_S = 2.0
"""For which the end of a process may wait for its last spans."""

OPERATION = "gen_ai.operation.name"
PROVIDER_NAME = "gen_ai.provider.name"
REQUEST_MODEL = "gen_ai.request.model"
RESPONSE_MODEL = "gen_ai.response.model"
MAX_TOKENS = "gen_ai.request.max_tokens"
TEMPERATURE = "gen_ai.request.temperature"
TOP_P = "gen_ai.request.top_p"
TOP_K = "gen_ai.request.top_k"
SEED = "gen_ai.request.seed"
CHOICES = "gen_ai.request.choice.count"
INPUT_TOKENS = "gen_ai.usage.input_tokens"
CACHED_TOKENS = "gen_ai.usage.cache_read.input_tokens"
OUTPUT_TOKENS = "gen_ai.usage.output_tokens"
FINISH_REASONS = "gen_ai.response.finish_reasons"
FIRST_CHUNK_S = "gen_ai.response.time_to_first_chunk"
ERROR_TYPE = "error.type"
GENERATE = {"rpc.system": "grpc", "rpc.service": "argosy.v1.Worker", "rpc.method": "Generate"}


def wanted(environment: Mapping[str, str]) -> bool:
    """Whether the variables name a collector, and do not say that there are to be no spans."""
    off = environment.get("OTEL_SDK_DISABLED", "").lower() == "true"
    exporters = environment.get("OTEL_TRACES_EXPORTER", "otlp")
    return not off and exporters == "otlp" and any(environment.get(name) for name in ENDPOINTS)


def tracing(service: str, environment: Mapping[str, str] = os.environ, **resource: str) -> "Tracing | None":
    """What makes spans of `service`, with the attributes `resource`; None where none are wanted.

    Raises:
        InvalidArgumentError: another protocol than gRPC is asked for, or the library is not installed.

    """
    if not wanted(environment):
        return None
    for name in PROTOCOLS:
        if environment.get(name, "grpc") != "grpc":
            raise InvalidArgumentError(name, f"is {environment[name]!r}; only grpc is supported")
    try:
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
    except ImportError as error:
        named = next(name for name in ENDPOINTS if environment.get(name))
        raise InvalidArgumentError(named, f"wants traces: install argosy[tracing] ({error})") from None
    own = {"service.name": environment.get("OTEL_SERVICE_NAME") or service, **resource}
    # an exit hook would have a process wait for a collector that is gone: `close` has a limit
    provider = TracerProvider(resource=Resource.create(own), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    log.info("spans go to %s", next(environment[name] for name in ENDPOINTS if environment.get(name)))
    return Tracing(provider)


class Tracing:
    """Begins spans. What is sent, and when, the library does in a thread of its own."""

    def __init__(self, provider: "TracerProvider") -> None:
        from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context  # noqa: PLC0415
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator  # noqa: PLC0415

        self._provider = provider
        self._tracer = provider.get_tracer("argosy")
        self._propagator = TraceContextTextMapPropagator()
        self._kinds = {"server": SpanKind.SERVER, "client": SpanKind.CLIENT}
        self._within = set_span_in_context
        self._error: Callable[[str], Status] = lambda why: Status(StatusCode.ERROR, why)

    def span(
        self,
        name: str,
        kind: str,
        attributes: Mapping[str, Any],
        *,
        carried: Mapping[str, str] | None = None,
        parent: "Span | None" = None,
        began_ns: int | None = None,
    ) -> "Span":
        """A span of kind `server` or `client`, that began now or at `began_ns` (Unix time). End it.

        Its parent is `parent`, or whoever sent `carried` (of CARRIED); without either it begins a trace.
        """
        context = self._within(parent) if parent is not None else self._propagator.extract(dict(carried or {}))
        return self._tracer.start_span(
            name, context, kind=self._kinds[kind], attributes=dict(attributes), start_time=began_ns
        )

    def carry(self, span: "Span") -> tuple[tuple[str, str], ...]:
        """Metadata by which what a span asks for becomes its child."""
        found: dict[str, str] = {}
        self._propagator.inject(found, self._within(span))
        return tuple(found.items())

    def end(self, span: "Span", attributes: Mapping[str, Any], *, error: str = "") -> None:
        """End it; `error`: how it failed, in a word."""
        span.set_attributes(dict(attributes))
        if error:
            span.set_attribute(ERROR_TYPE, error)
            span.set_status(self._error(error))
        span.end()

    async def close(self) -> None:
        """Sends what is left, for at most FLUSH_S."""
        try:
            async with asyncio.timeout(FLUSH_S):
                await asyncio.to_thread(self._provider.force_flush, int(1000 * FLUSH_S))
        except TimeoutError:
            log.warning("the last spans could not be sent within %g s", FLUSH_S)


def carried(pairs: Iterable[tuple[str, Any]] | None) -> dict[str, str]:
    """Those of CARRIED among headers or metadata, as they came."""
    return {key: value for key, value in pairs or () if key in CARRIED and isinstance(value, str)}
