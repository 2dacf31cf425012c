"""Pages of other origins: which may ask, as the router is told. Without that browsers keep answers from them."""

import re
from collections.abc import Collection

from aiohttp import web
from aiohttp.typedefs import Handler

from argosy_router.origins import ANY

_TOLD = (
    "x-request-id, request-id, retry-after, x-argosy-worker, x-argosy-ignored, x-argosy-decision, "
    "x-argosy-cached-tokens-predicted"
)
_METHODS = "GET, POST"
_KEPT_S = 600
_HEADERS = re.compile(r"[A-Za-z0-9_, -]{0,2048}")


class Cors:
    """For pages of `origins`, or of any where ANY is among them. No cookie is ever asked for or read."""

    def __init__(self, origins: Collection[str]) -> None:
        self._origins = frozenset(origins)

    def allows(self, origin: str) -> bool:
        """Whether pages of this origin may ask."""
        return bool(origin) and (ANY in self._origins or origin in self._origins)

    @web.middleware
    async def answer(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """A browser's question whether a page may ask is answered at once, and tells nothing else."""
        if request.method != "OPTIONS" or "access-control-request-method" not in request.headers:
            return await handler(request)
        if not self.allows(request.headers.get("origin", "")):
            return await handler(request)
        wanted = request.headers.get("access-control-request-headers", "")
        headers = {"access-control-allow-methods": _METHODS, "access-control-max-age": str(_KEPT_S)}
        if _HEADERS.fullmatch(wanted):
            headers["access-control-allow-headers"] = wanted
        return web.Response(status=204, headers=headers)

    async def prepare(self, request: web.Request, response: web.StreamResponse) -> None:
        """Lets the page see any answer, errors and streams as well."""
        if not self._origins:
            return
        origin = request.headers.get("origin", "")
        response.headers.add("vary", "origin")
        if self.allows(origin):
            response.headers["access-control-allow-origin"] = ANY if ANY in self._origins else origin
            response.headers["access-control-expose-headers"] = _TOLD
