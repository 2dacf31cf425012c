"""HTTP connections: how many there may be, and how long one may take for the head of its request.

aiohttp bounds neither, so a client that sends one byte a minute would hold a connection for ever.
"""

import asyncio
import logging
from typing import Any, cast

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from argosy_api import limits

log = logging.getLogger(__name__)

HEAD_S = 10.0
"""From the first byte of a request's head to its last."""
IDLE_S = 75.0
"""Without any byte of a next request."""
LOOK_S = 1.0
_SHOWN = 100


class _OneLine(logging.Filter):
    """What speaks another protocol, as gRPC on the wrong port, is no fault of ours: one line, without a traceback."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, HttpProcessingError):
            why = error.message.partition("\n")[0][:_SHOWN]
            record.levelno, record.levelname = logging.WARNING, "WARNING"
            record.msg, record.args = "%s: no HTTP: %r", (record.getMessage(), why)
            record.exc_info = record.exc_text = None
        return True


log.addFilter(_OneLine())


class _Guard(asyncio.Protocol):
    """Between a socket and aiohttp's handler of it."""

    def __init__(self, connections: "Connections", handler: Any) -> None:
        self._connections = connections
        self._handler = handler
        self.transport: asyncio.WriteTransport | None = None
        self.busy = False
        self.heard = False
        """Whether bytes came since the last request ended."""
        self.since = asyncio.get_running_loop().time()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.WriteTransport", transport)
        self._handler.connection_made(transport)
        self._connections.opened(self._handler, self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.closed(self._handler)
        self._handler.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if not (self.busy or self.heard):
            self.heard, self.since = True, asyncio.get_running_loop().time()
        self._handler.data_received(data)

    def eof_received(self) -> Any:
        return self._handler.eof_received()

    def pause_writing(self) -> None:
        self._handler.pause_writing()

    def resume_writing(self) -> None:
        self._handler.resume_writing()


class Connections:
    """All connections of one front. `watch` runs beside it."""

    def __init__(self, *, most: int = limits.MAX_CONNECTIONS, head_s: float = HEAD_S, idle_s: float = IDLE_S) -> None:
        self._most = most
        self._head_s = head_s
        self._idle_s = idle_s
        self._guards: dict[Any, _Guard] = {}

    def __len__(self) -> int:
        """How many there are."""
        return len(self._guards)

    def guard(self, handler: Any) -> asyncio.Protocol:
        """The protocol for a new connection, over aiohttp's own."""
        return _Guard(self, handler)

    def opened(self, handler: Any, guard: _Guard) -> None:
        """A connection came; one too many is closed at once."""
        self._guards[handler] = guard
        if len(self._guards) > self._most:
            _abort(guard)

    def closed(self, handler: Any) -> None:
        """It went."""
        self._guards.pop(handler, None)

    def begin(self, handler: Any) -> None:
        """The head of a request is read."""
        if (guard := self._guards.get(handler)) is not None:
            guard.busy = True

    def end(self, handler: Any) -> None:
        """The request was answered."""
        if (guard := self._guards.get(handler)) is not None:
            guard.busy, guard.heard, guard.since = False, False, asyncio.get_running_loop().time()

    async def watch(self) -> None:
        """Closes what is too slow or idle; runs until it is cancelled."""
        while True:
            await asyncio.sleep(LOOK_S)
            time = asyncio.get_running_loop().time()
            for guard in list(self._guards.values()):
                if not guard.busy and time - guard.since > (self._head_s if guard.heard else self._idle_s):
                    _abort(guard)


def _abort(guard: _Guard) -> None:
    if guard.transport is not None:
        guard.transport.abort()


class GuardedRunner(web.AppRunner):
    """aiohttp's runner, whose sites give each connection a guard."""

    def __init__(self, app: web.Application, connections: Connections, **more: Any) -> None:
        super().__init__(app, logger=log, **more)
        self._connections = connections

    @property
    def server(self) -> Any:
        """What makes the protocol of a new connection."""
        made = super().server
        return None if made is None else lambda: self._connections.guard(made())
