"""The engine's blocks as the event loop sees them: read one, write one. Each is copied by the engine thread."""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import TypeVar

from argosy_api import limits
from argosy_api.blocks import BlockId
from argosy_api.errors import UnavailableError
from argosy_api.faults import is_fault
from argosy_worker.core.batch import BlockStore
from argosy_worker.core.exchange import Exchange
from argosy_worker.engine.rate import TransferRate
from argosy_worker.engine.thread import DEAD, EngineThread

T = TypeVar("T")


class BlockExchange:
    """All methods are for the event loop, and raise UnavailableError once the engine thread is dead."""

    def __init__(
        self, thread: EngineThread, exchange: Exchange, store: BlockStore, loop: asyncio.AbstractEventLoop
    ) -> None:
        self.layout = store.layout
        """See `BlockStore`."""
        self.bytes_per_block = store.bytes_per_block
        """Bytes of one block."""
        window = min(limits.TRANSFER_WINDOW_BLOCKS, limits.TRANSFER_WINDOW_BYTES // store.bytes_per_block)
        self.window = max(2, window)
        """Blocks that one transfer asks to be copied at once."""
        self.rate = TransferRate()
        """How fast blocks came from other workers."""
        self._thread, self._exchange, self._loop = thread, exchange, loop

    async def lacking(self, ids: Sequence[BlockId]) -> list[BlockId]:
        """What a hit on all of `ids` needs and the cache lacks; the rest are the most recently used ones then."""
        return await self._soon(lambda: self._exchange.lacking(ids), self._thread.ask)

    async def room(self) -> int:
        """Blocks that could come in now."""
        return await self._soon(self._exchange.room, self._thread.ask)

    async def read(self, block_id: BlockId) -> bytes | None:
        """The content of a block; None when the cache does not hold it."""
        return await self._soon(lambda: self._exchange.read(block_id), self._thread.copy)

    async def write(self, block_id: BlockId, content: bytes) -> bool:
        """Take a block in; False when there is no room. Raises InvalidArgumentError when the size is wrong."""
        return await self._soon(lambda: self._exchange.write(block_id, content), self._thread.copy)

    async def _soon(self, work: Callable[[], T], ask: Callable[[Callable[[], None]], None]) -> T:
        done: asyncio.Future[T] = self._loop.create_future()

        def settle(value: T | None, error: BaseException | None) -> None:
            if done.done():  # the caller has given up
                return
            if error is not None:
                done.set_exception(error)
            else:
                done.set_result(value)  # type: ignore[arg-type]  # what `work` gave, where it did not fail

        def job() -> None:
            value: T | None = None
            fault: BaseException | None = None
            try:
                value = work()
            except BaseException as error:
                if not is_fault(error):
                    raise
                fault = error
            with contextlib.suppress(RuntimeError):  # the event loop may be closed by now
                self._loop.call_soon_threadsafe(settle, value, fault)

        ask(job)
        if not self._thread.alive and not done.done():  # it died at this moment, and may not have seen the job
            raise UnavailableError(DEAD)
        return await done
