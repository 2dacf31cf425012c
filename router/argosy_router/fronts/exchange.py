"""One HTTP request on the one way that all have: body, parsed, prepared, flown; whole or streamed, in any dialect."""

import asyncio
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any, Protocol

import orjson
from aiohttp import web

from argosy_api.errors import ArgosyError, InvalidArgumentError
from argosy_api.tracing import CARRIED
from argosy_api.v1 import worker_pb2 as pb
from argosy_router import volley
from argosy_router.ask import Caller
from argosy_router.clock import now
from argosy_router.fronts.bodies import Bodies
from argosy_router.fronts.credentials import TENANT
from argosy_router.fronts.gathered import Gathered
from argosy_router.fronts.http_body import SLOWEST, read_body
from argosy_router.fronts.oip_binary import Packed
from argosy_router.fronts.outflow import Outflow
from argosy_router.fronts.text_request import TextRequest
from argosy_router.picked import HEADER, parsed
from argosy_router.prepared import Prepared
from argosy_router.request import Request
from argosy_router.routing.job import Job
from argosy_router.service import Service
from argosy_router.tenants.tenant import Tenant
from argosy_router.volley import Volley

WRITE_S = 30.0
"""A client that reads nothing for so long is gone; one that takes a whole answer has a second more for each SLOWEST."""
IGNORED_HEADER, STRICT_HEADER = "x-argosy-ignored", "x-argosy-strict"
"""Fields of the request that change nothing here; and what a client sends who wants them refused."""
REQUEST_ID = web.RequestKey("request_id", str)


class Whole(Protocol):
    """Makes the document of one answer, in the shape of one protocol."""

    request: TextRequest

    async def whole(self, gathered: Sequence[Gathered]) -> dict[str, Any] | Packed:
        """The answer that is not streamed; one entry for each choice."""
        ...


class Answering(Whole, Protocol):
    """The same, and what a stream is made of."""

    content_type: str
    """Of a stream."""

    def opening(self, cached: Sequence[int], /) -> bytes:
        """What a stream begins with. `cached`: tokens of the first choices' prompts that were in a cache."""
        ...

    async def event(self, i: int, chunk: pb.GenerateChunk) -> bytes:
        """What a chunk of choice i brings; empty where that is nothing."""
        ...

    def ending(self, cached: Sequence[int], delivered: int, /) -> bytes:
        """What a stream ends with; `cached` of all choices, `delivered` tokens."""
        ...

    def failure(self, error: ArgosyError) -> bytes:
        """The last event of a stream that failed."""
        ...


class StreamedError(ArgosyError):
    """An error that the client was told of inside its stream; only the metrics still have to hear of it."""

    def __init__(self, response: web.StreamResponse, cause: ArgosyError) -> None:
        super().__init__(cause.message)
        self.response = response
        self.status = cause.status  # type: ignore[misc]


def caller(http: web.Request) -> Caller:
    """Who asks."""
    headers = http.headers
    trace = {name: headers[name] for name in CARRIED if name in headers}
    return Caller(request_id=http[REQUEST_ID], tenant=http[TENANT], pick=parsed(headers.get(HEADER)), trace=trace)


class Exchange:
    """What the handlers of all HTTP fronts share."""

    def __init__(self, service: Service, bodies: Bodies) -> None:
        self.service = service
        self._bodies = bodies

    async def read(self, http: web.Request, taken: Request, kind: str) -> tuple[TextRequest, dict[str, str]]:
        """The request, and headers of its answer. `kind` is a key of `bodies.PARSERS`.

        Raises:
            InvalidArgumentError: naming the field; with STRICT_HEADER also for one that has no effect.

        """
        raw = await read_body(http, taken.account.take)
        return self.noted(http, await self._bodies.parse(kind, raw))

    def noted(self, http: web.Request, request: TextRequest) -> tuple[TextRequest, dict[str, str]]:
        """A request that was parsed elsewhere, and headers of its answer. Raises as `read`."""
        headers = {"x-request-id": http[REQUEST_ID]}
        if request.ignored:
            if http.headers.get(STRICT_HEADER, "").lower() in ("1", "true"):
                raise InvalidArgumentError(request.ignored[0], f"has no effect here, and {STRICT_HEADER} is set")
            headers[IGNORED_HEADER] = ", ".join(request.ignored)
        return request, headers

    async def answer(
        self, http: web.Request, kind: str, made: Callable[[TextRequest, Prepared], Answering]
    ) -> web.StreamResponse:
        """The whole way of a request that wants text; `made` speaks its protocol."""
        with self.service.request("http") as taken:
            self.service.glance(http[TENANT])
            request, headers = await self.read(http, taken, kind)
            return await self.fly(http, taken, request, headers, made)

    async def fly(
        self,
        http: web.Request,
        taken: Request,
        request: TextRequest,
        headers: dict[str, str],
        made: Callable[[TextRequest, Prepared], Answering],
    ) -> web.StreamResponse:
        """The same from where it was read."""
        prepared = await self._prepared(http, taken, request)
        answer = made(request, prepared)
        if request.stream:
            return await self._stream(http, taken, answer, prepared.jobs, headers)
        return await self._whole(http, taken, answer, prepared.jobs, headers)

    async def fly_whole(
        self,
        http: web.Request,
        taken: Request,
        request: TextRequest,
        headers: dict[str, str],
        made: Callable[[TextRequest, Prepared], Whole],
    ) -> web.StreamResponse:
        """The same, of answers that are never streamed."""
        prepared = await self._prepared(http, taken, request)
        return await self._whole(http, taken, made(request, prepared), prepared.jobs, headers)

    async def _prepared(self, http: web.Request, taken: Request, request: TextRequest) -> Prepared:
        try:
            asks = caller(http)
            if request.timeout_s is not None:
                asks = replace(asks, deadline=now() + request.timeout_s)
            return await self.service.prepare(taken, request.ask(), asks)
        except InvalidArgumentError as error:
            raise in_its_words(error, request.names) from None

    # --- whole answers

    async def _whole(
        self, http: web.Request, taken: Request, answer: Whole, jobs: Sequence[Job], headers: dict[str, str]
    ) -> web.Response:
        keep_ids = answer.request.return_token_ids
        if len(jobs) == 1:
            results = [await self._gather(taken, jobs[0], http[TENANT], keep_ids=keep_ids)]
        else:
            results = await volley.each(jobs, lambda job: self._gather(taken, job, http[TENANT], keep_ids=keep_ids))
        headers.update(results[0][1])
        document = await answer.whole([g for g, _ in results])
        return await send(http, document, headers)

    async def _gather(
        self, taken: Request, job: Job, tenant: Tenant, *, keep_ids: bool
    ) -> tuple[Gathered, dict[str, str]]:
        gathered = Gathered(keep_ids=keep_ids)
        async with self.service.flying(taken, job, read_as_it_comes=False) as flight:
            async for chunk in flight:
                taken.collect(chunk)
                gathered.add(chunk)
            gathered.cached = flight.cached_tokens
            return gathered, dict(self.service.headers(flight.decision, tenant))

    # --- streams

    async def _stream(
        self, http: web.Request, taken: Request, answer: Answering, jobs: Sequence[Job], headers: dict[str, str]
    ) -> web.StreamResponse:
        async with Volley(self.service, taken, jobs) as flights:
            # the first have their first token before the status is sent: until then an error is a proper HTTP error
            headers.update(self.service.headers((await flights.start()).decision, http[TENANT]))
            headers |= {
                "content-type": answer.content_type,
                "cache-control": "no-cache",
                "x-accel-buffering": "no",
            }
            response = web.StreamResponse(headers=headers)
            await response.prepare(http)
            with Outflow(http, response, patience_s=WRITE_S) as out:
                try:
                    await self._events(out, taken, answer, flights)
                except ArgosyError as error:
                    await out.write(answer.failure(error))
                    raise StreamedError(response, error) from None
                await out.end()
            return response

    async def _events(self, out: Outflow, taken: Request, answer: Answering, flights: Volley) -> None:
        opening = answer.opening(flights.cached_so_far)
        async with aclosing(flights.chunks()) as chunks:
            async for i, chunk in chunks:
                if chunk.prompt_logprobs:  # all at once, as in an answer that is not streamed
                    taken.collect(chunk)
                event = opening + await answer.event(i, chunk)
                opening = b""
                if event:
                    await out.write(event)
        await out.write(opening + answer.ending(flights.cached_tokens, flights.delivered))


def in_its_words(error: InvalidArgumentError, names: Mapping[str, str]) -> InvalidArgumentError:
    """The error with its field as the protocol calls it."""
    ours = re.split(r"[.\[]", error.field, maxsplit=1)[0]
    if ours not in names:
        return error
    return type(error)(names[ours] + error.field[len(ours) :], error.problem)


async def send(http: web.Request, document: dict[str, Any] | Packed, headers: dict[str, str]) -> web.Response:
    """A document, sent here and not by aiohttp after us: what waits for a slow reader still counts as held, and not for
    ever.
    """
    if not isinstance(document, Packed):
        document = Packed(orjson.dumps(document), {"content-type": "application/json"})
    body = document.body
    response = web.Response(body=body, headers=headers | document.headers)
    async with asyncio.timeout(WRITE_S + len(body) / SLOWEST):
        await response.prepare(http)
        await response.write_eof()
    return response
