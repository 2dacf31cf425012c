"""One router's calls over one stream: it begins, cancels and pauses them, and what there is for any goes out together.

A call is a task that puts one event after another; all that were put since the last reply make the next one. So a step
of the engine costs one message for each router, however many requests it has here. A call has one chunk on its way at a
time: what is generated meanwhile is joined in its `Stream`, as for a reader of its own.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator

import grpc

from argosy_api import limits
from argosy_api.errors import InvalidArgumentError, OverloadedError
from argosy_api.grpc_status import Status, status_of
from argosy_api.v1 import worker_pb2 as pb

EVENT_BYTES = 16
"""What an event has beside its chunk, at least."""
REPLY_BYTES = 1024 * 1024
"""A reply that has so many takes no further event, so that it stays below what a message may have."""

Answer = Callable[[pb.SessionCall, Callable[[int], object]], AsyncGenerator[pb.GenerateChunk, None]]
"""Answers one call; tells its submission's number as soon as there is one. Its errors are the call's."""


class _Call:
    def __init__(self, number: int) -> None:
        self.number = number
        self.task: asyncio.Task[None] | None = None
        self.paused = False
        self.sending = False
        """Its latest chunk has not gone out yet."""
        self.free = asyncio.Event()
        """It may put another chunk."""

    def may_go_on(self) -> None:
        """Something has changed."""
        if self.paused or self.sending:
            self.free.clear()
        else:
            self.free.set()


class Session:
    """Iterate over its `replies`. They end with the last call, after the router has closed its side or `close`."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._calls: dict[int, _Call] = {}
        self._replies: list[pb.SessionReply] = []
        """What is to go out; the last one grows until it does."""
        self._size = 0
        """Bytes of that one."""
        self._wake = asyncio.Event()
        self._over = False

    def close(self) -> None:
        """End it after the calls that run."""
        self._over = True
        self._wake.set()

    async def replies(self, requests: AsyncIterator[pb.SessionRequest]) -> AsyncGenerator[pb.SessionReply, None]:
        """What there is for the router. Whenever it is left, all calls are cancelled.

        Raises:
            InvalidArgumentError: a number stands for two calls.

        """
        reading = asyncio.ensure_future(self._read(requests))
        try:
            while not (self._over and not self._calls and not self._replies):
                if not self._replies:
                    self._wake.clear()
                    await self._wake.wait()
                if reading.done() and not reading.cancelled() and (error := reading.exception()) is not None:
                    raise error
                if self._replies:
                    reply = self._replies.pop(0)
                    yield reply  # returns when it has gone out
                    self._sent(reply)
        finally:
            reading.cancel()
            for call in self._calls.values():
                if call.task is not None:
                    call.task.cancel()

    def _sent(self, reply: pb.SessionReply) -> None:
        for event in reply.events:
            call = self._calls.get(event.call)
            if call is not None and event.HasField("chunk"):
                call.sending = False
                call.may_go_on()

    def _event(self, number: int, size: int = 0) -> pb.SessionEvent:
        """One more, of a call, in the next reply; of so many bytes."""
        if not self._replies or self._size >= REPLY_BYTES:
            self._replies.append(pb.SessionReply())
            self._size = 0
        self._size += size + EVENT_BYTES
        self._wake.set()
        return self._replies[-1].events.add(call=number)

    async def _read(self, requests: AsyncIterator[pb.SessionRequest]) -> None:
        try:
            async for request in requests:
                for command in request.commands:
                    self._obey(command)
        finally:
            self.close()

    def _obey(self, command: pb.SessionCommand) -> None:
        what, call = command.WhichOneof("what"), self._calls.get(command.call)
        if what == "begin":
            if call is not None:
                raise InvalidArgumentError("call", f"{command.call} stands for a call that runs")
            call = self._calls[command.call] = _Call(command.call)
            call.task = asyncio.ensure_future(self._run(call, command.begin))
        elif call is None:
            return  # it has ended, and the router did not know yet
        elif what == "cancel":
            del self._calls[command.call]
            if call.task is not None:
                call.task.cancel()
        elif what == "pause":
            call.paused = command.pause
            call.may_go_on()

    async def _run(self, call: _Call, begin: pb.SessionCall) -> None:
        status: Status | None
        scope = asyncio.timeout(begin.timeout_seconds if begin.HasField("timeout_seconds") else None)
        try:
            async with scope:
                status = await self._stream(call, begin)
        except BaseException as error:
            if isinstance(error, TimeoutError) and scope.expired():
                status = Status(grpc.StatusCode.DEADLINE_EXCEEDED, "the deadline passed")
            elif (status := status_of(error)) is None:
                raise
        finally:
            if self._calls.get(call.number) is call:
                del self._calls[call.number]
            # both hold the task, and its error holds this frame: only the collector would free them
            call.task = None
            del scope
            self._wake.set()
        if status is not None:
            end = self._event(call.number, len(status.message)).end
            end.code, end.message = status.code.value[0], status.message
            end.trailing.update(status.trailing)

    async def _stream(self, call: _Call, begin: pb.SessionCall) -> Status | None:
        """None where the last chunk says that it was the last."""

        def accepted(number: int) -> None:
            self._event(call.number).accepted = number

        finished = False
        async with contextlib.aclosing(self._answer(begin, accepted)) as chunks:
            async for chunk in chunks:
                call.sending = True
                call.may_go_on()
                self._event(call.number, chunk.ByteSize()).chunk.CopyFrom(chunk)
                finished = bool(chunk.finish_reason)
                if not finished:
                    await call.free.wait()
        return None if finished else Status(grpc.StatusCode.OK, "")


class Sessions:
    """All of a worker."""

    def __init__(self) -> None:
        self._open: set[Session] = set()
        self._closed = False

    @contextlib.contextmanager
    def one(self, answer: Answer) -> Iterator[Session]:
        """One more, until the block is left.

        Raises:
            OverloadedError: there are as many as there may be.

        """
        if len(self._open) >= limits.MAX_SESSIONS:
            raise OverloadedError(f"this worker has all the {limits.MAX_SESSIONS} sessions that it takes at a time")
        session = Session(answer)
        if self._closed:
            session.close()
        self._open.add(session)
        try:
            yield session
        finally:
            self._open.discard(session)

    def close(self) -> None:
        """No call is to come any more: each ends with the last of those it has."""
        self._closed = True
        for session in self._open:
            session.close()
