"""The `Transport` of a reflector over HTTP. Needs aiohttp, which the router's and the operator's extras bring."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import aiohttp

from argosy_kube.access import Access
from argosy_kube.reflector import WatchError

LIST_TIMEOUT_S = 60.0
CONNECT_TIMEOUT_S = 10.0
_MAX_ERROR = 500


def session(access: Access) -> aiohttp.ClientSession:
    """For one API server: as many connections as there are watches."""
    tls = access.ssl_context() if access.server.startswith("https:") else True
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0, ssl=tls))


class HttpTransport:
    """Reads from the API server, on the caller's session."""

    def __init__(self, http: aiohttp.ClientSession, access: Access) -> None:
        self._http, self._access, self._server = http, access, access.server.rstrip("/")

    async def get(self, path: str, params: dict[str, str]) -> dict[str, Any]:
        """One JSON document.

        Raises:
            WatchError: no success, or no answer (status 0).

        """
        try:
            async with (
                asyncio.timeout(LIST_TIMEOUT_S),
                self._http.get(self._server + path, params=params, headers=self._access.headers()) as response,
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
