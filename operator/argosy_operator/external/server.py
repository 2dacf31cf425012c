"""external.metrics.k8s.io/v1beta1 over TLS, for the API server's aggregation layer and nobody else.

Certificate and the authority of its callers are looked at again and again; where one has changed, the server begins
anew on the same listening socket, so that nobody is refused meanwhile.
"""

import asyncio
import logging
import socket
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

from aiohttp import web

from argosy_api.errors import ArgosyError, InternalError, NotFoundError, UnavailableError
from argosy_api.faults import is_fault
from argosy_api.tls import server_context
from argosy_kube.reflector import WatchError
from argosy_operator.external import documents, figures
from argosy_operator.external.callers import CONFIG_PATH, Caller, FrontProxy, caller
from argosy_operator.external.certificates import Pair
from argosy_operator.external.documents import GROUP, VERSION
from argosy_operator.external.keeper import pair_of, secret_path
from argosy_operator.external.reviews import ForbiddenError, ReviewApi, Reviews
from argosy_operator.external.source import Source
from argosy_operator.settings import ExternalMetrics

log = logging.getLogger(__name__)

LOOK_S = 30.0
FIRST_LOOK_S = 1.0
"""Until there is a certificate."""
_REASONS = {400: "BadRequest", 401: "Unauthorized", 403: "Forbidden", 404: "NotFound", 503: "ServiceUnavailable"}
_ROOT = f"/apis/{GROUP}/{VERSION}"
_FRONT_PROXY = web.AppKey("front_proxy", FrontProxy)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Api(ReviewApi, Protocol):
    """What is asked of the API server. Everything raises `WatchError`."""

    async def get(self, path: str, params: dict[str, str]) -> dict[str, Any]:
        """One object."""
        ...


@dataclass(frozen=True, slots=True)
class Material:
    """What TLS and the check of callers are made of."""

    pair: Pair
    front_proxy: FrontProxy


class MetricsServer:
    """Answers on a listening socket, which is the caller's."""

    def __init__(self, api: Api, settings: ExternalMetrics, source: Source, listening: socket.socket) -> None:
        self._api, self._settings, self._source, self._listening = api, settings, source, listening
        self._reviews = Reviews(api)
        self._material: Material | None = None
        self._runner: web.AppRunner | None = None
        self._said = ""

    async def run(self) -> None:
        """Runs until it is cancelled."""
        try:
            while True:
                await self._look()
                await asyncio.sleep(FIRST_LOOK_S if self._runner is None else LOOK_S)
        finally:
            await self._stop()

    async def _look(self) -> None:
        try:
            config = await self._api.get(CONFIG_PATH, {})
            secret = await self._api.get(secret_path(self._settings), {})
            pair = pair_of(secret)
            if pair is None:
                self._say("there is no serving certificate yet")
                return
            material = Material(pair, FrontProxy.from_config_map(config))
            if material != self._material:
                await self._begin(material)
        except (WatchError, ValueError, ssl.SSLError) as error:
            self._say(f"{GROUP}: {error}")  # what is served stays as it was
        else:
            self._said = ""

    async def _begin(self, material: Material) -> None:
        context = server_context(material.pair.certificate, material.pair.key, material.front_proxy.authority)
        app = web.Application(middlewares=[_errors])
        app[_FRONT_PROXY] = material.front_proxy
        app.router.add_get("/apis", self._groups)
        app.router.add_get(f"/apis/{GROUP}", self._group)
        app.router.add_get(_ROOT, self._resources)
        app.router.add_get(_ROOT + "/namespaces/{namespace}/{metric}", self._values)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=2.0)
        await runner.setup()
        # a copy, since a site closes its socket: who connects meanwhile waits in the queue of the original
        await web.SockSite(runner, self._listening.dup(), ssl_context=context).start()
        await self._stop()
        self._runner, self._material = runner, material
        log.info("%s is served on port %d", GROUP, self._listening.getsockname()[1])

    async def _stop(self) -> None:
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()

    async def _discover(self, request: web.Request, document: documents.Object) -> web.Response:
        await self._reviews.check(_caller(request), path=request.path)
        return web.json_response(document)

    async def _groups(self, request: web.Request) -> web.Response:
        if documents.AGGREGATED in request.headers.get("Accept", "").replace(" ", ""):
            answer = await self._discover(request, documents.aggregated())
            answer.headers["Content-Type"] = documents.AGGREGATED
            return answer
        return await self._discover(request, documents.groups())

    async def _group(self, request: web.Request) -> web.Response:
        return await self._discover(request, documents.group())

    async def _resources(self, request: web.Request) -> web.Response:
        return await self._discover(request, documents.resources())

    async def _values(self, request: web.Request) -> web.Response:
        namespace, metric = request.match_info["namespace"], request.match_info["metric"]
        await self._reviews.check(_caller(request), namespace=namespace, metric=metric)
        figures.figure(metric)
        names, now = documents.chosen(request.query.get("labelSelector", "")), datetime.now(UTC)
        items = [documents.item(metric, name, self._source.signals(namespace, name), now) for name in names]
        return web.json_response(documents.value_list(items))

    def _say(self, what: str) -> None:
        if what != self._said:
            self._said = what
            log.warning("%s", what)


def _caller(request: web.Request) -> Caller:
    certificate = None if request.transport is None else request.transport.get_extra_info("peercert")
    return caller(request.app[_FRONT_PROXY], certificate, request.headers)


@web.middleware
async def _errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Whatever goes wrong is told as a Status, as Kubernetes' clients read it."""
    try:
        return await handler(request)
    except ArgosyError as error:
        told: ArgosyError = error
    except web.HTTPNotFound:
        told = NotFoundError("there is nothing at this path")
    except web.HTTPException:
        raise
    except Exception as error:
        if not is_fault(error):
            raise
        log.exception("%s", request.path)
        told = InternalError("internal error; the operator's log has the cause")
    if isinstance(told, UnavailableError | ForbiddenError):
        log.debug("%s: %s", request.path_qs, told.message)
    reason = _REASONS.get(told.http_status, "InternalError")
    return web.json_response(documents.failure(told, reason), status=told.http_status)
