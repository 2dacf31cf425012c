"""Forwards one Generate stream, exactly once: the current attempt and the next index only.

Before the first token a worker that is gone costs the client nothing but time: the request goes to another one, up to
`attempts` in all. After the first token the client is told how much it has got. Whatever happens, the worker's call is
cancelled, so that its blocks come free.
"""

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Awaitable, Callable, Iterable
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc

from argosy_api.convert import ACCEPTED_KEY, params_to_proto
from argosy_api.errors import (
    ArgosyError,
    DeadlineError,
    InternalError,
    UnavailableError,
)
from argosy_api.v1 import worker_pb2 as pb
from argosy_router.clock import now
from argosy_router.fleet.peer import ACQUAINTANCE_S, Peer
from argosy_router.lost import NO_FAULT, Lost, meaning
from argosy_router.metrics import Metrics
from argosy_router.prefill import prefill
from argosy_router.routing.dispatch import Assignment, Decision, Dispatcher, Job, no_worker

log = logging.getLogger(__name__)

AGAIN_S = 0.1
"""Before a worker is tried again, where there is no other."""
HOPE_S = 0.01
"""Before another look whether a new worker is known by now."""
FIRST_TOKEN_S = 30.0
FIRST_TOKEN_FACTOR = 10.0
"""No token within FIRST_TOKEN_S, nor within so many times the estimate: another worker is tried, if there is one."""

T = TypeVar("T")
Call = grpc.aio.UnaryStreamCall[pb.GenerateRequest, pb.GenerateChunk]


def _nothing(decision: Decision) -> None: ...


class Flight:
    """One job on its way. `start` it, iterate over its chunks, `close` it (or use it as a context manager)."""

    def __init__(
        self,
        job: Job,
        dispatcher: Dispatcher,
        metrics: Metrics,
        *,
        attempts: int,
        taken: Callable[[Decision], object] = _nothing,
    ) -> None:
        """`taken` is called when a worker has taken the job, which may be before its first token; again for another."""
        self.job = job
        self.delivered = 0
        """Tokens handed on."""
        self.cached_tokens = 0
        """Prompt tokens that the worker found in its cache."""
        self._dispatcher = dispatcher
        self._metrics = metrics
        self._attempts = attempts
        self._taken = taken
        self._attempt = 0
        self._excluded: frozenset[str] = frozenset()
        self._assignment: Assignment | None = None
        self._computed_by: Peer | None = None
        self._call: Call | None = None
        self._listener: asyncio.Future[None] | None = None
        self._first: list[pb.GenerateChunk] = []
        self._received = 0
        self._finished = False
        self._last_error: ArgosyError | None = None  # of a worker that refused: tells more than that no other is left
        self._request = pb.GenerateRequest(
            request_id=f"{job.request_id[:100]}-{secrets.token_hex(6)}",
            prompt_tokens=job.tokens,
            sampling=params_to_proto(job.params),
            cache_salt=job.cache_salt,
            priority=job.priority,
        )

    @property
    def decision(self) -> Decision:
        """Where the job went last. Only after `start`."""
        if self._assignment is None:
            raise InternalError("the request was not started")
        return self._assignment.decision

    async def start(self) -> Self:
        """Until a worker has sent the first token.

        Raises:
            ArgosyError: what the worker answered, or UNAVAILABLE when no worker could be had.

        """
        hope_until = now() + ACQUAINTANCE_S
        self._computed_by = await prefill(
            self.job, self._dispatcher, self._metrics, f"{self._request.request_id[:100]}-prompt"
        )
        while True:
            try:
                self._open()
            except UnavailableError as error:
                if not self._excluded and self.job.deployment.hopeful and now() < hope_until:
                    await asyncio.sleep(HOPE_S)
                    continue
                if not self._excluded and self.job.deployment.holds:  # the last worker has just gone
                    await self._wait_for_a_worker()
                    continue
                if self._last_error or not self._excluded:
                    raise self._last_error or error from None
                # nobody else is there: a worker that was lost a moment ago may be well again (a connection that broke)
                self._excluded = frozenset()
                await asyncio.sleep(AGAIN_S)
                continue
            try:
                await self._read_first()
            except Lost as lost:
                self._excluded |= {self.decision.worker}
                self._give_up(lost)
                if self._attempt >= self._attempts:
                    raise lost.error or UnavailableError(no_worker(self.job.deployment, tried=self._attempt)) from None
                self._last_error = lost.error
                self._metrics.retries.labels(self.job.deployment.name, lost.why).inc()
            else:
                return self

    async def _wait_for_a_worker(self) -> None:
        state = self.job.deployment
        until = (self.job.received_at or now()) + state.spec.hold_s
        await state.room.wait(until, self.job.deadline, lambda: no_worker(state, tried=0))

    def _open(self) -> None:
        self._first.clear()
        remaining = None
        if self.job.deadline is not None:
            remaining = self.job.deadline - now()
            if remaining <= 0:
                raise DeadlineError("the deadline passed before a worker had answered")
        self._assignment = self._dispatcher.assign(
            self.job, self._excluded, computed_by=self._computed_by, abandon=self._abandon
        )
        self._attempt += 1
        self._request.attempt = self._attempt
        self._request.kv_source = self._assignment.source
        if self._attempt == 1 and self.job.received_at:
            self._metrics.added.observe(now() - self.job.received_at)
        self._call = self._assignment.worker.stub.Generate(self._request, timeout=remaining)
        self._listener = asyncio.ensure_future(_note_acceptance(self._call, self._assignment, self._taken))

    async def _read_first(self) -> None:
        """Chunks up to the first token; within bounds, where another worker could do better."""
        limit: float | None = None
        if self._attempt < self._attempts and self._others():
            limit = max(FIRST_TOKEN_S, FIRST_TOKEN_FACTOR * self.decision.cost_s)
        try:
            async with asyncio.timeout(limit):
                while not self._first or not (self._first[-1].token_ids or self._finished):
                    self._first.append(await self._read())
        except TimeoutError:
            raise Lost("slow", f"no token within {limit:.0f} s", eject=False) from None

    def _abandon(self) -> None:
        """The worker hangs: end the attempt, if another may do better (`_awaited` takes it for a lost worker)."""
        if self._call is not None and self._attempt < self._attempts and self._others():
            self._call.cancel()

    def _others(self) -> bool:
        return self._dispatcher.others(self.job, self._excluded | {self.decision.worker})

    async def _awaited(self, answer: Awaitable[T]) -> T:
        """What the call answers; its end becomes `Lost`, or the error that the worker meant."""
        try:
            return await answer
        except grpc.aio.AioRpcError as error:
            found = meaning(error, self.job.request_id)
            if isinstance(found, InternalError) and self._assignment is not None:
                self._assignment.failed()
            raise found from None
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling() or self._call is None:
                raise
            # grpc.aio raises this for a CANCELLED status of the peer, too: a server that is shut down
            raise Lost("unavailable", "CANCELLED by the worker, or found hanging") from None

    def _give_up(self, lost: Lost) -> None:
        assignment = self._assignment
        if assignment is None:
            return
        log.info(
            "request %s: worker %s: %s (attempt %d)",
            self.job.request_id,
            assignment.decision.worker,
            lost,
            self._attempt,
        )
        if lost.eject:
            assignment.worker.eject(now())
        if lost.why not in NO_FAULT:
            assignment.failed()
        self._release()

    async def _read(self) -> pb.GenerateChunk:
        """The next valid chunk; checks what promise 2 wants and keeps the books."""
        call, assignment = self._call, self._assignment
        if call is None or assignment is None:
            raise InternalError("the request was not started")
        while True:
            chunk = await self._awaited(call.read())
            if not isinstance(chunk, pb.GenerateChunk):  # grpc.aio.EOF
                raise Lost("closed", "the stream ended before it was finished")
            if chunk.attempt != self._attempt:
                continue  # of an attempt that is over
            count = len(chunk.token_ids)
            if count:
                if chunk.index != self._received:
                    raise Lost("sequence", f"sent token {chunk.index} instead of {self._received}")
                self._received += count
                assignment.tokens(count)
            if chunk.HasField("usage"):
                self.cached_tokens = chunk.usage.cached_tokens
            if chunk.finish_reason == pb.FINISH_REASON_ABORT:
                raise Lost("aborted", "aborted the request (it is draining)")
            if chunk.finish_reason != pb.FINISH_REASON_UNSPECIFIED:
                self._finished = True
            return chunk

    def __aiter__(self) -> Self:
        """Chunks, in order, each once."""
        return self

    async def __anext__(self) -> pb.GenerateChunk:
        """The next chunk; ends after the one with a finish reason.

        Raises:
            UnavailableError: the worker was lost in mid-stream; says how many tokens were delivered.

        """
        if self._first:
            chunk = self._first.pop(0)
        elif self._finished:
            raise StopAsyncIteration
        else:
            try:
                chunk = await self._read()
            except Lost as lost:
                self._give_up(lost)
                raise UnavailableError(
                    f"the worker was lost after {self.delivered} tokens were delivered; the rest was not generated"
                ) from None
        self.delivered += len(chunk.token_ids)
        return chunk

    def _release(self) -> None:
        if self._listener is not None:
            self._listener.cancel()
            self._listener = None
        if self._call is not None:
            self._call.cancel()
            self._call = None
        if self._assignment is not None:
            self._assignment.close()

    def close(self) -> None:
        """Cancels what still runs and closes the books. May be called twice."""
        self._release()

    async def __aenter__(self) -> Self:
        """Starts."""
        try:
            return await self.start()
        except BaseException:
            self.close()
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes."""
        self.close()


async def _note_acceptance(call: Call, assignment: Assignment, taken: Callable[[Decision], object]) -> None:
    """Learns the submission's number, which the worker tells as soon as it has taken the request.

    Beside the wait for the first token, which often comes at once and must not wait for this.
    """
    # what is wrong with the call, its reader says; grpc.aio raises CancelledError for the end of a call, too
    with contextlib.suppress(grpc.aio.AioRpcError):
        number = _number(await call.initial_metadata(), ACCEPTED_KEY)
        if number is not None:
            assignment.accepted(number)
            taken(assignment.decision)


def _number(metadata: Iterable[Any] | None, key: str) -> int | None:
    """A whole number from metadata; None for anything else."""
    text = next((value for name, value in metadata or () if name == key), None)
    return int(text) if isinstance(text, str) and len(text) < 20 and text.isascii() and text.isdigit() else None
