"""The page's way to the router: its files, the fleet as operators see it, and in embedded mode a worker's death."""

import asyncio
import json
from pathlib import Path
from typing import Any

import orjson
from aiohttp import web

from argosy_api.errors import InternalError, InvalidArgumentError, NotFoundError, TooLargeError, UnauthenticatedError
from argosy_api.orders import Order, new_key, place
from argosy_router.clock import now
from argosy_router.fronts.credentials import PAGE, TENANT
from argosy_router.fronts.http_body import read_body
from argosy_router.page import files, origin
from argosy_router.recent import KEPT
from argosy_router.routes import routes
from argosy_router.service import Service

ADMIN = "this tells of all requests and needs an admin's credential (docs/tenants.md)"
MAX_ORDER = 1024


class Page:
    """Handlers that belong to no protocol."""

    def __init__(self, service: Service, *, grpc_port: int, orders: str | None = None) -> None:
        """`orders`: where `argosy up` takes orders from; None: nobody here can end a worker."""
        self._service = service
        self._files = files.load()
        self._orders = None if orders is None else Path(orders)
        self._grpc_port = grpc_port

    def add_to(self, app: web.Application) -> None:
        """Serve it beside the protocols."""
        app.router.add_get("/", self._index)
        app.router.add_get("/docs", self._docs)
        app.router.add_get(PAGE + "here.json", self._here)
        app.router.add_get(PAGE + "{name}", self._file)
        app.router.add_get("/fleet", self._fleet)
        app.router.add_get("/fleet/requests/{id}", self._explain)
        app.router.add_post("/fleet/kill", self._kill)

    async def _index(self, request: web.Request) -> web.Response:
        return self._files[files.INDEX].answer(request)

    async def _docs(self, request: web.Request) -> web.Response:
        """What can be asked over HTTP, of `/openapi.json`."""
        return self._files[files.DOCS].answer(request)

    async def _file(self, request: web.Request) -> web.Response:
        found = self._files.get(request.match_info["name"])
        if found is None:
            raise NotFoundError("the page has no such file")
        return found.answer(request)

    async def _here(self, _: web.Request) -> web.Response:
        """What examples of other protocols need to know."""
        return web.json_response({"grpc_port": self._grpc_port}, headers=files.HEADERS)

    async def _fleet(self, request: web.Request) -> web.Response:
        self._check_may_see(request)
        told: dict[str, Any] = json.loads(routes(self._service.fleet, now()).to_json())
        told |= {"recent": self._service.recent.told(), "kill": self._orders is not None}
        return web.Response(body=orjson.dumps(told), content_type="application/json", headers=files.HEADERS)

    async def _explain(self, request: web.Request) -> web.Response:
        """Where the choices of one request went, and why."""
        self._check_may_see(request)
        wanted = request.match_info["id"]
        found = self._service.recent.explained(wanted)
        if not found:
            raise NotFoundError(f"this router knows no request {wanted!r:.150} among its latest {KEPT}")
        return web.Response(body=orjson.dumps(found), content_type="application/json", headers=files.HEADERS)

    async def _kill(self, request: web.Request) -> web.Response:
        """Kill a worker's process, which `argosy up` starts again: to see that streams go on."""
        if self._orders is None:
            raise NotFoundError("workers of this router are not ended from here")
        self._check_may_see(request)
        if not origin.is_own(request.headers):
            raise InvalidArgumentError("origin", "must be the page of this very server, asked for by its address")
        if request.content_length is None or request.content_length > MAX_ORDER:
            raise TooLargeError("body", f"must have a length, of at most {MAX_ORDER} bytes")
        worker = _worker(await read_body(request, lambda _: None))
        if not any(worker in state.workers for state in self._service.fleet.deployments):
            raise NotFoundError(f"there is no worker {worker!r:.100}")
        try:
            await asyncio.to_thread(place, self._orders, Order(key=new_key(), kill=worker))
        except OSError as error:
            raise InternalError("the order cannot be left") from error
        return web.json_response({"killed": worker}, status=202)

    def _check_may_see(self, request: web.Request) -> None:
        if not self._service.tells(request[TENANT]):
            raise UnauthenticatedError(ADMIN)


def _worker(raw: bytes | bytearray) -> str:
    try:
        worker = orjson.loads(bytes(raw))["worker"]
    except (ValueError, KeyError, TypeError):
        worker = None
    if not isinstance(worker, str):
        raise InvalidArgumentError("worker", "must be the id of a worker")
    return worker
