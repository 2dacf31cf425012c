"""Who may ask what: every method needs a credential but those that are named here.

A call is refused before its message is read.
"""

from collections.abc import Awaitable, Callable, Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, NoReturn

import grpc
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from argosy_api.errors import ArgosyError
from argosy_api.grpc_status import errors_to_status
from argosy_router.metrics import Metrics
from argosy_router.tenants.identity import Identity
from argosy_router.tenants.tenant import ANYBODY, Tenant

OPEN_METHODS = frozenset(
    {
        "/grpc.health.v1.Health/Check",
        "/grpc.health.v1.Health/Watch",
        "/inference.GRPCInferenceService/ServerLive",
        "/inference.GRPCInferenceService/ServerReady",
    }
)
"""They tell only that the router runs: for probes and load balancers."""
OPEN_PATHS = frozenset({"/health", "/ready", "/v2/health/live", "/v2/health/ready", "/", "/docs"})
PAGE = "/page/"
"""Static files, which say nothing of what is served; what they show they ask for with a credential."""
TENANT = web.RequestKey("tenant", Tenant)
HEADER = "authorization"
KEY_HEADER = "x-api-key"
"""Where clients of Anthropic's API put it; over HTTP it counts on every path."""

if TYPE_CHECKING:  # generic in the stubs only
    Method = grpc.RpcMethodHandler[Any, Any]

_caller: ContextVar[Tenant] = ContextVar("tenant", default=ANYBODY)


def tenant_of_call() -> Tenant:
    """Whose the gRPC call is that this task serves."""
    return _caller.get()


class Credentials(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]  # generic in the stubs only
    """Of gRPC calls."""

    def __init__(self, identity: Identity, metrics: Metrics) -> None:
        self._identity = identity
        self._metrics = metrics

    async def intercept_service(
        self,
        continuation: "Callable[[grpc.HandlerCallDetails], Awaitable[Method]]",
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "Method":
        """Asks for the credential where one is needed."""
        details = handler_call_details
        if self._identity.required and details.method not in OPEN_METHODS:
            given = [str(value) for key, value in details.invocation_metadata or () if key == HEADER]
            try:
                _caller.set(await self._identity.who(_only(given)))
            except ArgosyError as error:
                self._metrics.refused.labels("grpc").inc()
                return _refusal(error)
        return await continuation(details)


def _refusal(error: ArgosyError) -> "Method":
    async def refuse(_: Any, context: grpc.aio.ServicerContext[Any, Any]) -> NoReturn:
        async with errors_to_status(context):
            raise error
        raise error

    # as of a stream, whatever the method is: so no message is read
    return grpc.stream_stream_rpc_method_handler(refuse)


def asks_for_credentials(identity: Identity, metrics: Metrics) -> Middleware:
    """A middleware for HTTP: the tenant is `request[TENANT]`."""

    @web.middleware
    async def ask(request: web.Request, handler: Handler) -> web.StreamResponse:
        request[TENANT] = ANYBODY
        if identity.required and not (request.path in OPEN_PATHS or request.path.startswith(PAGE)):
            try:
                given = request.headers.getall(HEADER, [])
                given = [*given, *(f"Bearer {key}" for key in request.headers.getall(KEY_HEADER, []))]
                request[TENANT] = await identity.who(_only(given))
            except ArgosyError:
                metrics.refused.labels("http").inc()
                raise
        return await handler(request)

    return ask


def _only(given: Sequence[str]) -> str | None:
    """Of several credentials none counts: which of them is meant is nothing to guess."""
    return given[0] if len(given) == 1 else None
