"""What the end of a worker's call means: the request may try another worker, or what its client is to be told."""

import logging

import grpc

from argosy_api.errors import ArgosyError, DeadlineError, InternalError
from argosy_api.grpc_status import error_of

log = logging.getLogger(__name__)

Code = grpc.StatusCode
_LOST = frozenset({Code.UNAVAILABLE, Code.CANCELLED, Code.UNKNOWN, Code.UNIMPLEMENTED})
"""What a call ends with when its worker dies, drains or is cut off; nobody but us cancels our calls. No worker knows
nothing of our calls: another process has its address, as a pod may have that of one which has just ended."""


DEATHS = frozenset({"unavailable", "reset", "closed"})
"""Why an attempt is over whose worker may have died, or was cut off."""
NO_FAULT = frozenset({"full", "aborted"})
"""Why an attempt is over of which the worker's revision can't be blamed: it has much to do, or is to end."""


class Lost(Exception):  # noqa: N818 - no error that a client sees
    """The attempt is over, and another worker may do better. `error` is what to tell if none does."""

    def __init__(self, why: str, message: str, *, error: ArgosyError | None = None, eject: bool = True) -> None:
        super().__init__(message)
        self.why = why
        self.error = error
        self.eject = eject
        """Whether the worker is to be passed over for a while."""


def meaning(error: grpc.aio.AioRpcError, request_id: str) -> Lost | ArgosyError:
    """The exception that a call's error stands for."""
    code, details = error.code(), error.details() or ""
    if code is Code.DEADLINE_EXCEEDED:
        return DeadlineError("the deadline passed")
    if code is Code.RESOURCE_EXHAUSTED:
        full = error_of(code, details or "the worker's queue is full", error.trailing_metadata())
        return Lost("full", details, error=full, eject=False)
    if code in _LOST:
        return Lost("unavailable", f"{code.name}: {details}")
    if code is Code.INTERNAL and "RST_STREAM" in details:
        return Lost("reset", details)
    if code in (Code.INTERNAL, Code.DATA_LOSS):
        log.error("request %s: worker failed: %s: %s", request_id, code.name, details)
        return InternalError(f"the worker failed (request {request_id})")
    return error_of(code, details)
