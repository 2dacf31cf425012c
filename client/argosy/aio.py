"""The client for asyncio."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from time import monotonic
from types import TracebackType
from typing import Self

import grpc

from argosy.answer import Answer, Piece
from argosy.connections import OPTIONS, Metadata, check_addresses, with_key
from argosy.question import Prompt, question
from argosy.routers import Routers
from argosy.way import OutOfOrderError, Way
from argosy_api.params import SamplingParams
from argosy_api.v1 import worker_pb2_grpc as rpc


class AsyncClient:
    """Asks routers, in turn. An answer whose router is lost goes on at another one. `close` it."""

    def __init__(
        self,
        *addresses: str,
        credentials: grpc.ChannelCredentials | None = None,
        api_key: str = "",
        metadata: Metadata = (),
    ) -> None:
        """`addresses`: host:port of the routers' gRPC; several of one deployment, or one name for all of them.

        `credentials`: for TLS (`grpc.ssl_channel_credentials()`). `api_key`: an API key or a token, for routers that
        ask for one. `metadata`: sent with every call.
        """
        check_addresses(addresses)
        self._channels = [_channel(address, credentials) for address in addresses]
        self._stubs: list[rpc.InferenceAsyncStub] = [rpc.InferenceStub(channel) for channel in self._channels]
        self._routers = Routers(len(addresses))
        self._metadata = with_key(metadata, api_key)

    async def generate(
        self,
        model: str,
        prompt: Prompt,
        *,
        params: SamplingParams | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - it travels with the request
        cache_salt: str = "",
        priority: int = 0,
        request_id: str = "",
    ) -> AsyncGenerator[Piece, None]:
        """The answer as it comes. `timeout`: seconds for all of it; the rest see `question`.

        Whoever does not read it to its end closes the generator, which cancels the request.

        Raises:
            ArgosyError: what the router refused or nobody could do; DeadlineError, UnavailableError among them.

        """
        request = question(
            model, prompt, params=params, cache_salt=cache_salt, priority=priority, request_id=request_id
        )
        way = Way(request, self._routers, timeout=timeout, now=monotonic())
        try:
            while True:
                attempt = way.next_try(monotonic())
                call = self._stubs[attempt.router].Generate(
                    attempt.request, timeout=attempt.timeout, metadata=self._metadata
                )
                problem: Exception | None = None
                try:
                    async for chunk in call:
                        yield way.take(chunk, monotonic())
                except (grpc.RpcError, OutOfOrderError) as error:
                    problem = error
                except asyncio.CancelledError:  # grpc.aio raises it for a peer's status CANCELLED, too
                    task = asyncio.current_task()
                    if task is None or task.cancelling():
                        raise
                finally:
                    call.cancel()
                if way.finished:
                    return
                await asyncio.sleep(way.failed(attempt.router, problem, monotonic()))
        finally:
            way.done()

    async def complete(
        self,
        model: str,
        prompt: Prompt,
        *,
        params: SamplingParams | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - it travels with the request
        cache_salt: str = "",
        priority: int = 0,
        request_id: str = "",
    ) -> Answer:
        """The whole answer. See `generate`."""
        answer = Answer()
        pieces = self.generate(
            model, prompt, params=params, timeout=timeout, cache_salt=cache_salt, priority=priority,
            request_id=request_id,
        )  # fmt: skip
        async with aclosing(pieces):
            async for piece in pieces:
                answer.add(piece)
        return answer

    async def close(self) -> None:
        """Ends all connections."""
        for channel in self._channels:
            await channel.close(None)

    async def __aenter__(self) -> Self:
        """Connects when it is first asked."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes."""
        await self.close()


def _channel(address: str, credentials: grpc.ChannelCredentials | None) -> grpc.aio.Channel:
    if credentials is None:
        return grpc.aio.insecure_channel(address, options=OPTIONS)
    return grpc.aio.secure_channel(address, credentials, options=OPTIONS)
