"""Spans of `argosy up`, as a collector gets them: one request's are joined over both processes, and hold no text."""

import json
import urllib.request
from concurrent import futures

import grpc
import pytest
from embedded_kit import Up
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from waiting import until

from argosy_api import tracing
from argosy_api.errors import InvalidArgumentError

RESOURCE = """\
apiVersion: serving.argosy.dev/v1alpha1
kind: InferenceDeployment
metadata: {name: m}
spec:
  replicas: 1
  model: {uri: "sim://m?decode_ms=0&prefill_tps=0", servedName: m}
"""
TRACE, CLIENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SECRET, STOP = "abracadabra", "simsalabim"


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Keeps what it gets: pairs of the resource's attributes and a span."""

    def __init__(self):
        self.spans = []
        self.server = grpc.server(futures.ThreadPoolExecutor(1))
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(self, self.server)
        self.port = self.server.add_insecure_port("127.0.0.1:0")
        self.server.start()

    def Export(self, request, context):
        for of in request.resource_spans:
            self.spans += [(of.resource.attributes, span) for scope in of.scope_spans for span in scope.spans]
        return trace_service_pb2.ExportTraceServiceResponse()


def told(attributes):
    """As a dict of plain values."""

    def plain(value):
        kind = value.WhichOneof("value")
        return [plain(v) for v in value.array_value.values] if kind == "array_value" else getattr(value, kind)

    return {entry.key: plain(entry.value) for entry in attributes}


def test_the_spans_of_a_request_are_joined_and_hold_no_text(tmp_path):
    collector = Collector()
    (tmp_path / "m.yaml").write_text(RESOURCE)
    endpoint = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector.port}", "OTEL_BSP_SCHEDULE_DELAY": "100"}
    up = Up(tmp_path, [tmp_path / "m.yaml"], env=endpoint).start()
    try:
        up.until_ready()
        body = {
            "model": "m", "messages": [{"role": "user", "content": SECRET}], "max_tokens": 5, "temperature": 0,
            "stop": [STOP], "ignore_eos": True,
        }  # fmt: skip
        asked = urllib.request.Request(
            f"http://127.0.0.1:{up.http_port}/v1/chat/completions",
            data=json.dumps(body).encode(),
            headers={"content-type": "application/json", "traceparent": f"00-{TRACE}-{CLIENT}-01"},
        )
        with urllib.request.urlopen(asked) as answer:
            said = json.load(answer)
            request_id, worker = answer.headers["x-request-id"], answer.headers["x-argosy-worker"]
        until(lambda: len(collector.spans) >= 3, "three spans")
        assert up.end() == 0, up.output
    finally:
        up.clean_up()
        collector.server.stop(0)
    assert len(collector.spans) == 3
    by_parent = {span.parent_span_id.hex(): (told(resource), span) for resource, span in collector.spans}
    of_router, request = by_parent[CLIENT]
    _, attempt = by_parent[request.span_id.hex()]
    of_worker, generate = by_parent[attempt.span_id.hex()]
    assert {span.trace_id.hex() for _, span in collector.spans} == {TRACE}
    assert (of_router["service.name"], of_worker["service.name"]) == ("argosy-router", "argosy-worker")
    assert of_worker["service.instance.id"] == worker
    assert (request.name, request.kind, attempt.kind, generate.kind) == (
        "chat m", request.SPAN_KIND_SERVER, request.SPAN_KIND_CLIENT, request.SPAN_KIND_SERVER,
    )  # fmt: skip
    assert request.start_time_unix_nano <= attempt.start_time_unix_nano <= generate.start_time_unix_nano
    assert attempt.end_time_unix_nano <= request.end_time_unix_nano
    usage = {
        tracing.INPUT_TOKENS: said["usage"]["prompt_tokens"],
        tracing.OUTPUT_TOKENS: 5,
        tracing.CACHED_TOKENS: 0,
        tracing.FINISH_REASONS: ["length"],
    }
    facts = told(request.attributes)
    assert facts | usage == facts
    assert facts[tracing.OPERATION] == "chat"
    assert (facts[tracing.REQUEST_MODEL], facts[tracing.MAX_TOKENS]) == ("m", 5)
    assert facts["argosy.request_id"] == request_id
    assert facts[tracing.FIRST_CHUNK_S] > 0
    assert told(attempt.attributes)["argosy.worker"] == worker
    assert told(attempt.attributes)["argosy.routing.candidates"] == 1
    of_generate = told(generate.attributes)
    assert of_generate | usage == of_generate
    for _, span in collector.spans:
        assert span.status.code == span.status.STATUS_CODE_UNSET
        raw = span.SerializeToString()
        for text in (SECRET, STOP, said["choices"][0]["message"]["content"]):
            assert text.encode() not in raw


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://a:4317"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://a:4317"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://a:4317", "OTEL_SDK_DISABLED": "true"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://a:4317", "OTEL_TRACES_EXPORTER": "none"}, False),
    ],
)
def test_it_is_off_unless_a_collector_is_named(environment, expected):
    assert tracing.wanted(environment) == expected
    assert expected or tracing.tracing("x", environment) is None


def test_another_protocol_is_refused_by_name():
    environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://a:4318", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}
    with pytest.raises(InvalidArgumentError, match="OTEL_EXPORTER_OTLP_PROTOCOL"):
        tracing.tracing("x", environment)
