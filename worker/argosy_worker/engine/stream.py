"""The stream of one request's answer, from the engine to whoever reads it. Lives on the event loop."""

import asyncio
import contextlib
import time
from dataclasses import dataclass, field

from argosy_api import limits
from argosy_api.errors import ArgosyError, OverloadedError
from argosy_worker.core.batch import TokenLogprob
from argosy_worker.core.request import Finish


@dataclass(frozen=True, slots=True)
class Usage:
    """What a request cost, in tokens."""

    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int


@dataclass(slots=True, kw_only=True)
class Piece:
    """A piece of an answer. Chunks of one request can be joined: a message costs more than a token."""

    index: int
    """Of tokens[0] among the generated tokens."""
    tokens: list[int] = field(default_factory=list)
    text: str = ""
    logprobs: list[TokenLogprob] = field(default_factory=list)
    prompt_logprobs: list[TokenLogprob] = field(default_factory=list)
    embedding: list[float] = field(default_factory=list)
    finish: Finish | None = None
    stop_reason: str = ""
    usage: Usage | None = None

    def join(self, later: "Piece") -> None:
        """Append the chunk that follows this one."""
        self.tokens += later.tokens
        self.text += later.text
        self.logprobs += later.logprobs
        self.prompt_logprobs += later.prompt_logprobs
        self.finish, self.stop_reason = later.finish, later.stop_reason
        self.usage = later.usage or self.usage


class Stream:
    """Chunks on their way to one reader.

    Chunks that the reader has not taken yet are joined, so a slow reader gets fewer and larger ones. What waits is
    bounded: a reader that is `MAX_STREAM_CHUNKS` tokens behind is given up. With an `interval` a reader gets chunks no
    faster than that, but for the first and the last: a message costs both sides more than its tokens do.
    """

    def __init__(self, request_id: str, attempt: int, *, number: int) -> None:
        self.request_id = request_id
        self.attempt = attempt
        self.number = number
        """Of this submission among all that the engine took, from 1."""
        self.usage: Usage | None = None
        """The newest one that was put."""
        self.finish: Finish | None = None
        """Why it ended, once the last chunk is in."""
        self.first_at = 0.0
        """When the first chunk came; monotonic seconds."""
        self.interval = 0.0
        """Seconds from one chunk to the next, at least."""
        self.done = False
        """Nothing more will be put: the last chunk or an error is in."""
        self._chunk: Piece | None = None
        self._error: ArgosyError | None = None
        self._ready = asyncio.Event()
        self._ended = asyncio.Event()
        self._next_at = 0.0

    def put(self, chunk: Piece) -> bool:
        """Add a chunk; False when the reader is too slow, and then the stream has ended with an error."""
        if self.done:
            return True
        if self._chunk is None:
            self._chunk = chunk
        elif len(self._chunk.tokens) >= limits.MAX_STREAM_CHUNKS:
            self.fail(
                OverloadedError(f"the reader is {limits.MAX_STREAM_CHUNKS} tokens behind; the request was given up")
            )
            return False
        else:
            self._chunk.join(chunk)
        if chunk.usage is not None:
            self.usage = chunk.usage
        if not self.first_at:
            self.first_at = time.monotonic()
        if chunk.finish is not None:
            self.finish = chunk.finish
            self._end()
        self._ready.set()
        return True

    def fail(self, error: ArgosyError) -> None:
        """End the stream with an error, after what is already in it."""
        if not self.done:
            self._error = error
            self._end()
            self._ready.set()

    def _end(self) -> None:
        self.done = True
        self._ended.set()

    def __aiter__(self) -> "Stream":
        return self

    async def __anext__(self) -> Piece:
        """The next chunk.

        Raises:
            StopAsyncIteration: the last chunk was taken.
            ArgosyError: the request failed.

        """
        while self._chunk is None:
            if self._error is not None:
                raise self._error
            if self.done:
                raise StopAsyncIteration
            self._ready.clear()
            await self._ready.wait()
        if self.interval:
            await self._until_next()
        chunk, self._chunk = self._chunk, None
        return chunk

    async def _until_next(self) -> None:
        """Returns when the next chunk may be taken; what comes meanwhile is joined to it."""
        if not self.done and (wait := self._next_at - time.monotonic()) > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._ended.wait()
        self._next_at = time.monotonic() + self.interval
