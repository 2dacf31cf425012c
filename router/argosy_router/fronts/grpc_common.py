"""What the gRPC services share."""

from collections.abc import Sequence
from typing import Any

import grpc

from argosy_api import limits
from argosy_router.clock import now
from argosy_router.fronts.request_ids import check_request_id, request_id

OPTIONS: Sequence[tuple[str, int]] = (
    ("grpc.so_reuseport", 0),  # a taken port is an error, not a second server behind the same port
    ("grpc.max_send_message_length", limits.MAX_GRPC_MESSAGE),
    ("grpc.max_receive_message_length", limits.MAX_CLIENT_MESSAGE),
    ("grpc.max_concurrent_streams", limits.MAX_CALLS),
    ("grpc.max_metadata_size", limits.MAX_METADATA_BYTES),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
)

Context = grpc.aio.ServicerContext[Any, Any]


def call_deadline(context: Context) -> float | None:
    """The client's deadline in monotonic seconds; None when it has none."""
    remaining: float | None = context.time_remaining()
    # grpc may also give a time far away for "none"
    return None if remaining is None or remaining > 10 * 365 * 86_400 else now() + remaining


def metadata_request_id(context: Context, given: str = "") -> str:
    """The id in the request, else the one in the metadata, else a new one."""
    if given:
        return check_request_id(given, field="request_id")
    found = dict(context.invocation_metadata() or ()).get("x-request-id", "")
    return request_id(found if isinstance(found, str) else found.decode("latin-1"))
