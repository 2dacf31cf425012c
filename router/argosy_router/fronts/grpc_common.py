"""What the gRPC services share."""

import asyncio
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self

import grpc

from argosy_api import limits, net
from argosy_router.clock import now
from argosy_router.fronts.request_ids import check_request_id, request_id
from argosy_router.routing.dispatch import Decision

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


class PortTakenError(Exception):
    """A port cannot be bound; the message says which and why."""


def bind(
    server: grpc.aio.Server, host: str, port: int, what: str, credentials: grpc.ServerCredentials | None = None
) -> int:
    """Has a server listen, with TLS where there are credentials; the port.

    Raises:
        PortTakenError: it can't be bound.

    """
    address = net.address(host, port)
    try:
        if credentials is not None:
            return server.add_secure_port(address, credentials)
        return server.add_insecure_port(address)
    except RuntimeError as error:
        raise PortTakenError(f"cannot listen on {address} for {what}: {net.why_not(host, port)}") from error


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


class Heading:
    """A call's initial metadata, sent beside the wait for the first token: sending it takes a fifth of a millisecond.

    It names the worker that took the request. Where another one answers, because that one was lost before its first
    token, the trailing metadata names it. Use it as a context manager inside of what sends errors: nothing else may be
    sent while this is on its way.
    """

    def __init__(self, context: Context, headers: Callable[[Decision], Sequence[tuple[str, str]]]) -> None:
        self._context, self._headers = context, headers
        self._told: Decision | None = None
        self._sending: asyncio.Task[None] | None = None

    def taken(self, decision: Decision) -> None:
        """A worker has taken the request."""
        if self._sending is None:
            self._told = decision
            sending = self._context.send_initial_metadata(tuple(self._headers(decision)))
            self._sending = asyncio.get_running_loop().create_task(sending)

    async def answered(self, decision: Decision) -> None:
        """The first token has come: messages may be sent after this."""
        self.taken(decision)
        if self._sending is not None:
            await self._sending
        if self._told is not None and self._told.worker != decision.worker:
            self._context.set_trailing_metadata(tuple(self._headers(decision)))

    async def __aenter__(self) -> Self:
        """Nothing is sent yet."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing is on its way after this."""
        if self._sending is not None:
            if not self._sending.done():
                await asyncio.wait([self._sending])
            if not self._sending.cancelled():
                self._sending.exception()  # seen: `answered` raised it, or the call has failed for another reason
