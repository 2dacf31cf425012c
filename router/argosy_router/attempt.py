"""One attempt at one worker: its call, its account there, and which of its chunks count."""

import asyncio
from collections.abc import Callable, Sequence

import grpc

from argosy_api.errors import ArgosyError, InternalError
from argosy_api.v1 import worker_pb2 as pb
from argosy_router.clock import now
from argosy_router.lost import DEATHS, NO_FAULT, Lost, meaning
from argosy_router.routing.dispatch import Assignment, Decision


class Attempt:
    """A call that is under way. Close it, and nothing of it counts any more."""

    def __init__(
        self,
        assignment: Assignment,
        request: pb.GenerateRequest,
        *,
        timeout: float | None,
        taken: Callable[[Decision], object],
        metadata: Sequence[tuple[str, str]] | None = None,
    ) -> None:
        self.assignment = assignment
        self.accepted = False
        """Whether the worker has taken the request."""
        self.received = len(request.resumed_tokens)
        """Tokens of the answer that are there: the next one has this index."""
        self.number = request.attempt
        self._request_id = request.request_id
        self._abandoned: tuple[str, str, bool] | None = None
        """Why, once it is: what `Lost` says."""
        self._taken = taken
        self._call = assignment.worker.generate(
            request, timeout=timeout, metadata=metadata, accepted=self._note_acceptance
        )

    async def read(self) -> pb.GenerateChunk:
        """The next valid chunk; checks what promise 2 wants and keeps the books.

        Raises:
            Lost: the attempt is over.
            ArgosyError: what the worker refused, or failed at.

        """
        while True:
            chunk = await self._next()
            if chunk is None:
                raise Lost("closed", "the stream ended before it was finished")
            if chunk.attempt != self.number:
                continue  # of an attempt that is over
            self.assignment.worker.heard_at = now()
            count = len(chunk.token_ids)
            if count:
                if chunk.index != self.received:
                    raise Lost("sequence", f"sent token {chunk.index} instead of {self.received}")
                self.accepted = True
                self.received += count
                self.assignment.tokens(count)
            if chunk.finish_reason == pb.FINISH_REASON_ABORT:
                raise Lost("aborted", "aborted the request (it is draining)")
            return chunk

    def abandon(self, why: str, message: str, *, eject: bool) -> None:
        """Another worker may do better: whoever reads gets `Lost`, which has these words."""
        self._abandoned = why, message, eject
        self._call.cancel()

    def died(self, lost: Lost) -> bool:
        """Whether the worker died while it had the request, as far as can be told."""
        return self.accepted and lost.why in DEATHS

    def give_up(self, lost: Lost) -> None:
        """The worker is lost for this request."""
        if lost.eject:
            self.assignment.worker.eject(now())
        if lost.why not in NO_FAULT:
            self.assignment.failed()
        self.close()

    def close(self) -> None:
        """Cancel what still runs, and close the books. May be called twice."""
        self._call.cancel()
        self.assignment.close()

    async def _next(self) -> pb.GenerateChunk | None:
        """What the call answers; its end becomes `Lost`, or the error that the worker meant."""
        try:
            return await self._call.read()
        except grpc.aio.AioRpcError as error:
            raise self._meaning(error) from None
        except asyncio.CancelledError:
            if _cancelled_here():
                raise
            if self._abandoned is not None:
                word, message, eject = self._abandoned
                raise Lost(word, message, eject=eject) from None
            # grpc.aio raises this for a CANCELLED status of the peer, too: a server that is shut down
            raise Lost("unavailable", "CANCELLED by the worker") from None

    def _meaning(self, error: grpc.aio.AioRpcError) -> Lost | ArgosyError:
        found = meaning(error, self._request_id)
        if isinstance(found, InternalError):
            self.assignment.failed()
        return found

    def _note_acceptance(self, number: int) -> None:
        """The worker has taken it, as its submission with this number."""
        self.accepted = True
        self.assignment.accepted(number)
        self._taken(self.assignment.decision)


def _cancelled_here() -> bool:
    """Whether somebody here cancelled this task. No frame that an error passes may hold the task, which holds it."""
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0
