"""What both clients know of their connections."""

from collections.abc import Sequence

from argosy_api import limits
from argosy_api.errors import InvalidArgumentError

OPTIONS: list[tuple[str, int]] = [
    ("grpc.keepalive_time_ms", 15_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.ping_timeout_ms", 5_000),  # 60 s by default, whatever the keepalive's timeout is
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.max_receive_message_length", limits.MAX_GRPC_MESSAGE),
    ("grpc.max_send_message_length", limits.MAX_CLIENT_MESSAGE),
    ("grpc.enable_retries", 0),  # a second try is ours, and counted
]

Metadata = Sequence[tuple[str, str]]


def check_addresses(addresses: Sequence[str]) -> None:
    """Raises InvalidArgumentError where there is no router to ask, or one is named as for HTTP."""
    if not addresses or not all(addresses):
        raise InvalidArgumentError("addresses", "must be host:port of one router at least")
    for address in addresses:
        if address.startswith(("http://", "https://")):
            raise InvalidArgumentError("addresses", f"{address!r} is for HTTP; the client speaks gRPC: host:port")


def with_key(metadata: Metadata, api_key: str) -> tuple[tuple[str, str], ...]:
    """What is sent with every call. Raises InvalidArgumentError where the key can't be part of it."""
    if not api_key:
        return tuple(metadata)
    if not (api_key.isascii() and api_key.isprintable()):
        raise InvalidArgumentError("api_key", "must be printable characters of ASCII")
    return (*metadata, ("authorization", f"Bearer {api_key}"))
