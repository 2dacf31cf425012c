"""A call of a worker, as whoever reads it sees it: on the session with that worker, or as an RPC of its own."""

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import grpc

from argosy_api.convert import ACCEPTED_KEY
from argosy_api.v1 import worker_pb2 as pb
from argosy_api.v1 import worker_pb2_grpc as rpc

Metadata = Sequence[tuple[str, str]]


class Call(Protocol):
    """One request at one worker."""

    async def read(self) -> pb.GenerateChunk | None:
        """The next chunk; None: there is none any more.

        Raises:
            grpc.aio.AioRpcError: what the call ended with.
            asyncio.CancelledError: it was cancelled, by us or by the worker.

        """
        ...

    def cancel(self) -> object:
        """Nobody reads it any more. May be called twice, and when it has ended."""
        ...


def nobody(_: int) -> None:
    """Is told when a call has ended: whoever was told before holds the call, and with it all of a request.

    Without this the collector alone would free that, and it comes seldom.
    """


class OwnCall:
    """An RPC of its own: `Generate`."""

    def __init__(
        self,
        stub: "rpc.WorkerAsyncStub",
        request: pb.GenerateRequest,
        *,
        timeout: float | None,
        metadata: Metadata | None,
        accepted: Callable[[int], object],
    ) -> None:
        """`accepted` is told the submission's number when the worker has taken the request."""
        self._accepted = accepted
        self._call = stub.Generate(request, timeout=timeout, metadata=metadata)
        self._listener = asyncio.ensure_future(self._note_acceptance())

    async def read(self) -> pb.GenerateChunk | None:
        """See `Call`."""
        chunk = await self._call.read()
        return chunk if isinstance(chunk, pb.GenerateChunk) else None  # grpc.aio.EOF

    def cancel(self) -> None:
        """See `Call`."""
        self._accepted = nobody
        self._listener.cancel()
        self._call.cancel()

    async def _note_acceptance(self) -> None:
        """Learns the submission's number, which the worker tells as soon as it has taken the request.

        Beside the wait for the first token, which often comes at once and must not wait for this.
        """
        # what is wrong with the call, its reader says; grpc.aio raises CancelledError for the end of a call, too
        with contextlib.suppress(grpc.aio.AioRpcError):
            number = _number(await self._call.initial_metadata(), ACCEPTED_KEY)
            if number is not None:
                self._accepted(number)


def _number(metadata: Iterable[Any] | None, key: str) -> int | None:
    """A whole number from metadata; None for anything else."""
    text = next((value for name, value in metadata or () if name == key), None)
    return int(text) if isinstance(text, str) and len(text) < 20 and text.isascii() and text.isdigit() else None
