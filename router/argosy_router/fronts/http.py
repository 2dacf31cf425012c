"""The OpenAI-compatible HTTP front."""

import asyncio
import logging
from collections.abc import Sequence
from contextlib import aclosing
from typing import Any

import orjson
from aiohttp import web
from aiohttp.typedefs import Handler

from argosy_api.errors import (
    ArgosyError,
    CancelledError,
    InternalError,
    InvalidArgumentError,
    OverloadedError,
    UnauthenticatedError,
    UnavailableError,
)
from argosy_router import volley
from argosy_router.ask import Caller
from argosy_router.fleet.deployment import Named
from argosy_router.fronts import oai_format as fmt
from argosy_router.fronts.bodies import Bodies
from argosy_router.fronts.connections import Connections
from argosy_router.fronts.credentials import TENANT, asks_for_credentials
from argosy_router.fronts.http_body import SLOWEST, read_body
from argosy_router.fronts.oai_answer import SSE_DONE, Answer, sse
from argosy_router.fronts.request_ids import request_id
from argosy_router.picked import HEADER, parsed
from argosy_router.request import Request
from argosy_router.routing.job import Job
from argosy_router.service import Service
from argosy_router.tenants.tenant import Tenant
from argosy_router.volley import Volley

log = logging.getLogger(__name__)

WRITE_S = 30.0
"""A client that reads nothing for so long is gone; one that takes a whole answer has a second more for each SLOWEST."""
IGNORED_HEADER, STRICT_HEADER = "x-argosy-ignored", "x-argosy-strict"
"""Fields of the request that change nothing here; and what a client sends who wants them refused."""
REQUEST_ID = web.RequestKey("request_id", str)


class HttpFront:
    """Handlers over the service."""

    def __init__(self, service: Service, bodies: Bodies, connections: Connections) -> None:
        self._service = service
        self._bodies = bodies
        self._connections = connections
        self._asking = asks_for_credentials(service.identity, service.metrics)

    def application(self) -> web.Application:
        """The aiohttp application."""
        app = web.Application(
            middlewares=[self._guarded, _errors, self._asking], client_max_size=0
        )  # bodies are read by `read_body`
        app.router.add_get("/health", self._health)
        app.router.add_get("/ready", self._ready)
        app.router.add_get("/v1/models", self._models)
        app.router.add_get("/v1/models/{model:.+}", self._model)
        app.router.add_post("/v1/completions", self._completions)
        app.router.add_post("/v1/chat/completions", self._chat)
        return app

    @web.middleware
    async def _guarded(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        self._connections.begin(request.protocol)
        try:
            return await handler(request)
        finally:
            self._connections.end(request.protocol)

    async def _health(self, _: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def _ready(self, _: web.Request) -> web.Response:
        if self._service.ready:
            return web.json_response({"status": "ready"})
        raise UnavailableError("shutting down" if self._service.draining else "no membership was read yet")

    async def _models(self, _: web.Request) -> web.Response:
        deployments = {d.name: d for d in self._service.fleet.deployments}.values()
        found = [Named(d, adapter) for d in deployments for adapter in ("", *sorted(d.adapters))]
        return web.json_response({"object": "list", "data": [_model_object(named, named.name) for named in found]})

    async def _model(self, request: web.Request) -> web.Response:
        name = request.match_info["model"]
        return web.json_response(_model_object(self._service.fleet.named(name), name))

    async def _completions(self, request: web.Request) -> web.StreamResponse:
        return await self._answer(request, "completions")

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        return await self._answer(request, "chat")

    async def _answer(self, http: web.Request, kind: str) -> web.StreamResponse:
        with self._service.request("http") as taken:
            raw = await read_body(http, taken.account.take)
            request = await self._bodies.parse(kind, raw)
            del raw
            if request.ignored and http.headers.get(STRICT_HEADER, "").lower() in ("1", "true"):
                raise InvalidArgumentError(request.ignored[0], f"has no effect here, and {STRICT_HEADER} is set")
            pick = parsed(http.headers.get(HEADER))
            caller = Caller(request_id=http[REQUEST_ID], tenant=http[TENANT], pick=pick)
            prepared = await self._service.prepare(taken, request.ask(), caller)
            answer = Answer(request, prepared)
            headers = {"x-request-id": http[REQUEST_ID]}
            if request.ignored:
                headers[IGNORED_HEADER] = ", ".join(request.ignored)
            if request.stream:
                return await self._stream(http, taken, answer, prepared.jobs, headers)
            return await self._whole(http, taken, answer, prepared.jobs, headers)

    # --- whole answers

    async def _whole(
        self, http: web.Request, taken: Request, answer: Answer, jobs: Sequence[Job], headers: dict[str, str]
    ) -> web.Response:
        keep_ids = answer.request.return_token_ids
        if len(jobs) == 1:
            results = [await self._gather(taken, jobs[0], http[TENANT], keep_ids=keep_ids)]
        else:
            results = await volley.each(jobs, lambda job: self._gather(taken, job, http[TENANT], keep_ids=keep_ids))
        headers.update(results[0][1])
        document = await answer.whole([g for g, _ in results])
        body = orjson.dumps(document)
        response = web.Response(body=body, content_type="application/json", headers=headers)
        # sent here, not by aiohttp after us: what waits for a slow reader still counts as held, and not for ever
        async with asyncio.timeout(WRITE_S + len(body) / SLOWEST):
            await response.prepare(http)
            await response.write_eof()
        return response

    async def _gather(
        self, taken: Request, job: Job, tenant: Tenant, *, keep_ids: bool
    ) -> tuple[fmt.Gathered, dict[str, str]]:
        gathered = fmt.Gathered(keep_ids=keep_ids)
        async with self._service.flying(taken, job) as flight:
            async for chunk in flight:
                taken.collect(chunk)
                gathered.add(chunk)
            gathered.cached = flight.cached_tokens
            return gathered, dict(self._service.headers(flight.decision, tenant))

    # --- streams

    async def _stream(
        self, http: web.Request, taken: Request, answer: Answer, jobs: Sequence[Job], headers: dict[str, str]
    ) -> web.StreamResponse:
        async with Volley(self._service, taken, jobs) as flights:
            # the first have their first token before the status is sent: until then an error is a proper HTTP error
            headers.update(self._service.headers((await flights.start()).decision, http[TENANT]))
            headers |= {
                "content-type": "text/event-stream; charset=utf-8",
                "cache-control": "no-cache",
                "x-accel-buffering": "no",
            }
            response = web.StreamResponse(headers=headers)
            await response.prepare(http)
            try:
                await self._events(response, taken, answer, flights)
            except ArgosyError as error:
                await _write(response, sse(fmt.error_object(error)))
                raise _StreamedError(response, error) from None
            async with asyncio.timeout(WRITE_S):
                await response.write_eof()
            return response

    async def _events(self, response: web.StreamResponse, taken: Request, answer: Answer, flights: Volley) -> None:
        opening = b"".join(answer.opening(i) for i in range(len(flights.jobs)))
        async with aclosing(flights.chunks()) as chunks:
            async for i, chunk in chunks:
                if chunk.prompt_logprobs:  # all at once, as in an answer that is not streamed
                    taken.collect(chunk)
                event = opening + await answer.event(i, chunk)
                opening = b""
                if event:
                    await _write(response, event)
        if answer.request.include_usage:
            completion = 0 if answer.request.only_prompt else flights.delivered
            await _write(response, answer.usage_event(flights.cached_tokens, completion))
        await _write(response, SSE_DONE)


class _StreamedError(ArgosyError):
    """An error that the client was told of inside its stream; only the metrics still have to hear of it."""

    def __init__(self, response: web.StreamResponse, cause: ArgosyError) -> None:
        super().__init__(cause.message)
        self.response = response
        self.status = cause.status  # type: ignore[misc]


async def _write(response: web.StreamResponse, data: bytes) -> None:
    async with asyncio.timeout(WRITE_S):
        await response.write(data)


@web.middleware
async def _errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Every error as an OpenAI error object; what is not ours is logged and told without details."""
    headers: dict[str, str] = {}
    try:
        request[REQUEST_ID] = headers["x-request-id"] = request_id(request.headers.get("x-request-id"))
        return await handler(request)
    except _StreamedError as error:
        # cut, once the event is sent: tools that do not look at events take a stream that ends in order for an answer
        if request.transport is not None:
            request.transport.close()
        return error.response
    except UnauthenticatedError as error:
        return _error(error, {**headers, "www-authenticate": "Bearer"})
    except OverloadedError as error:
        return _error(error, {**headers, "retry-after": str(max(1, round(error.retry_after_s)))})
    except ArgosyError as error:
        return _error(error, headers)
    except web.HTTPException as error:
        body = {"message": error.reason, "type": "invalid_request_error", "param": None, "code": None}
        allow = {"allow": error.headers["allow"]} if "allow" in error.headers else {}
        return web.json_response({"error": body}, status=error.status, headers={**headers, **allow})
    except (ConnectionError, TimeoutError):  # the client is gone, or reads nothing
        if request.transport is not None:
            request.transport.abort()
        return web.Response(status=CancelledError.http_status)
    except Exception:
        log.exception("request %s failed", headers.get("x-request-id"))
        return _error(InternalError(f"internal error (request {headers.get('x-request-id')})"), headers)


def _error(error: ArgosyError, headers: dict[str, str]) -> web.Response:
    response = web.Response(
        text=orjson.dumps(fmt.error_object(error)).decode(),
        status=error.http_status,
        content_type="application/json",
        headers=headers,
    )
    if error.http_status == 413:
        response.force_close()  # the rest of the body is not read
    return response


def _model_object(named: Named, name: str) -> dict[str, Any]:
    """Of a model, or of one of its adapters, under the name that it was asked for by."""
    document: dict[str, Any] = {"id": name, "object": "model", "created": 0, "owned_by": "argosy"}
    card = named.deployment.card
    if card is not None:
        document["max_model_len"] = card.facts.max_model_len
    if named.adapter:
        document["parent"] = named.deployment.name
    return document
