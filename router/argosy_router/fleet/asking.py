"""Asks a worker how it is, within a time that is the worker's own."""

import asyncio

from argosy_api.v1 import worker_pb2 as pb
from argosy_router.clock import PARTS
from argosy_router.fleet.peer import Peer


async def load_of(worker: Peer, seconds: float) -> pb.Load:
    """Its answer to `GetLoad`. What this process stood still does not count: a call's deadline would not know of that.

    Raises:
        TimeoutError: it did not answer within so many seconds.
        AioRpcError: it refused, or its connection broke.

    """
    call = asyncio.ensure_future(_load(worker))
    try:
        for _ in range(PARTS):
            await asyncio.wait((call,), timeout=seconds / PARTS)
            if call.done():
                return call.result()
    finally:
        call.cancel()
    raise TimeoutError(f"no answer within {seconds:g} s")


async def _load(worker: Peer) -> pb.Load:
    return await worker.stub.GetLoad(pb.GetLoadRequest())
