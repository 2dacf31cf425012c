"""The client for threads."""

import time
from collections.abc import Generator
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


class Client:
    """Asks routers, in turn; from several threads if you like.

    An answer whose router is lost goes on at another one. `close` it.
    """

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
        self._stubs: list[rpc.InferenceStub] = [rpc.InferenceStub(channel) for channel in self._channels]
        self._routers = Routers(len(addresses))
        self._metadata = with_key(metadata, api_key)

    def generate(
        self,
        model: str,
        prompt: Prompt,
        *,
        params: SamplingParams | None = None,
        timeout: float | None = None,
        cache_salt: str = "",
        priority: int = 0,
        request_id: str = "",
    ) -> Generator[Piece, None, None]:
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
                    for chunk in call:
                        yield way.take(chunk, monotonic())
                except (grpc.RpcError, OutOfOrderError) as error:
                    problem = error
                finally:
                    call.cancel()  # type: ignore[no-untyped-call]
                if way.finished:
                    return
                time.sleep(way.failed(attempt.router, problem, monotonic()))
        finally:
            way.done()

    def complete(
        self,
        model: str,
        prompt: Prompt,
        *,
        params: SamplingParams | None = None,
        timeout: float | None = None,
        cache_salt: str = "",
        priority: int = 0,
        request_id: str = "",
    ) -> Answer:
        """The whole answer. See `generate`."""
        pieces = self.generate(
            model, prompt, params=params, timeout=timeout, cache_salt=cache_salt, priority=priority,
            request_id=request_id,
        )  # fmt: skip
        return Answer.of(pieces)

    def close(self) -> None:
        """Ends all connections."""
        for channel in self._channels:
            channel.close()

    def __enter__(self) -> Self:
        """Connects when it is first asked."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes."""
        self.close()


def _channel(address: str, credentials: grpc.ChannelCredentials | None) -> grpc.Channel:
    if credentials is None:
        return grpc.insecure_channel(address, options=OPTIONS)
    return grpc.secure_channel(address, credentials, options=OPTIONS)
