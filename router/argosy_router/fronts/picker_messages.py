"""What an endpoint picker says to a gateway, and what it reads from it: Envoy's external processing, no I/O.

The rules are those of the Gateway API Inference Extension's protocol for endpoint pickers, version 1.0.
"""

from collections.abc import Container, Iterator, Mapping, Sequence

import orjson
from google.protobuf.struct_pb2 import Struct

from argosy_api.errors import ArgosyError, OverloadedError, UnauthenticatedError
from argosy_api.extproc import extproc_pb2 as pb
from argosy_router.fronts import dialects

METHOD = "/envoy.service.ext_proc.v3.ExternalProcessor/Process"
SERVICE = "envoy.service.ext_proc.v3.ExternalProcessor"
DESTINATION = "x-gateway-destination-endpoint"
NAMESPACE = "envoy.lb"
SUBSET_NAMESPACE, SUBSET = "envoy.lb.subset_hint", "x-gateway-destination-endpoint-subset"
PART_BYTES = 62_000
"""Of a body in one message: gateways do not take more than 64 KiB."""


def headers_of(message: pb.HttpHeaders) -> dict[str, list[str]]:
    """Names (small letters) and values."""
    found: dict[str, list[str]] = {}
    for header in message.headers.headers:
        value = header.raw_value.decode("latin-1") if header.raw_value else header.value
        found.setdefault(header.key.lower(), []).append(value)
    return found


def subset_of(request: pb.ProcessingRequest) -> list[str] | None:
    """Endpoints that the gateway lets the picker choose from; None: from all."""
    fields = request.metadata_context.filter_metadata[SUBSET_NAMESPACE].fields
    if SUBSET not in fields:
        return None
    value = fields[SUBSET]
    if value.HasField("string_value"):
        return [part.strip() for part in value.string_value.split(",") if part.strip()]
    return [item.string_value for item in value.list_value.values]


def destination(endpoints: str, extra: Mapping[str, str], removed: Sequence[str]) -> tuple[pb.HeaderMutation, Struct]:
    """The headers and the metadata that say where a request is to go: both, with the same value."""
    option = pb.HeaderValueOption
    mutation = pb.HeaderMutation(
        set_headers=[
            option(
                header=pb.HeaderValue(key=key, raw_value=value.encode()),
                append_action=option.OVERWRITE_IF_EXISTS_OR_ADD,
            )
            for key, value in {DESTINATION: endpoints, **extra}.items()
        ],
        remove_headers=removed,
    )
    metadata = Struct()
    metadata.update({NAMESPACE: {DESTINATION: endpoints}})
    return mutation, metadata


def parts(kind: str, body: bytes, *, end: bool) -> Iterator[pb.ProcessingResponse]:
    """A body handed back piece by piece. `kind`: `request_body` or `response_body`; `end`: nothing follows."""
    for at in range(0, max(1, len(body)), PART_BYTES):
        piece = body[at : at + PART_BYTES]
        streamed = pb.StreamedBodyResponse(body=piece, end_of_stream=end and at + PART_BYTES >= len(body))
        common = pb.CommonResponse(body_mutation=pb.BodyMutation(streamed_response=streamed))
        yield pb.ProcessingResponse(**{kind: pb.BodyResponse(response=common)})  # type: ignore[arg-type]


def refusal(
    error: ArgosyError, request_id: str, *, path: str = "", headers: Container[str] = ()
) -> pb.ProcessingResponse:
    """An answer in the router's words, without a router. `path`, `headers`: of the request; they tell the protocol."""
    told = {"content-type": "application/json; charset=utf-8", "x-request-id": request_id}
    if isinstance(error, OverloadedError):
        told["retry-after"] = str(max(1, round(error.retry_after_s)))
    if isinstance(error, UnauthenticatedError):
        told["www-authenticate"] = "Bearer"
    option = pb.HeaderValueOption
    mutation = pb.HeaderMutation(
        set_headers=[
            option(
                header=pb.HeaderValue(key=key, raw_value=value.encode()),
                append_action=option.OVERWRITE_IF_EXISTS_OR_ADD,
            )
            for key, value in told.items()
        ]
    )
    return pb.ProcessingResponse(
        immediate_response=pb.ImmediateResponse(
            status=pb.HttpStatus(code=error.http_status),
            headers=mutation,
            body=orjson.dumps(dialects.body_for(path, headers, dialects.fault_of(error, request_id))),
            details=f"argosy_{error.reason}",
        )
    )
