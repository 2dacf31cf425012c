"""HTTP connections: how many there may be, how long one may take for the head of its request, and TLS on them.

aiohttp bounds neither, so a client that sends one byte a minute would hold a connection for ever.
"""

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable
from typing import Any, Self, cast
from weakref import WeakSet

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from argosy_api import limits

log = logging.getLogger(__name__)

HEAD_S = 10.0
"""From the first byte of a request's head to its last; and for a handshake of TLS."""
IDLE_S = 75.0
"""Without any byte of a next request."""
SHUTDOWN_S = 5.0
"""For a client's last word in TLS, when its connection is closed."""
LOOK_S = 1.0
_SHOWN = 100

Security = Callable[[], ssl.SSLContext]
"""The TLS of a connection that begins now."""


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
        """With TLS only after the handshake; of one that fails nothing is told."""
        self.transport = cast("asyncio.WriteTransport", transport)
        self.transport.set_write_buffer_limits(high=limits.MAX_UNSENT_BYTES)
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

    def __init__(
        self,
        *,
        most: int = limits.MAX_CONNECTIONS,
        head_s: float = HEAD_S,
        idle_s: float = IDLE_S,
        security: Security | None = None,
    ) -> None:
        self._most = most
        self.head_s = head_s
        self._idle_s = idle_s
        self._guards: dict[Any, _Guard] = {}
        self._in_handshake: WeakSet[_Guard] = WeakSet()
        """Also those whose handshake has failed, until they are forgotten."""
        self.security = None if security is None else _OneForEach.of(security, self._admit)

    def __len__(self) -> int:
        """How many there are, with those in the handshake of TLS."""
        return len(self._guards) + len(self._in_handshake)

    def guard(self, handler: Any) -> asyncio.Protocol:
        """The protocol for a new connection, over aiohttp's own."""
        made = _Guard(self, handler)
        if self.security is not None:
            self._in_handshake.add(made)
        return made

    def _admit(self) -> None:
        if len(self) > self._most:
            raise ConnectionAbortedError("too many connections")

    def opened(self, handler: Any, guard: _Guard) -> None:
        """A connection came; one too many is closed at once."""
        self._in_handshake.discard(guard)
        self._guards[handler] = guard
        if len(self) > self._most:
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
                if not guard.busy and time - guard.since > (self.head_s if guard.heard else self._idle_s):
                    _abort(guard)
            for guard in list(self._in_handshake):
                if time - guard.since > self.head_s + LOOK_S:  # it has failed by now
                    self._in_handshake.discard(guard)


def _abort(guard: _Guard) -> None:
    if guard.transport is not None:
        guard.transport.abort()


class _OneForEach(ssl.SSLContext):
    """In place of one context for all connections of a listening socket: each asks for the one of its time."""

    _security: Security
    _admit: Callable[[], None]

    @classmethod
    def of(cls, security: Security, admit: Callable[[], None]) -> Self:
        """`admit` raises an OSError for a connection too many: before a handshake costs anything."""
        made = cls(ssl.PROTOCOL_TLS_SERVER)
        made._security, made._admit = security, admit
        return made

    def wrap_bio(self, *how: Any, **more: Any) -> ssl.SSLObject:
        self._admit()
        return self._security().wrap_bio(*how, **more)


class GuardedRunner(web.AppRunner):
    """aiohttp's runner; it gives each connection a guard. `listen` takes the place of sites."""

    def __init__(self, app: web.Application, connections: Connections, **more: Any) -> None:
        super().__init__(app, logger=log, **more)
        self._connections = connections

    @property
    def server(self) -> Any:
        """What makes the protocol of a new connection."""
        made = super().server
        return None if made is None else lambda: self._connections.guard(made())

    async def listen(self, listening: socket.socket, backlog: int) -> asyncio.Server:
        """Takes connections from now on. What is returned is the caller's to close."""
        loop, security = asyncio.get_running_loop(), self._connections.security
        if security is None:
            return await loop.create_server(self.server, sock=listening, backlog=backlog)
        return await loop.create_server(
            self.server,
            sock=listening,
            backlog=backlog,
            ssl=security,
            ssl_handshake_timeout=self._connections.head_s,
            ssl_shutdown_timeout=SHUTDOWN_S,
        )
