"""The error tree, and its one mapping to gRPC status, HTTP status and condition reason.

    ArgosyError
    ├── InvalidArgumentError      a request or resource field is wrong; names the field      INVALID_ARGUMENT    400
    │   └── TooLargeError         a body or message over its limit                           INVALID_ARGUMENT    413
    ├── NotFoundError             no such model, or no such request                          NOT_FOUND           404
    ├── UnauthenticatedError      no or a wrong credential                                   UNAUTHENTICATED     401
    ├── OverloadedError           a bounded queue is full; try again later                   RESOURCE_EXHAUSTED  429
    ├── UnavailableError          loading, draining, or the worker is gone                   UNAVAILABLE         503
    ├── DeadlineError             the caller's deadline has passed                           DEADLINE_EXCEEDED   504
    ├── CancelledError            aborted by its caller                                      CANCELLED           499
    ├── InternalError             our fault                                                  INTERNAL            500
    └── ModelError                a model cannot be served                                   FAILED_PRECONDITION 500
        ├── ModelNotFoundError    the source has no such file, repository or package
        ├── ModelInvalidError     truncated, corrupt or hostile file
        ├── ModelUnsupportedError a sound file that this version cannot run
        └── ModelDownloadError    the source could not be reached, or refused us

Clients get `message`; it never holds a path of the server, an address or a traceback of ours.
"""

from typing import ClassVar

import grpc


class ArgosyError(Exception):
    """Root of all errors that a user may see."""

    grpc_code: ClassVar[grpc.StatusCode] = grpc.StatusCode.INTERNAL
    http_status: ClassVar[int] = 500
    reason: ClassVar[str] = "InternalError"
    """CamelCase, for conditions and for the OpenAI error object's `code`."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class InvalidArgumentError(ArgosyError):
    """A field of a request or of a resource is wrong. `field` is its path, as the caller wrote it."""

    grpc_code = grpc.StatusCode.INVALID_ARGUMENT
    http_status = 400
    reason = "InvalidArgument"

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field
        self.problem = problem


class TooLargeError(InvalidArgumentError):
    """A body or message over its limit."""

    http_status = 413
    reason = "TooLarge"


class NotFoundError(ArgosyError):
    """No such model or request."""

    grpc_code = grpc.StatusCode.NOT_FOUND
    http_status = 404
    reason = "NotFound"


class UnauthenticatedError(ArgosyError):
    """No or a wrong credential."""

    grpc_code = grpc.StatusCode.UNAUTHENTICATED
    http_status = 401
    reason = "Unauthenticated"


class OverloadedError(ArgosyError):
    """A bounded queue is full. `retry_after_s` is when another try makes sense."""

    grpc_code = grpc.StatusCode.RESOURCE_EXHAUSTED
    http_status = 429
    reason = "Overloaded"

    def __init__(self, message: str, *, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class UnavailableError(ArgosyError):
    """Nobody can serve this now: loading, draining, or the worker is gone."""

    grpc_code = grpc.StatusCode.UNAVAILABLE
    http_status = 503
    reason = "Unavailable"


class DeadlineError(ArgosyError):
    """The caller's deadline has passed."""

    grpc_code = grpc.StatusCode.DEADLINE_EXCEEDED
    http_status = 504
    reason = "DeadlineExceeded"


class CancelledError(ArgosyError):
    """Aborted by its caller."""

    grpc_code = grpc.StatusCode.CANCELLED
    http_status = 499
    reason = "Cancelled"


class InternalError(ArgosyError):
    """Our fault; the log has the cause."""


class ModelError(ArgosyError):
    """A model cannot be served. Its reasons are those of the ModelLoaded condition."""

    grpc_code = grpc.StatusCode.FAILED_PRECONDITION
    reason = "ModelError"


class ModelNotFoundError(ModelError):
    """The source has no such file, repository or package."""

    reason = "ModelNotFound"


class ModelInvalidError(ModelError):
    """Truncated, corrupt or hostile file."""

    reason = "ModelInvalid"


class ModelUnsupportedError(ModelError):
    """A sound file that this version cannot run."""

    reason = "ModelUnsupported"


class ModelDownloadError(ModelError):
    """The source could not be reached, or refused us."""

    reason = "ModelDownloadFailed"


_BY_CODE: dict[grpc.StatusCode, type[ArgosyError]] = {
    grpc.StatusCode.NOT_FOUND: NotFoundError,
    grpc.StatusCode.UNAUTHENTICATED: UnauthenticatedError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: OverloadedError,
    grpc.StatusCode.UNAVAILABLE: UnavailableError,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineError,
    grpc.StatusCode.CANCELLED: CancelledError,
    grpc.StatusCode.FAILED_PRECONDITION: ModelError,
}


def from_status(code: grpc.StatusCode, message: str) -> ArgosyError:
    """The error that a peer's gRPC status stands for; the inverse of `grpc_code`."""
    if code is grpc.StatusCode.INVALID_ARGUMENT:
        field, _, problem = message.partition(": ")
        return InvalidArgumentError(field, problem) if problem else InvalidArgumentError("request", message)
    return _BY_CODE.get(code, InternalError)(message)
