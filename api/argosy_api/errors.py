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
        ├── ModelDoesNotFitError  it takes more memory than the worker may have
        └── ModelDownloadError    the source could not be reached, or refused us

Clients get `message`; it never holds a path of the server, an address or a traceback of ours.
"""

from collections.abc import Iterator
from typing import ClassVar


class ArgosyError(Exception):
    """Root of all errors that a user may see."""

    status: ClassVar[str] = "INTERNAL"
    """Name of the gRPC status code; `grpc_status` maps it, so that what has no server needs no gRPC."""
    http_status: ClassVar[int] = 500
    reason: ClassVar[str] = "InternalError"
    """CamelCase, for conditions and for the OpenAI error object's `code`."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class InvalidArgumentError(ArgosyError):
    """A field of a request or of a resource is wrong. `field` is its path, as the caller wrote it."""

    status = "INVALID_ARGUMENT"
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

    status = "NOT_FOUND"
    http_status = 404
    reason = "NotFound"


class UnauthenticatedError(ArgosyError):
    """No or a wrong credential."""

    status = "UNAUTHENTICATED"
    http_status = 401
    reason = "Unauthenticated"


class OverloadedError(ArgosyError):
    """A bounded queue is full. `retry_after_s` is when another try makes sense."""

    status = "RESOURCE_EXHAUSTED"
    http_status = 429
    reason = "Overloaded"

    def __init__(self, message: str, *, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class UnavailableError(ArgosyError):
    """Nobody can serve this now: loading, draining, or the worker is gone."""

    status = "UNAVAILABLE"
    http_status = 503
    reason = "Unavailable"


class DeadlineError(ArgosyError):
    """The caller's deadline has passed."""

    status = "DEADLINE_EXCEEDED"
    http_status = 504
    reason = "DeadlineExceeded"


class CancelledError(ArgosyError):
    """Aborted by its caller."""

    status = "CANCELLED"
    http_status = 499
    reason = "Cancelled"


class InternalError(ArgosyError):
    """Our fault; the log has the cause."""


class ModelError(ArgosyError):
    """A model cannot be served. Its reasons are those of the ModelLoaded condition."""

    status = "FAILED_PRECONDITION"
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


class ModelDoesNotFitError(ModelError):
    """It takes more memory than the worker may have."""

    reason = "ModelDoesNotFit"


class ModelDownloadError(ModelError):
    """The source could not be reached, or refused us."""

    reason = "ModelDownloadFailed"


def every_error(root: type[ArgosyError] = ArgosyError) -> Iterator[type[ArgosyError]]:
    """All kinds of this page, the general before the special."""
    if root.__module__ == __name__:  # other parts have kinds of their own
        yield root
    for kind in root.__subclasses__():
        yield from every_error(kind)
