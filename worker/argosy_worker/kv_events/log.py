"""The KV event log: what the prefix cache holds, and the last changes of it. In memory, on the event loop.

It mirrors the set of known blocks from the engine's changes, so a snapshot never waits for a step. Whoever follows (the
Redis publisher, a router's subscription) keeps a cursor and asks what came after it; a follower that fell behind the
ring gets a snapshot, which replaces all that was said before. So nobody has a queue of its own, and nobody can be too
slow.
"""

import asyncio
from collections import deque

from argosy_api import limits
from argosy_api.blocks import BlockId
from argosy_api.v1 import worker_pb2 as pb
from argosy_worker.core.blocks import CacheChange

NOTHING = -1
"""Cursor of a follower that knows nothing yet. It gets a snapshot, even an empty one: that voids an earlier epoch."""
TOKENS_FIRST_S = 0.005
"""Followers hear of a step so much later: its tokens go out first, and routers read them before they count blocks."""


class KvEventLog:
    """Batches of one epoch, numbered from 1 without gaps."""

    def __init__(self, epoch: int, *, capacity: int = limits.MAX_EVENT_BACKLOG) -> None:
        self.epoch = epoch
        self.seq = 0
        """Of the newest batch; 0 when there is none."""
        self._blocks: dict[BlockId, None] = {}  # in the order of storing, so parents come before children
        self._ring: deque[pb.KvEventBatch] = deque(maxlen=capacity)
        self._news = asyncio.Event()
        self.closed = False

    def append(self, change: CacheChange) -> None:
        """Take in what one engine step changed."""
        self.seq += 1
        for block in change.removed:
            self._blocks.pop(block, None)
        self._blocks.update(dict.fromkeys(change.stored))
        self._ring.append(pb.KvEventBatch(epoch=self.epoch, seq=self.seq, stored=change.stored, removed=change.removed))
        self._wake()

    def close(self) -> None:
        """No more batches will come: those who wait are woken up."""
        self.closed = True
        self._wake()

    def snapshot(self) -> pb.KvEventBatch:
        """The whole cache, as of the newest batch."""
        return pb.KvEventBatch(epoch=self.epoch, seq=self.seq, snapshot=True, stored=self._blocks)

    def after(self, cursor: int) -> list[pb.KvEventBatch]:
        """Batches after number `cursor`, in order; one snapshot where they are no longer at hand."""
        if cursor == self.seq:
            return []
        oldest = self._ring[0].seq if self._ring else self.seq + 1
        if not oldest - 1 <= cursor < self.seq:
            return [self.snapshot()]
        return [self._ring[i] for i in range(cursor + 1 - oldest, len(self._ring))]

    async def wait_beyond(self, cursor: int) -> None:
        """Return once there is something after `cursor`, or the log is closed."""
        while cursor == self.seq and not self.closed:
            await self._news.wait()
            await asyncio.sleep(TOKENS_FIRST_S)

    def _wake(self) -> None:
        self._news.set()
        self._news = asyncio.Event()
