"""The way of one request over routers: what is sent next, what counts of what comes, and when to give up. No I/O."""

from dataclasses import dataclass

import grpc

from argosy.answer import Piece
from argosy.routers import Routers
from argosy_api.backoff import Backoff
from argosy_api.errors import DeadlineError, OverloadedError, UnavailableError
from argosy_api.grpc_status import error_of
from argosy_api.v1 import worker_pb2 as pb

PATIENCE_S = 15.0
"""Without a new token for so long, and with all that was tried since in vain, a request is given up."""
BACKOFF = Backoff(first=0.05, cap=1.0)

Code = grpc.StatusCode
_LOST = frozenset({Code.UNAVAILABLE, Code.CANCELLED, Code.UNKNOWN})
"""What a call ends with when its router dies, drains or is cut off; nobody but us cancels our calls."""


@dataclass(frozen=True, slots=True)
class Try:
    """What to send, to which router, and how many seconds the call may take."""

    router: int
    request: pb.InferenceRequest
    timeout: float | None


class OutOfOrderError(Exception):
    """A chunk was not the one that is due: nothing of its call counts any more."""


class Way:
    """Of one request. Ask `next_try`, feed it with `take`, tell `failed`; `done` when `finished` or given up."""

    def __init__(self, request: pb.InferenceRequest, routers: Routers, *, timeout: float | None, now: float) -> None:
        """`timeout`: seconds for all of it."""
        self.finished = False
        self._request = request
        self._routers = routers
        self._deadline = None if timeout is None else now + timeout
        self._heard_at = now
        self._failures = 0
        self._count = 0  # tokens that came
        routers.came(now)

    def done(self) -> None:
        """It has ended, in whatever way. Call it once."""
        self._routers.went()

    def next_try(self, now: float) -> Try:
        """The next call. Raises DeadlineError when there is no time left."""
        left = None if self._deadline is None else self._deadline - now
        if left is not None and left <= 0:
            raise DeadlineError(f"the deadline passed after {self._count} tokens")
        return Try(self._routers.pick(now), self._request, left)

    def take(self, chunk: pb.GenerateChunk, now: float) -> Piece:
        """A chunk of the present call. Raises OutOfOrderError."""
        if chunk.token_ids:
            if chunk.index != self._count:
                raise OutOfOrderError(f"token {chunk.index} came when {self._count} was due")
            self._note(chunk)
            self._heard_at, self._failures = now, 0
        if chunk.text and self._count:
            self._request.resume.text_bytes += len(chunk.text.encode())
        self.finished = chunk.finish_reason != pb.FINISH_REASON_UNSPECIFIED
        return Piece.of(chunk)

    def _note(self, chunk: pb.GenerateChunk) -> None:
        self._count += len(chunk.token_ids)
        resume = self._request.resume
        resume.tokens.extend(chunk.token_ids)
        resume.attempt = chunk.attempt
        if chunk.resume_token:
            resume.token = chunk.resume_token

    def failed(self, router: int, problem: Exception | None, now: float) -> float:
        """The present call is over, but not the answer. Returns the seconds to wait before the next try.

        Raises:
            ArgosyError: there is no next one: what the router said, or UnavailableError.

        """
        if not isinstance(problem, grpc.RpcError):
            return self._again(router, str(problem or "the stream ended before it was finished"), now)
        code, details = problem.code(), problem.details() or ""
        if code in _LOST or (code is Code.INTERNAL and "RST_STREAM" in details):
            return self._again(router, f"{code.name}: {details}", now)
        if code is Code.DEADLINE_EXCEEDED:
            raise DeadlineError(f"the deadline passed after {self._count} tokens")
        meant = error_of(code, details, problem.trailing_metadata())
        if isinstance(meant, OverloadedError):
            return self._later(meant, now)
        raise meant

    def _again(self, router: int, why: str, now: float) -> float:
        other = self._routers.failed(router, now)
        self._failures += 1
        if now - self._heard_at >= PATIENCE_S:
            raise UnavailableError(f"given up after {self._count} tokens and {self._failures} tries: {why}")
        if self._count and not self._request.resume.token:
            raise UnavailableError(f"the router was lost after {self._count} tokens, and said not how to go on")
        if not self._routers.may_retry(now):
            raise UnavailableError(f"too many requests are being sent once more: {why}")
        return 0.0 if other and self._failures == 1 else BACKOFF.jittered(self._failures)

    def _later(self, why: OverloadedError, now: float) -> float:
        """A router is full: once more when it says so, if there is time until then."""
        wait = why.retry_after_s
        late = self._deadline is not None and now + wait >= self._deadline
        if late or now + wait - self._heard_at >= PATIENCE_S or not self._routers.may_retry(now):
            raise why
        return wait
