"""Keeps a small view of each object of one kind, as list and watch of the Kubernetes API tell it. No HTTP library here.

What can go wrong, and what is done: a watch that ends is continued where it ended; one that is silent for too long is
taken for dead (servers send bookmarks each minute) and continued; after 410 everything is listed again, and what is
no longer there is reported as gone; while the server is away the last view stays. An object that can't be read is told
in the log and keeps its last view, if any: it never stops the others. Anything unforeseen begins with a new list.
"""

import asyncio
import json
import logging
import random
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from argosy_api import limits
from argosy_api.backoff import Backoff

log = logging.getLogger(__name__)

T = TypeVar("T")
Object = dict[str, Any]

PAGE = 500
INACTIVITY_S = 70.0
WATCH_S = 300
BACKOFF = Backoff(first=0.2, cap=15.0)


class Key(NamedTuple):
    """Which object."""

    namespace: str
    name: str


class WatchError(Exception):
    """The server answered with an error, or not at all (status 0)."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"status {status}: {message}" if status else message)
        self.status = status


class Transport(Protocol):
    """Two ways to read from the API server. Both raise `WatchError`."""

    async def get(self, path: str, params: dict[str, str]) -> Object:
        """One JSON document."""
        ...

    def stream(self, path: str, params: dict[str, str]) -> AsyncIterator[bytes]:
        """The body of a watch in pieces, as they come."""
        ...


class Reflector(Generic[T]):
    """Views of all objects at one path (of one kind, in one or all namespaces)."""

    def __init__(
        self,
        transport: Transport,
        path: str,
        convert: Callable[[Object], T],
        on_change: Callable[[Key, T | None, T | None], None],
        *,
        label_selector: str = "",
        inactivity_s: float = INACTIVITY_S,
    ) -> None:
        """`on_change` is called with the view before and the view after; None where there is none."""
        self._transport, self.path = transport, path
        self._convert, self._on_change = convert, on_change
        self._selector = {"labelSelector": label_selector} if label_selector else {}
        self._inactivity_s = inactivity_s
        self._version: str | None = None
        self.objects: dict[Key, T] = {}
        self.synced = asyncio.Event()
        """Set once everything was listed for the first time."""
        self.heard_at = float("-inf")
        """time.monotonic() of the last answer of the server."""
        self.problem = ""
        """Why nothing new is heard; empty while all is well."""

    async def run(self) -> None:
        """Runs until it is cancelled."""
        failures = 0
        while True:
            try:
                if self._version is None:
                    await self._list()
                await self._watch()
                failures = 0
                continue
            except WatchError as error:
                if error.status == 410:
                    self._version = None
                    if not failures:  # a list is due, at once; one 410 after another must not become a hail of lists
                        failures = 1
                        continue
                self.problem = str(error)
            except Exception as error:
                log.exception("%s: it is listed anew", self.path)
                self.problem, self._version = repr(error), None
            failures += 1
            wait = BACKOFF.jittered(failures)
            level = logging.WARNING if failures in (1, 10) else logging.DEBUG
            log.log(level, "%s: %s; trying again in %.1f s, the last view stays", self.path, self.problem, wait)
            await asyncio.sleep(wait)

    async def _list(self) -> None:
        found: dict[Key, T] = {}
        params = {"limit": str(PAGE), **self._selector}
        while True:
            answer = await self._transport.get(self.path, params)
            for item in answer.get("items") or ():
                view = self._read(item)
                if view is not None:
                    found[_key(item)] = view
            more = answer["metadata"].get("continue")
            if not more:
                break
            params["continue"] = more
        self._heard()
        for key in self.objects.keys() - found.keys():
            self._set(key, None)
        for key, view in found.items():
            self._set(key, view)
        self._version = answer["metadata"]["resourceVersion"]
        self.synced.set()

    async def _watch(self) -> None:
        params = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": self._version or "",
            # not all watches of all clients at the same moment
            "timeoutSeconds": str(int(WATCH_S * random.uniform(0.8, 1.2))),
            **self._selector,
        }
        began = time.monotonic()
        stream = self._transport.stream(self.path, params)
        rest = b""
        heard = False
        while True:
            try:
                async with asyncio.timeout(self._inactivity_s):
                    piece = await anext(stream, None)
            except TimeoutError:
                log.debug("%s: silent for %.0f s, watching anew", self.path, self._inactivity_s)
                return
            if piece is None:
                break
            self._heard()
            heard = True
            *lines, rest = (rest + piece).split(b"\n")
            if len(rest) > limits.MAX_WATCHED_BYTES:
                raise WatchError(0, f"an object of more than {limits.MAX_WATCHED_BYTES} bytes")
            for line in lines:
                if line.strip():
                    self._event(line)
        if not heard and time.monotonic() - began < 1.0:
            raise WatchError(0, "the watch was closed at once")

    def _event(self, line: bytes) -> None:
        try:
            event = json.loads(line)
            kind, item = event["type"], event["object"]
        except (ValueError, KeyError, TypeError) as error:
            raise WatchError(0, f"not a watch event: {error}") from error
        if kind == "ERROR":
            raise WatchError(int(item.get("code", 0)), str(item.get("message", "")))
        if kind in ("ADDED", "MODIFIED"):
            self._set(_key(item), self._read(item))
        elif kind == "DELETED":
            self._set(_key(item), None)
        self._version = item["metadata"]["resourceVersion"]

    def _heard(self) -> None:
        self.heard_at, self.problem = time.monotonic(), ""

    def _read(self, item: Object) -> T | None:
        """The object's view; if it can't be read the one before, if any."""
        try:
            return self._convert(item)
        except Exception as error:  # noqa: BLE001 - whatever a stranger's object makes of a reader of ours
            key = _key(item)
            log.warning("%s: %s/%s can't be read (%r); its last view stays", self.path, *key, error)
            return self.objects.get(key)

    def _set(self, key: Key, view: T | None) -> None:
        before = self.objects.get(key)
        if view is None:
            self.objects.pop(key, None)
        else:
            self.objects[key] = view
        if before != view:
            self._on_change(key, before, view)


def _key(item: Object) -> Key:
    metadata = item["metadata"]
    return Key(metadata.get("namespace", ""), metadata["name"])
