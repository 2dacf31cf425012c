"""All calls to one worker over one stream: what an RPC for each would cost both sides is paid once a step.

The stream is opened with the first call, and again by the next call after it broke. With it all its calls end, as RPCs
of one connection do.
"""

import asyncio
import contextlib
import copy
from collections import deque
from collections.abc import Callable

import grpc

from argosy_api import limits
from argosy_api.v1 import worker_pb2 as pb
from argosy_api.v1 import worker_pb2_grpc as rpc
from argosy_router.fleet.calls import Metadata, nobody

MESSAGE_BYTES = 1024 * 1024
"""A message that has so many takes no further command, so that it stays below what one may have."""
COMMAND_BYTES = 16
"""What a command has beside a request, at least."""
UNREAD_CHUNKS = 16
"""Where a call has so many that nobody has read, its worker is told to pause; and to go on when all are read."""

_CODES: dict[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}
_PATIENT = grpc.StatusCode.RESOURCE_EXHAUSTED


class SessionCall:
    """One of them (a `Call`)."""

    def __init__(self, session: "Session", number: int, accepted: Callable[[int], object]) -> None:
        self.number = number
        self._session = session
        self._accepted = accepted
        self._chunks: deque[pb.GenerateChunk] = deque()
        self._reader: asyncio.Future[None] | None = None
        self._ended = False
        self._error: grpc.aio.AioRpcError | None = None
        self._cancelled = False
        self._paused = False
        self._timer: asyncio.TimerHandle | None = None

    async def read(self) -> pb.GenerateChunk | None:
        """See `Call`."""
        chunks = self._chunks
        while not chunks:
            if self._cancelled:
                raise asyncio.CancelledError
            if (why := self._error) is not None:
                self._error = None  # once: it holds the frames that it passes, and they hold the call
                try:
                    raise why
                finally:
                    del why
            if self._ended:
                return None
            self._reader = asyncio.get_running_loop().create_future()
            await self._reader
        chunk = chunks.popleft()
        while chunks and _follows(chunks[0], chunk):  # whoever reads is behind: a chunk costs him more than its tokens
            _join(chunk, chunks.popleft())
        if self._paused and not chunks and not self._ended:
            self._pause(yes=False)
            self._session.pause(self.number, yes=False)
        return chunk

    def cancel(self) -> None:
        """See `Call`."""
        if not self._ended:
            self._session.cancel(self.number)
            self._end(None)
        self._cancelled = True
        self._chunks.clear()

    def end_after(self, seconds: float) -> None:
        """Set its deadline, which the worker was told, too."""
        self._timer = asyncio.get_running_loop().call_later(seconds, self._expire)

    # --- from the session

    def take(self, event: pb.SessionEvent) -> bool:
        """Something came. False: it was the last."""
        what = event.WhichOneof("what")
        if what == "chunk":
            self._take(event.chunk)
        elif what == "accepted":
            self._accepted(event.accepted)
        elif what == "end":
            end = event.end
            code = _CODES.get(end.code, grpc.StatusCode.UNKNOWN)
            self._end(None if code is grpc.StatusCode.OK else error(code, end.message, dict(end.trailing)))
        return not self._ended

    def fail(self, why: grpc.aio.AioRpcError) -> None:
        """The session ended."""
        self._end(why)

    def _take(self, chunk: pb.GenerateChunk) -> None:
        chunks = self._chunks
        chunks.append(chunk)
        if chunk.finish_reason:
            self._end(None)
            return
        if len(chunks) >= UNREAD_CHUNKS and not self._paused:
            self._pause(yes=True)
            self._session.pause(self.number, yes=True)
        elif len(chunks) >= limits.MAX_STREAM_CHUNKS:  # no worker of ours goes on so long when it was told to pause
            self._session.cancel(self.number)
            self._end(error(_PATIENT, f"{limits.MAX_STREAM_CHUNKS} chunks are unread"))
            return
        self._wake()

    def _expire(self) -> None:
        self._session.cancel(self.number)
        self._end(error(grpc.StatusCode.DEADLINE_EXCEEDED, "the deadline passed"))

    def _end(self, why: grpc.aio.AioRpcError | None) -> None:
        if not self._ended:
            self._ended, self._error = True, why
            self._accepted = nobody
            self._pause(yes=False)
            if self._timer is not None:
                self._timer.cancel()
        self._wake()

    def _pause(self, *, yes: bool) -> None:
        self._session.paused += yes - self._paused
        self._paused = yes

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)


def _follows(later: pb.GenerateChunk, chunk: pb.GenerateChunk) -> bool:
    return later.attempt == chunk.attempt and later.index == chunk.index + len(chunk.token_ids)


def _join(chunk: pb.GenerateChunk, later: pb.GenerateChunk) -> None:
    """Appends what follows it."""
    index, text = chunk.index, chunk.text + later.text
    chunk.MergeFrom(later)
    chunk.index, chunk.text = index, text


class Session:
    """With one worker. Event loop only."""

    def __init__(self, stub: "rpc.WorkerAsyncStub") -> None:
        self.refused = False
        """The worker does not know sessions, whatever it said: another process has its address."""
        self.paused = 0
        """Calls of which nobody reads what has come."""
        self._stub = stub
        self._count = 0
        self._calls: dict[int, SessionCall] = {}
        self._messages: list[pb.SessionRequest] = []
        """What is to be sent; the last one grows until it is."""
        self._size = 0
        """Bytes of that one."""
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def begin(
        self,
        request: pb.GenerateRequest,
        *,
        timeout: float | None,
        metadata: Metadata | None,
        accepted: Callable[[int], object],
    ) -> SessionCall:
        """A call. `accepted`: see `OwnCall`."""
        self._count += 1
        call = self._calls[self._count] = SessionCall(self, self._count, accepted)
        begin = self._command(call.number, request.ByteSize()).begin
        begin.request.CopyFrom(request)  # straight into the message: each copy takes as long as the prompt is
        if metadata:
            begin.trace.update(metadata)
        if timeout is not None:
            begin.timeout_seconds = timeout
            call.end_after(timeout)
        if self._task is None:
            self._task = asyncio.ensure_future(self._run())
        return call

    def pause(self, number: int, *, yes: bool) -> None:
        """The worker is to send nothing more of a call for now, or to go on."""
        self._command(number).pause = yes

    def _command(self, number: int, size: int = 0) -> pb.SessionCommand:
        """One more, about a call, in the next message; of so many bytes."""
        if not self._messages or self._size >= MESSAGE_BYTES:
            self._messages.append(pb.SessionRequest())
            self._size = 0
        self._size += size + COMMAND_BYTES
        self._wake.set()
        return self._messages[-1].commands.add(call=number)

    def cancel(self, number: int) -> None:
        """Nothing more of a call is wanted."""
        if self._calls.pop(number, None) is None:
            return
        waiting = [command for message in self._messages for command in message.commands if command.call == number]
        if not any(command.HasField("begin") for command in waiting):
            self._command(number).cancel = True
            return
        for message in self._messages:  # the worker has never heard of it
            kept = [command for command in message.commands if command.call != number]
            if len(kept) < len(message.commands):
                message.CopyFrom(pb.SessionRequest(commands=kept))

    async def _run(self) -> None:
        stream = self._stub.Session()  # type: ignore[call-arg]  # requests are written: the types know iterators only
        writing = asyncio.ensure_future(self._write(stream))
        why = error(grpc.StatusCode.UNAVAILABLE, "the session ended")
        try:
            while isinstance(reply := await stream.read(), pb.SessionReply):
                for event in reply.events:
                    call = self._calls.get(event.call)
                    if call is not None and not call.take(event):
                        self._calls.pop(event.call, None)
        except grpc.aio.AioRpcError as failed:
            why = failed
            if failed.code() is grpc.StatusCode.UNIMPLEMENTED:
                self.refused = True
                why = error(grpc.StatusCode.UNAVAILABLE, "the worker does not know sessions")
            elif failed.code() is grpc.StatusCode.INTERNAL and "RST_STREAM" not in (failed.details() or ""):
                # What is wrong with a request, an event says. This is of the stream: whatever status a server ends it
                # with, grpc.aio has INTERNAL for it where a write has met the end.
                why = error(grpc.StatusCode.UNAVAILABLE, f"the session ended: {failed.details()}")
        except asyncio.CancelledError:  # also for a CANCELLED of the worker, and for a channel that was closed
            why = error(grpc.StatusCode.CANCELLED, "the session was cancelled")
        finally:
            writing.cancel()
            stream.cancel()
            calls, self._calls, self._messages, self._task = self._calls, {}, [], None
            for call in calls.values():  # each its own: it gathers the frames that it passes
                call.fail(copy.copy(why))

    async def _write(self, stream: "grpc.aio.StreamStreamCall[pb.SessionRequest, pb.SessionReply]") -> None:
        # what is wrong with the stream its reader says; InvalidStateError: it has ended
        with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            while True:
                await self._wake.wait()
                self._wake.clear()
                while self._messages:
                    message = self._messages.pop(0)
                    if message.commands:
                        await stream.write(message)


def error(code: grpc.StatusCode, details: str, trailing: dict[str, str] | None = None) -> grpc.aio.AioRpcError:
    """As a call of its own would end."""
    metadata = grpc.aio.Metadata(*(trailing or {}).items())
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), metadata, details, "")
