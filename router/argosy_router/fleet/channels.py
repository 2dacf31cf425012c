"""One gRPC channel for each worker address."""

import grpc

from argosy_api import limits
from argosy_api.v1 import worker_pb2_grpc as rpc

OPTIONS: list[tuple[str, int]] = [
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.ping_timeout_ms", 5_000),  # 60 s by default, whatever the keepalive's timeout is
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.max_send_message_length", limits.MAX_GRPC_MESSAGE),
    ("grpc.max_receive_message_length", limits.MAX_GRPC_MESSAGE),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.use_local_subchannel_pool", 1),  # a connection of its own: two addresses of one process fail apart
    ("grpc.enable_http_proxy", 0),  # a worker is never behind the proxy of the environment
    ("grpc.enable_retries", 0),  # the relay retries, and it counts attempts
]


def open_channel(address: str) -> "tuple[grpc.aio.Channel, rpc.WorkerAsyncStub]":
    """A channel to `host:port` (connects when it is first used) and the worker's methods on it."""
    channel = grpc.aio.insecure_channel(address, options=OPTIONS)
    return channel, rpc.WorkerStub(channel)
