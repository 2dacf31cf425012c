"""The HTTP application: every protocol's paths, health, and what stands around each request."""

from collections.abc import Collection

import orjson
from aiohttp import web
from aiohttp.typedefs import Handler

from argosy_api.errors import UnavailableError
from argosy_router.clock import now
from argosy_router.fronts.anthropic_front import AnthropicFront
from argosy_router.fronts.bodies import Bodies
from argosy_router.fronts.connections import Connections
from argosy_router.fronts.cors import Cors
from argosy_router.fronts.credentials import asks_for_credentials
from argosy_router.fronts.dialects import is_anthropics
from argosy_router.fronts.exchange import Exchange
from argosy_router.fronts.http_errors import errors
from argosy_router.fronts.oai_front import OaiFront
from argosy_router.fronts.oip_http import OipHttpFront
from argosy_router.fronts.ollama_front import OllamaFront
from argosy_router.fronts.openapi import describe
from argosy_router.fronts.routes import Route, get
from argosy_router.fronts.tokens_front import TokensFront
from argosy_router.fronts.versions import installed_version
from argosy_router.service import Service

PROBES = frozenset({"/health", "/ready", "/metrics", "/v2/health/live", "/v2/health/ready"})
GONE = "4xx"
"""Of a client that went away: proxies call it 499."""


class HttpFront:
    """Handlers over the service."""

    def __init__(
        self, service: Service, bodies: Bodies, connections: Connections, origins: Collection[str] = ()
    ) -> None:
        """`origins`: those whose pages may ask (`cors`)."""
        self._service = service
        self._connections = connections
        self._asking = asks_for_credentials(service.identity, service.metrics)
        self._cors = Cors(origins)
        self._described: bytes | None = None
        exchange = Exchange(service, bodies)
        self._fronts = (
            OaiFront(exchange), TokensFront(exchange), AnthropicFront(exchange), OllamaFront(exchange),
            OipHttpFront(exchange),
        )  # fmt: skip

    def application(self) -> web.Application:
        """The aiohttp application."""
        app = web.Application(
            middlewares=[self._guarded, errors, self._cors.answer, self._asking], client_max_size=0
        )  # bodies are read by `read_body`
        for route in self.routes():
            if route.method == "GET":
                app.router.add_get(route.path, route.handler)
            else:
                app.router.add_post(route.path, route.handler)
        app.on_response_prepare.extend((_named, self._cors.prepare))
        return app

    def routes(self) -> list[Route]:
        """All that is served."""
        mine = [
            get("/health", self.health), get("/ready", self.ready), get("/version", self.version),
            get("/openapi.json", self.openapi),
        ]  # fmt: skip
        return [*mine, *(route for front in self._fronts for route in front.routes())]

    @web.middleware
    async def _guarded(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        self._connections.begin(request.protocol)
        began, status = now(), GONE
        try:
            response = await handler(request)
            status = f"{response.status // 100}xx"
            return response
        finally:
            self._connections.end(request.protocol)
            self._count(request, now() - began, status)

    def _count(self, request: web.Request, seconds: float, status: str) -> None:
        resource = request.match_info.route.resource
        handler = resource.canonical if resource is not None else "-"  # a path that is not served names no series
        if handler not in PROBES:
            method = request.method if resource is not None else "-"
            self._service.metrics.http.labels(method, handler, status).inc()
            self._service.metrics.http_seconds.labels(method, handler).observe(seconds)

    async def health(self, _: web.Request) -> web.Response:
        """Whether the router runs."""
        return web.json_response({"status": "ok"})

    async def ready(self, _: web.Request) -> web.Response:
        """Whether clients should be sent here."""
        if self._service.ready:
            return web.json_response({"status": "ready"})
        raise UnavailableError("shutting down" if self._service.draining else "no membership was read yet")

    async def version(self, _: web.Request) -> web.Response:
        """The router's version."""
        return web.json_response({"version": installed_version()})

    async def openapi(self, _: web.Request) -> web.Response:
        """What is served, and what its requests may have."""
        if self._described is None:
            self._described = orjson.dumps(describe(self.routes()))
        return web.Response(body=self._described, content_type="application/json")


async def _named(request: web.Request, response: web.StreamResponse) -> None:
    """Which libraries it is made of is nothing for clients; the request's id some look for under another name."""
    response.headers["server"] = "argosy"
    if is_anthropics(request) and "x-request-id" in response.headers:
        response.headers["request-id"] = response.headers["x-request-id"]
