"""The endpoint picker's face: a gateway (Envoy's ext_proc) asks which router a request should go to.

Only a stream that broke ends early: one that ends in order before its request is through would have a gateway forward
the request without its body.
"""

import logging
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import grpc

from argosy_api import limits
from argosy_api.errors import ArgosyError, InvalidArgumentError, TooLargeError
from argosy_api.extproc import extproc_pb2 as pb
from argosy_api.faults import is_fault
from argosy_router.ask import Caller
from argosy_router.fronts.bodies import PATHS, Bodies
from argosy_router.fronts.credentials import KEY_HEADER
from argosy_router.fronts.exchange import in_its_words
from argosy_router.fronts.grpc_common import Context
from argosy_router.fronts.picker_messages import METHOD, destination, headers_of, parts, refusal, subset_of
from argosy_router.fronts.request_ids import request_id
from argosy_router.metrics import Metrics
from argosy_router.picked import HEADER
from argosy_router.picking.picker import Picker
from argosy_router.picking.picks import Pick
from argosy_router.tenants.identity import Identity

log = logging.getLogger(__name__)

READ_LATER = frozenset({pb.BUFFERED, pb.BUFFERED_PARTIAL, pb.FULL_DUPLEX_STREAMED})
"""Modes in which the request's headers may still be changed when its body is known."""
if TYPE_CHECKING:  # generic in the stubs only
    Handler = grpc.GenericRpcHandler[Any, Any]


class PickerFront:
    """Streams of gateways, one for each HTTP request."""

    def __init__(self, picker: Picker, identity: Identity, bodies: Bodies, metrics: Metrics) -> None:
        self.picker = picker
        self.identity = identity
        self.bodies = bodies
        self.metrics = metrics

    def handler(self) -> "Handler":
        """For a gRPC server."""
        _, service, method = METHOD.split("/")
        made = grpc.stream_stream_rpc_method_handler(
            self.process,
            request_deserializer=pb.ProcessingRequest.FromString,
            response_serializer=pb.ProcessingResponse.SerializeToString,
        )
        return grpc.method_handlers_generic_handler(service, {method: made})

    async def process(
        self, requests: AsyncIterator[pb.ProcessingRequest], _: Context
    ) -> AsyncIterator[pb.ProcessingResponse]:
        """One HTTP request and its answer, as far as the gateway shows them."""
        exchange = _Exchange(self)
        try:
            async for request in requests:
                for response in await exchange.take(request):
                    yield response
        finally:
            exchange.close()


class _Exchange:
    """One HTTP request, from its headers to the end of its answer."""

    def __init__(self, front: PickerFront) -> None:
        self._front = front
        self._account = front.picker.account()
        self._pick: Pick | None = None
        self._request_mode = self._answer_mode = pb.FULL_DUPLEX_STREAMED
        """What the protocol wants where a gateway does not say."""
        self._caller = Caller(request_id="")
        self._path, self._names = "", frozenset[str]()
        """Of the request; and those of its headers."""
        self._kind = ""
        """Of the request's body; empty: nothing is made of it."""
        self._subset: list[str] | None = None
        self._body = bytearray()
        self._waiting = False
        """For the rest of the body."""
        self._refused = False

    def close(self) -> None:
        """However it ended."""
        self._account.close()
        if self._pick is not None:
            self._pick.close()

    async def take(self, request: pb.ProcessingRequest) -> list[pb.ProcessingResponse]:
        """What is said to one message."""
        if request.observability_mode or self._refused:
            return []
        try:
            return await self._take(request)
        except ArgosyError as error:
            self._refused = True
            self._count(str(error.http_status))
            return [refusal(error, self._caller.request_id, path=self._path, headers=self._names)]

    async def _take(self, request: pb.ProcessingRequest) -> list[pb.ProcessingResponse]:
        kind = request.WhichOneof("request")
        if kind == "request_headers":
            return await self._begin(request)
        if kind == "request_body":
            return await self._read(request.request_body)
        if kind == "request_trailers":
            before = await self._decide(end=False) if self._waiting else []
            return [*before, pb.ProcessingResponse(request_trailers=pb.TrailersResponse())]
        if kind == "response_headers":
            status = headers_of(request.response_headers).get(":status", ["500"])[0]
            if self._pick is not None and status < "4":
                self._pick.answered()
            return [pb.ProcessingResponse(response_headers=pb.HeadersResponse())]
        if kind == "response_body":
            body = request.response_body
            if self._answer_mode == pb.FULL_DUPLEX_STREAMED:
                return list(parts("response_body", body.body, end=body.end_of_stream))
            return [pb.ProcessingResponse(response_body=pb.BodyResponse())]
        if kind == "response_trailers":
            return [pb.ProcessingResponse(response_trailers=pb.TrailersResponse())]
        return []

    async def _begin(self, request: pb.ProcessingRequest) -> list[pb.ProcessingResponse]:
        message = request.request_headers
        if request.HasField("protocol_config"):
            self._request_mode = request.protocol_config.request_body_mode
            self._answer_mode = request.protocol_config.response_body_mode
        headers = headers_of(message)
        self._subset = subset_of(request)
        self._caller = Caller(request_id=request_id(headers.get("x-request-id", [""])[0]))
        self._path, self._names = headers.get(":path", [""])[0].partition("?")[0], frozenset(headers)
        kind = PATHS.get(self._path, "") if headers.get(":method") == ["POST"] else ""
        if not kind or message.end_of_stream or self._request_mode not in READ_LATER:
            return [self._headers(None)]
        given = [*headers.get("authorization", []), *(f"Bearer {key}" for key in headers.get(KEY_HEADER, []))]
        tenant = await self._front.identity.who(given[0] if len(given) == 1 else None)
        self._caller = Caller(request_id=self._caller.request_id, tenant=tenant)
        self._kind, self._waiting = kind, True
        if self._request_mode == pb.FULL_DUPLEX_STREAMED:
            return []  # the headers wait for the body
        return [pb.ProcessingResponse(request_headers=pb.HeadersResponse())]

    async def _read(self, message: pb.HttpBody) -> list[pb.ProcessingResponse]:
        if not self._waiting:
            if self._request_mode == pb.FULL_DUPLEX_STREAMED:
                return list(parts("request_body", message.body, end=message.end_of_stream))
            return [pb.ProcessingResponse(request_body=pb.BodyResponse())]
        if len(self._body) + len(message.body) > limits.MAX_BODY_BYTES:
            raise TooLargeError("body", f"has more than {limits.MAX_BODY_BYTES} bytes")
        self._account.take(len(message.body))
        self._body += message.body
        if message.end_of_stream or self._request_mode != pb.FULL_DUPLEX_STREAMED:
            if not message.end_of_stream:
                self._kind = ""  # a part of it, as BUFFERED_PARTIAL shows of a large one, is no request
            return await self._decide(end=message.end_of_stream)
        return []

    async def _decide(self, *, end: bool) -> list[pb.ProcessingResponse]:
        """The body is there. `end`: no trailers follow."""
        self._waiting = False
        body = bytes(self._body)
        self._body.clear()
        self._pick = await self._picked(body)
        self._account.close()
        said = self._headers(self._pick)
        if self._request_mode == pb.FULL_DUPLEX_STREAMED:
            return [said, *parts("request_body", body, end=end)]
        changed = pb.BodyResponse(response=said.request_headers.response)
        return [pb.ProcessingResponse(request_body=changed, dynamic_metadata=said.dynamic_metadata)]

    async def _picked(self, body: bytes) -> Pick | None:
        if not self._kind:
            return None
        try:
            request = await self._front.bodies.parse(self._kind, body)
            if not request.messages and not request.prompts:
                return None  # as clients of Ollama ask for the model to be loaded
            if self._kind.startswith("ollama_"):
                request = replace(request, model=self._front.picker.known_as(request.model))
            try:
                return await self._front.picker.pick(self._account, request.ask(), self._caller)
            except InvalidArgumentError as error:
                raise in_its_words(error, request.names) from None
        except BaseException as error:
            if isinstance(error, ArgosyError) or not is_fault(error):
                raise
            log.exception("request %s: nothing could be picked; it goes to any router", self._caller.request_id)
            return None

    def _headers(self, pick: Pick | None) -> pb.ProcessingResponse:
        endpoints = self._front.picker.endpoints(pick, self._subset)
        self._count("picked" if pick is not None else "any")
        extra, removed = ({HEADER: pick.header}, ()) if pick is not None else ({}, (HEADER,))
        mutation, metadata = destination(endpoints, extra, removed)
        common = pb.CommonResponse(header_mutation=mutation)
        return pb.ProcessingResponse(request_headers=pb.HeadersResponse(response=common), dynamic_metadata=metadata)

    def _count(self, result: str) -> None:
        self._front.metrics.picks.labels(result).inc()
