"""Known blocks go out as bytes, and come in: one at a time, between two steps, whatever requests do meanwhile.

Call it while no step is out: a step may still write to blocks of requests that have ended. Nothing is pinned from one
call to the next. A block that goes out is looked up by its id at the very moment at which it is copied; one that was
evicted by then is simply not there. A block that comes in takes a physical block, is written, becomes known and is at
once evictable like any other: it never takes a block from a request.
"""

from collections.abc import Callable, Sequence

from argosy_api.blocks import BlockId
from argosy_worker.core.batch import BlockStore
from argosy_worker.core.blocks import BlockPool


class Exchange:
    """Owned by the thread that owns the pool."""

    def __init__(self, pool: BlockPool, store: BlockStore, stored: Callable[[BlockId], object]) -> None:
        """`stored` is told the id of each block that came in."""
        self._pool = pool
        self._store = store
        self._stored = stored
        self._slack = pool.total // 64  # left to requests that generate, as at an admission

    def lacking(self, ids: Sequence[BlockId]) -> list[BlockId]:
        """Of the blocks that a hit on all of `ids` needs, those that are not in the cache, nor in host memory.

        The others become the most recently used ones, the last of them first.
        """
        kept = self._pool.window_blocks
        needed = ids if kept is None else ids[max(0, len(ids) - kept) :]
        found = [(block_id, self._pool.find(block_id)) for block_id in needed]
        blocks = [block for _, block in found if block is not None]
        self._pool.acquire(blocks)
        self._pool.release(blocks)
        for block_id, block in reversed(found):
            if block is None and block_id in self._pool.host:
                self._pool.host.touch(block_id)
        return [block_id for block_id in needed if not self._pool.knows(block_id)]

    def room(self) -> int:
        """Blocks that could come in without taking one from a request."""
        return max(0, self._pool.available - self._slack) if self._pool.caching else 0

    def read(self, block_id: BlockId) -> bytes | None:
        """The content of a block; None when neither the cache nor the host memory holds it (any more)."""
        self._settle()
        block, slot = self._pool.find(block_id), self._pool.host.find(block_id)
        if block is not None:
            return self._store.export(block)
        return None if slot is None else self._store.export_host(slot)

    def write(self, block_id: BlockId, content: bytes) -> bool:
        """Take a block in, under an id that says what it holds. False when there is no room.

        Raises:
            InvalidArgumentError: it has not the size of a block; nothing has changed.

        """
        pool = self._pool
        if pool.knows(block_id):
            return True
        if not self.room():
            return False
        table = pool.allocate(1)
        self._settle()
        try:
            self._store.import_(table[0], content)
            pool.store(table[0], block_id)
        finally:
            pool.release(table)
        self._stored(block_id)
        return True

    def _settle(self) -> None:
        """Make the moves that would go with the next step: blocks may have been taken since the last one."""
        self._store.move(self._pool.host.take_moves())
