"""The `Transport` of a reflector over HTTP. Needs aiohttp, which the router's and the operator's extras bring."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from typing import TYPE_CHECKING, Any

import aiohttp

from argosy_kube.access import Access
from argosy_kube.reflector import WatchError

if TYPE_CHECKING:
    from aiohttp.abc import AbstractStreamWriter
    from aiohttp.connector import Connection
    from aiohttp.tracing import Trace

LIST_TIMEOUT_S = 60.0
CONNECT_TIMEOUT_S = 10.0
_MAX_ERROR = 500
IDLE_S = 60.0
"""So long a connection is kept that nobody uses. API servers keep theirs for 90 s; a new one costs a handshake."""
_READING = ("GET", "HEAD", "OPTIONS")


class WriteRefusedError(aiohttp.ClientConnectionError):
    """Nothing was sent: this process may change nothing now."""


def _always() -> bool:
    return True


class _Gate(aiohttp.TCPConnector):
    """Gives no connection to a request that changes something while nothing may be changed.

    It is asked when the connection is there, since making one may take long, and the process may stand still meanwhile.
    """

    def __init__(self, may_write: Callable[[], bool], tls: ssl.SSLContext | bool) -> None:
        super().__init__(limit=0, ssl=tls, keepalive_timeout=IDLE_S)
        self._may_write = may_write

    async def connect(
        self,
        req: aiohttp.ClientRequest,
        traces: "list[Trace]",
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109 - as it is called by aiohttp
    ) -> "Connection":
        connection = await super().connect(req, traces, timeout)
        if req.method not in _READING and not self._may_write():
            connection.release()
            raise WriteRefusedError(f"{req.method} {req.url.path}: another process may be the one that writes")
        return connection


def _gated_request(may_write: Callable[[], bool]) -> type[aiohttp.ClientRequest]:
    """Requests that are asked about once more when their body is written, which is in a later turn of the event loop.

    Without its body a request is none: the connection is closed, and the server does nothing.
    """

    class Gated(aiohttp.ClientRequest):
        async def write_bytes(
            self, writer: "AbstractStreamWriter", conn: "Connection", content_length: int | None = None
        ) -> None:
            if self.method in _READING or may_write():
                await super().write_bytes(writer, conn, content_length)
                return
            if conn.protocol is not None:
                conn.protocol.set_exception(WriteRefusedError(f"{self.method} {self.url.path}: not any more"))
            conn.close()

    return Gated


def session(
    access: Access, may_write: Callable[[], bool] = _always, headers: Mapping[str, str] | None = None
) -> aiohttp.ClientSession:
    """For one API server: as many connections as there are watches.

    While `may_write` is false, what would change something raises `WriteRefusedError`. `headers` go with each request.
    """
    tls = access.ssl_context() if access.server.startswith("https:") else True
    return aiohttp.ClientSession(
        connector=_Gate(may_write, tls), request_class=_gated_request(may_write), headers=headers
    )


class HttpTransport:
    """Reads from the API server, on the caller's session."""

    def __init__(self, http: aiohttp.ClientSession, access: Access) -> None:
        self._http, self._access, self._server = http, access, access.server.rstrip("/")

    async def get(self, path: str, params: dict[str, str]) -> dict[str, Any]:
        """One JSON document.

        Raises:
            WatchError: no success, or no answer (status 0).

        """
        return await self._json("GET", path, params=params)

    async def write(self, method: str, path: str, document: dict[str, Any]) -> dict[str, Any]:
        """Create (POST) or replace (PUT) an object; as it is then.

        Raises:
            WatchError: no success, or no answer (status 0), so that it may have been done.

        """
        return await self._json(method, path, json=document)

    async def _json(self, method: str, path: str, **more: Any) -> dict[str, Any]:
        try:
            async with (
                asyncio.timeout(LIST_TIMEOUT_S),
                self._http.request(method, self._server + path, headers=self._access.headers(), **more) as response,
            ):
                await _check(response)
                answer: dict[str, Any] = await response.json()
                return answer
        except (TimeoutError, aiohttp.ClientError, ValueError, OSError) as error:
            raise WatchError(0, str(error) or type(error).__name__) from error

    async def stream(self, path: str, params: dict[str, str]) -> AsyncIterator[bytes]:
        """The body in pieces, as they come.

        Raises:
            WatchError: no success, or no answer (status 0).

        """
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S)
        try:
            async with self._http.get(
                self._server + path, params=params, headers=self._access.headers(), timeout=timeout
            ) as response:
                await _check(response)
                async for piece in response.content.iter_any():
                    yield piece
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise WatchError(0, str(error) or type(error).__name__) from error


async def body_of(response: aiohttp.ClientResponse, *, most: int) -> bytes:
    """The whole body. (`content.read(n)` gives what has come by then.)

    Raises:
        ValueError: it has more than `most` bytes.

    """
    parts, size = list[bytes](), 0
    async for part in response.content.iter_any():
        size += len(part)
        if size > most:
            raise ValueError(f"an answer of more than {most} bytes")
        parts.append(part)
    return b"".join(parts)


async def _check(response: aiohttp.ClientResponse) -> None:
    if response.status >= 400:
        text = (await response.content.read(_MAX_ERROR)).decode(errors="replace")
        raise WatchError(response.status, " ".join(text.split()))
