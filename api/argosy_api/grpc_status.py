"""Between our errors and a gRPC call's status: one mapping for all servers and clients of ours."""

import logging
from collections.abc import Iterable
from functools import partial
from types import TracebackType
from typing import Any, NamedTuple

import grpc

from argosy_api.errors import ArgosyError, InternalError, InvalidArgumentError, ModelError, OverloadedError, every_error
from argosy_api.faults import is_fault

log = logging.getLogger(__name__)

RETRY_AFTER_KEY = "retry-after-ms"
"""In the trailing metadata of RESOURCE_EXHAUSTED: when another try makes sense, in whole milliseconds."""
PUSHBACK_KEY = "grpc-retry-pushback-ms"
"""The same for gRPC's own retries (gRFC A6)."""
MAX_RETRY_AFTER_S = 3600.0

_GENERAL: tuple[type[ArgosyError], ...] = (InvalidArgumentError, ModelError)
"""Of the kinds that share a code with others, the one that stands for all."""
_BY_CODE: dict[grpc.StatusCode, type[ArgosyError]] = {
    grpc.StatusCode[kind.status]: kind for kind in (*every_error(), *_GENERAL)
}


def code_of(error: ArgosyError) -> grpc.StatusCode:
    """The status code of an error."""
    return grpc.StatusCode[error.status]


def error_of(code: grpc.StatusCode, message: str, trailing: Iterable[Any] | None = None) -> ArgosyError:
    """The error that a peer's status stands for; the inverse of what `errors_to_status` tells.

    `trailing` is the call's trailing metadata: pairs of a key and a text or bytes.
    """
    kind = _BY_CODE.get(code, InternalError)
    if issubclass(kind, InvalidArgumentError):
        field, _, problem = message.partition(": ")
        return InvalidArgumentError(field, problem) if problem else InvalidArgumentError("request", message)
    if issubclass(kind, OverloadedError):
        return OverloadedError(message, retry_after_s=_retry_after(trailing))
    return kind(message)


class Status(NamedTuple):
    """What a call ends with."""

    code: grpc.StatusCode
    message: str
    trailing: tuple[tuple[str, str], ...] = ()


def status_of(error: BaseException) -> Status | None:
    """How a peer is told of an error; None where it is none, but ends the task or the process.

    What is not ours is logged and told without details. That includes panics of libraries in Rust, which are no
    Exceptions. Call it where the error is handled: the log gets its traceback.
    """
    if isinstance(error, ArgosyError):
        trailing: tuple[tuple[str, str], ...] = ()
        if isinstance(error, OverloadedError):
            wait = str(round(1000 * min(error.retry_after_s, MAX_RETRY_AFTER_S)))
            trailing = ((RETRY_AFTER_KEY, wait), (PUSHBACK_KEY, wait))
        return Status(code_of(error), error.message, trailing)
    if not is_fault(error):
        return None
    log.error("a call failed", exc_info=error)  # gRPC would send its text, which may hold what is not the caller's
    return Status(grpc.StatusCode.INTERNAL, "internal error; the log has the cause")


def errors_to_status(context: grpc.aio.ServicerContext[Any, Any]) -> "_ErrorsToStatus":
    """A context manager in which errors become the call's status, as `status_of` says."""
    return _ErrorsToStatus(context)


class _ErrorsToStatus:
    """No generator, since every call has one of these, and few have an error."""

    __slots__ = ("_context",)

    def __init__(self, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        self._context = context

    async def __aenter__(self) -> None:
        """Nothing is to be done."""

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends the call where there is an error that it can be told."""
        if error is None or isinstance(error, grpc.aio.AbortError):
            return
        status = status_of(error)
        if status is None:
            return
        try:
            await self._context.abort(*status)
        except grpc.aio.AbortError as aborted:
            self._context.add_done_callback(partial(_let_go, aborted))  # type: ignore[arg-type]  # a class in the types
            raise


def _let_go(aborted: BaseException, _: object) -> None:
    """At the end of a call whose context holds this error. The frames that it passed hold the context, and with it the
    client's message: all that would wait for the collector, which counts objects, not bytes.
    """
    aborted.__traceback__ = aborted.__context__ = aborted.__cause__ = None


def _retry_after(trailing: Iterable[Any] | None) -> float:
    for key, value in trailing or ():
        if key == RETRY_AFTER_KEY and isinstance(value, str) and value.isascii() and value.isdigit():
            return min(int(value[:12]) / 1000, MAX_RETRY_AFTER_S)
    return 1.0
