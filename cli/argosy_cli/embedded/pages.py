"""Asking a server of ours over HTTP. No answer is an answer."""

from typing import Self

import aiohttp

_TIMEOUT = aiohttp.ClientTimeout(total=5.0)


class Pages:
    """GETs from one server; never through a proxy. Make it in a running event loop, and close it."""

    def __init__(self, address: str) -> None:
        """`address` is host:port."""
        self._session = aiohttp.ClientSession(f"http://{address}", timeout=_TIMEOUT, trust_env=False)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Drop the connections."""
        await self._session.close()

    async def get(self, path: str) -> bytes | None:
        """The body of a 200; None for every other answer, and for none."""
        try:
            async with self._session.get(path) as answer:
                return await answer.read() if answer.status == 200 else None
        except (aiohttp.ClientError, OSError):  # a timeout is an OSError too
            return None
