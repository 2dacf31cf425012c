"""Blocks of this worker's cache, for another worker that lacks them."""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Iterator, Sequence

from argosy_api import limits
from argosy_api.blocks import ID_BYTES, BlockId
from argosy_api.errors import DeadlineError, InvalidArgumentError, OverloadedError
from argosy_api.v1 import worker_pb2 as pb
from argosy_worker.engine.client import Engine
from argosy_worker.engine.metrics import WorkerMetrics


class Exports:
    """So many at a time. Lives on the event loop."""

    def __init__(self) -> None:
        self._running = 0

    async def stream(
        self, engine: Engine, request: pb.ExportBlocksRequest, metrics: WorkerMetrics
    ) -> AsyncIterator[pb.BlockPart]:
        """The blocks asked for, up to the first that is not cached here.

        Raises:
            InvalidArgumentError: another model or block layout than ours, or ids that are none.
            OverloadedError: too many others are being served.
            DeadlineError: the reader took too long.

        """
        _check(engine, request)
        with self._place():
            try:
                async with asyncio.timeout(limits.TRANSFER_S):
                    await engine.blocks.lacking(request.block_ids)  # they become the most recently used ones
                    async for block_id, content in _contents(engine, request.block_ids):
                        for part in _parts(content):
                            yield pb.BlockPart(block_id=block_id, block_bytes=len(content), content=part)
                        metrics.exported.inc()
            except TimeoutError:
                raise DeadlineError(f"blocks are sent for {limits.TRANSFER_S:g} s at most") from None

    @contextlib.contextmanager
    def _place(self) -> Iterator[None]:
        if self._running >= limits.MAX_TRANSFERS:
            raise OverloadedError(f"this worker sends blocks to {limits.MAX_TRANSFERS} others at a time")
        self._running += 1
        try:
            yield
        finally:
            self._running -= 1


async def _contents(engine: Engine, ids: Sequence[BlockId]) -> AsyncIterator[tuple[BlockId, bytes]]:
    """Each block with its content, while the next ones are copied."""
    reads: deque[tuple[BlockId, asyncio.Task[bytes | None]]] = deque()
    rest = iter(ids)
    try:
        while True:
            while len(reads) < engine.blocks.window and (block_id := next(rest, None)) is not None:
                reads.append((block_id, asyncio.ensure_future(engine.blocks.read(block_id))))
            if not reads:
                return
            first, read = reads.popleft()
            content = await read
            if content is None:
                return
            yield first, content
    finally:
        for _, read in reads:
            read.cancel()


def _parts(content: bytes) -> Iterator[bytes]:
    size = limits.TRANSFER_PART_BYTES
    for begin in range(0, len(content), size):
        yield content[begin : begin + size]


def _check(engine: Engine, request: pb.ExportBlocksRequest) -> None:
    if request.fingerprint != engine.facts.fingerprint:
        raise InvalidArgumentError("fingerprint", "is not that of the model served here")
    if request.kv_layout != engine.blocks.layout:
        raise InvalidArgumentError("kv_layout", f"is not that of the blocks here: {engine.blocks.layout}")
    if len(request.block_ids) > limits.MAX_TRANSFER_BLOCKS:
        raise InvalidArgumentError(
            "block_ids", f"has {len(request.block_ids)} entries; at most {limits.MAX_TRANSFER_BLOCKS}"
        )
    for i, block_id in enumerate(request.block_ids):
        if len(block_id) != ID_BYTES:
            raise InvalidArgumentError(f"block_ids[{i}]", f"has {len(block_id)} bytes; an id has {ID_BYTES}")
