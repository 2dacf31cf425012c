"""The choices of one request, a bounded number of them under way at a time, each begun in a turn of its own."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Self, TypeVar

from argosy_api import limits
from argosy_api.v1 import worker_pb2 as pb
from argosy_router.relay import Flight
from argosy_router.request import Request
from argosy_router.routing.job import Job
from argosy_router.service import Service

T = TypeVar("T")
R = TypeVar("R")


class Volley:
    """The streams of a request's jobs, merged. `start` it, then take its `chunks`."""

    def __init__(self, service: Service, request: Request, jobs: Sequence[Job]) -> None:
        self.jobs = jobs
        self._request = request
        self._service = service
        self._stack = AsyncExitStack()
        self._flights: dict[int, Flight] = {}
        self._closers: dict[int, AsyncExitStack] = {}

    async def __aenter__(self) -> Self:
        """Nothing is under way yet."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends what still is."""
        await self._stack.aclose()

    @property
    def delivered(self) -> int:
        """Tokens handed on, of all choices."""
        return sum(f.delivered for f in self._flights.values())

    @property
    def cached_tokens(self) -> list[int]:
        """Of each choice's prompt, in order."""
        return [self._flights[i].cached_tokens for i in range(len(self.jobs))]

    @property
    def cached_so_far(self) -> list[int]:
        """The same while some have not begun: those have 0."""
        return [self._flights[i].cached_tokens if i in self._flights else 0 for i in range(len(self.jobs))]

    async def start(self) -> Flight:
        """Until the first ones, as many as may fly at once, have their first token; the very first of them.

        Raises:
            ArgosyError: one of them got none.

        """
        await each(range(min(len(self.jobs), limits.MAX_FLYING)), self._open)
        return self._flights[0]

    async def chunks(self) -> AsyncGenerator[tuple[int, pb.GenerateChunk], None]:
        """The chunks of all choices as they come, with the choice's number."""
        if len(self.jobs) == 1:
            async for chunk in self._flights[0]:
                yield 0, chunk
            return
        waiting = iter(range(len(self._flights), len(self.jobs)))
        pending = {asyncio.ensure_future(self._next(i)): i for i in self._flights}
        try:
            while pending:
                done, _ = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    i = pending.pop(task)
                    found = task.result()
                    if found is not None:
                        yield i, found
                        pending[asyncio.ensure_future(self._next(i))] = i
                    else:
                        await self._closers[i].aclose()
                        if (j := next(waiting, None)) is not None:
                            pending[asyncio.ensure_future(self._next(j))] = j
        finally:
            for task in pending:
                task.cancel()
            await asyncio.gather(*pending, return_exceptions=True)

    async def _open(self, i: int) -> None:
        closer = self._closers[i] = await self._stack.enter_async_context(AsyncExitStack())
        self._flights[i] = await closer.enter_async_context(self._service.flying(self._request, self.jobs[i]))

    async def _next(self, i: int) -> pb.GenerateChunk | None:
        if i not in self._flights:
            await self._open(i)
        return await anext(self._flights[i], None)


async def each(items: Sequence[T], work: Callable[[T], Awaitable[R]]) -> list[R]:
    """All results, in order; at most MAX_FLYING are under way. The first error cancels the rest."""
    places = asyncio.Semaphore(limits.MAX_FLYING)

    async def one(item: T) -> R:
        async with places:
            return await work(item)

    tasks: list[asyncio.Task[R]] = []
    try:
        for item in items:
            tasks.append(asyncio.ensure_future(one(item)))
            await asyncio.sleep(0)  # to begin costs a millisecond: others get their turn in between
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
