"""Requests that were taken and wait for blocks from elsewhere before the engine thread begins with them."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from argosy_api.blocks import BlockId
from argosy_api.faults import is_fault
from argosy_worker.core.request import Request
from argosy_worker.engine.report import Queued
from argosy_worker.engine.stream import Stream

log = logging.getLogger(__name__)

Prepare = Callable[[Sequence[BlockId]], Awaitable[object]]
"""Gets the ids of the blocks that the prompt can use, and brings in what it can."""


@dataclass(frozen=True, slots=True)
class _Waiting:
    request: Request
    task: "asyncio.Task[None]"


class Preparing:
    """Lives on the event loop. Whatever comes of the preparation, the request begins."""

    def __init__(self, begin: Callable[[Request, Stream], object]) -> None:
        self._begin = begin
        self._waiting: dict[Stream, _Waiting] = {}

    def add(self, request: Request, stream: Stream, prepare: Prepare) -> None:
        """Prepare a request, then begin with it."""
        task = asyncio.ensure_future(self._prepare(request, stream, prepare))
        self._waiting[stream] = _Waiting(request, task)

    def begin(self, stream: Stream) -> None:
        """Begin now, prepared or not; does nothing for a request that is not here."""
        waiting = self._waiting.pop(stream, None)
        if waiting is not None:
            waiting.task.cancel()
            self._begin(waiting.request, stream)

    def drop(self, stream: Stream) -> None:
        """Nobody wants the answer any more."""
        waiting = self._waiting.pop(stream, None)
        if waiting is not None:
            waiting.task.cancel()

    def queued(self) -> list[Queued]:
        """Who is here, for the load report: what is left to compute if the preparation succeeds."""
        requests = [waiting.request for waiting in self._waiting.values()]
        return [Queued(len(r.tokens) - r.usable_blocks * r.block_size, r.arrival, r.priority) for r in requests]

    async def _prepare(self, request: Request, stream: Stream, prepare: Prepare) -> None:
        try:
            await prepare(request.ids[: request.usable_blocks])
        except BaseException as error:
            if not is_fault(error):
                raise
            log.exception("request %s: its blocks could not be fetched; they are computed", request.request_id)
        if self._waiting.pop(stream, None) is not None:
            self._begin(request, stream)
