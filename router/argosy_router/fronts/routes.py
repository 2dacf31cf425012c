"""A path that a front serves."""

from collections.abc import Awaitable, Callable
from typing import NamedTuple

from aiohttp import web


class Route(NamedTuple):
    """A method, a path, and who answers."""

    method: str
    path: str
    handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    kind: str = ""
    """Of its body: a key of `bodies.PARSERS`; empty where it has none."""


def get(path: str, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> Route:
    """A path that is read."""
    return Route("GET", path, handler)


def post(path: str, handler: Callable[[web.Request], Awaitable[web.StreamResponse]], kind: str) -> Route:
    """A path that is asked with a body of that kind."""
    return Route("POST", path, handler, kind)
