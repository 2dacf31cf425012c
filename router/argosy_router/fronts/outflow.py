"""What a stream sends its client. One that takes nothing for too long is gone.

One timer looks after all writes of a stream: one for each write costs as much as the write.
"""

import asyncio
from types import TracebackType
from typing import Self

from aiohttp import web


class Outflow:
    """Of one response, which is prepared. A context manager."""

    def __init__(self, http: web.Request, response: web.StreamResponse, *, patience_s: float) -> None:
        """A write that takes longer than `patience_s` ends the connection, and with it whoever answers."""
        self._http = http
        self._response = response
        self._patience_s = patience_s
        self._loop = asyncio.get_running_loop()
        self._waiting_since: float | None = None
        self._timer = self._loop.call_later(patience_s, self._look)

    async def write(self, data: bytes) -> None:
        """Returns when there is room for more. Raises ConnectionError when the client is gone."""
        self._waiting_since = self._loop.time()
        await self._response.write(data)
        self._waiting_since = None

    async def end(self) -> None:
        """The answer is whole. Raises as `write`."""
        self._waiting_since = self._loop.time()
        await self._response.write_eof()
        self._waiting_since = None

    def _look(self) -> None:
        time = self._loop.time()
        due = (time if self._waiting_since is None else self._waiting_since) + self._patience_s
        if due > time:
            self._timer = self._loop.call_at(due, self._look)
        elif self._http.transport is not None:
            self._http.transport.abort()

    def __enter__(self) -> Self:
        """Looks from now on."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Looks no more."""
        self._timer.cancel()
