"""Blocks that this worker lacks, fetched from another one that has them, where a request's `kv_source` says so.

It is only ever a shortcut: whatever goes wrong, or takes longer than computing would, the request begins with the
blocks that came, and computes the rest. A source that failed is left alone for a while.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Sequence

import grpc

from argosy_api import limits
from argosy_api.blocks import BlockId
from argosy_api.errors import InvalidArgumentError
from argosy_api.v1 import worker_pb2 as pb
from argosy_api.v1 import worker_pb2_grpc
from argosy_worker.engine.client import Engine
from argosy_worker.engine.metrics import WorkerMetrics

log = logging.getLogger(__name__)

STALL_S = 2.0
"""A source that sends nothing for so long is given up: it is gone, or cannot be reached."""
AVOID_S = 10.0
"""So long a source that failed is not asked again."""
OPTIONS: list[tuple[str, int]] = [
    ("grpc.max_receive_message_length", limits.MAX_GRPC_MESSAGE),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
    ("grpc.enable_retries", 0),
]


class WrongBlocksError(Exception):
    """The source sent something else than what was asked for."""


class Imports:
    """So many at a time; more requests compute. Lives on the event loop."""

    def __init__(self, engine: Engine, metrics: WorkerMetrics) -> None:
        self._engine = engine
        self._metrics = metrics
        self._running = 0
        self._avoided: dict[str, float] = {}

    async def fetch(self, source: str, ids: Sequence[BlockId]) -> int:
        """Bring in what of `ids`, the leading blocks of a prompt, is not here yet. Returns how many came."""
        now = time.monotonic()
        self._avoided = {address: until for address, until in self._avoided.items() if until > now}
        if source in self._avoided or self._running >= limits.MAX_TRANSFERS:
            self._metrics.imported("refused", 0)
            return 0
        self._running += 1
        try:
            wanted = await self._wanted(ids)
            return await self._transfer(source, wanted) if wanted else 0
        finally:
            self._running -= 1

    async def _wanted(self, ids: Sequence[BlockId]) -> Sequence[BlockId]:
        blocks = self._engine.blocks
        lacking = await blocks.lacking(ids)
        most = min(await blocks.room(), limits.MAX_TRANSFER_BLOCKS, limits.MAX_TRANSFER_BYTES // blocks.bytes_per_block)
        return lacking[:most]

    async def _transfer(self, source: str, ids: Sequence[BlockId]) -> int:
        blocks = self._engine.blocks
        began = time.monotonic()
        writing = _Writing(self._engine)
        result = "failed"
        try:
            async with asyncio.timeout(self._limit_s(len(ids))):
                await _receive(source, self._engine, ids, writing)
            result = "whole" if writing.written == len(ids) else "part"
        except (TimeoutError, WrongBlocksError, InvalidArgumentError, grpc.aio.AioRpcError) as error:
            why = error.code().name if isinstance(error, grpc.aio.AioRpcError) else str(error) or "took too long"
            log.warning(
                "blocks from %s: %s after %d of %d; the rest is computed", source, why, writing.written, len(ids)
            )
            self._avoided[source] = time.monotonic() + AVOID_S
        finally:
            await writing.end()
        if writing.written:
            blocks.rate.add(writing.written * blocks.bytes_per_block, time.monotonic() - began)
            self._metrics.transfer_rate.set(blocks.rate.measured)
        await blocks.lacking(ids)  # leading ones last, so that of a prompt the tail is evicted first
        self._metrics.imported(result, writing.written)
        return writing.written

    def _limit_s(self, count: int) -> float:
        """As long as computing the blocks would take, as far as that is known."""
        rate = self._engine.view.prefill_rate
        computing = count * self._engine.config.block_size / rate if rate else limits.TRANSFER_S
        return min(limits.TRANSFER_S, max(STALL_S, computing))


class _Writing:
    """Blocks on their way into the cache, a few at a time."""

    def __init__(self, engine: Engine) -> None:
        self._blocks = engine.blocks
        self._tasks: deque[asyncio.Task[bool]] = deque()
        self.written = 0

    async def add(self, block_id: BlockId, content: bytes) -> bool:
        """Write one block; False once there is no room."""
        self._tasks.append(asyncio.ensure_future(self._blocks.write(block_id, content)))
        return await self._wait(self._blocks.window)

    async def flush(self) -> None:
        """Until all are written."""
        await self._wait(0)

    async def end(self) -> None:
        """Begin no more; what has begun is not waited for."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _wait(self, left: int) -> bool:
        room = True
        while len(self._tasks) > left:
            room = await self._tasks.popleft() and room
            self.written += room
        return room


async def _receive(source: str, engine: Engine, ids: Sequence[BlockId], writing: _Writing) -> None:
    """Ask for blocks, check that they are those, and write them.

    Raises:
        AioRpcError: the source is gone, or refuses.
        TimeoutError: it sends nothing.
        WrongBlocksError: it sends something else.

    """
    size = engine.blocks.bytes_per_block
    async with grpc.aio.insecure_channel(source, options=OPTIONS) as channel:
        stub: worker_pb2_grpc.WorkerAsyncStub = worker_pb2_grpc.WorkerStub(channel)
        request = pb.ExportBlocksRequest(
            fingerprint=engine.facts.fingerprint, kv_layout=engine.blocks.layout, block_ids=ids
        )
        call = stub.ExportBlocks(request, timeout=limits.TRANSFER_S)
        try:
            for block_id in ids:
                content = bytearray()
                while len(content) < size:
                    async with asyncio.timeout(STALL_S):
                        part = await call.read()
                    if not isinstance(part, pb.BlockPart):  # grpc.aio.EOF: it has no more of them
                        if content:
                            raise WrongBlocksError("ended within a block")
                        await writing.flush()
                        return
                    if part.block_id != block_id or part.block_bytes != size or not part.content:
                        raise WrongBlocksError("sent another block than the next one asked for")
                    content += part.content
                if not await writing.add(block_id, bytes(content)):
                    return
            await writing.flush()
        finally:
            call.cancel()
