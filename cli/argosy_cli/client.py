"""A client of the router's native gRPC service, and where a router may be found."""

import os
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Self

import grpc

from argosy_api import limits
from argosy_api.inference import inference_pb2 as oip
from argosy_api.inference import inference_pb2_grpc
from argosy_api.v1 import worker_pb2 as pb
from argosy_api.v1 import worker_pb2_grpc
from argosy_cli.embedded import run, states
from argosy_cli.embedded.states import RunState
from argosy_cli.errors import RequestError

DEFAULT_ADDRESS = "127.0.0.1:8001"
API_KEY = "ARGOSY_API_KEY"
"""Environment variable with the credential for routers that ask for one."""
_OPTIONS = [("grpc.max_receive_message_length", limits.MAX_GRPC_MESSAGE), ("grpc.enable_http_proxy", 0)]


_COMING = frozenset({states.STARTING, "Downloading", "Loading", states.CONNECTING})


@dataclass(slots=True)
class Answer:
    """A streamed answer: iterate over its text; the figures are complete when the iteration has ended."""

    text: str = ""
    worker: str = ""
    decision: str = ""
    """Why the router chose this worker."""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    tokens: int = 0
    finish_reason: str = ""
    first_token_s: float = 0.0
    total_s: float = 0.0

    @property
    def tokens_per_second(self) -> float:
        """Of the tokens after the first; 0 when there are none."""
        span = self.total_s - self.first_token_s
        return (self.tokens - 1) / span if self.tokens > 1 and span > 0 else 0.0

    def summary(self) -> str:
        """The figures in one line."""
        parts = [
            f"{self.prompt_tokens} prompt tokens ({self.cached_tokens} cached)",
            f"{self.tokens} generated",
            f"worker {self.worker or '?'}",
            f"first token {self.first_token_s * 1000:.0f} ms",
        ]
        if self.tokens_per_second:
            parts.append(f"{self.tokens_per_second:.1f} tokens/s")
        return " · ".join(parts)


@dataclass(slots=True)
class Client:
    """One connection to a router."""

    address: str
    _channel: grpc.Channel = field(init=False)

    def __post_init__(self) -> None:
        self._channel = grpc.insecure_channel(self.address, options=_OPTIONS)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()

    def stream(self, request: pb.InferenceRequest, answer: Answer) -> Iterator[str]:
        """Yield the text as it comes and fill in `answer`. Closing the iterator cancels the request.

        Raises:
            RequestError: with what the router said.

        """
        call = worker_pb2_grpc.InferenceStub(self._channel).Generate(request, metadata=tuple(credential().items()))
        began = time.monotonic()
        try:
            for chunk in call:
                if not answer.worker:
                    _route(answer, call.initial_metadata())
                if chunk.token_ids and not answer.tokens:
                    answer.first_token_s = time.monotonic() - began
                answer.tokens += len(chunk.token_ids)
                answer.total_s = time.monotonic() - began
                _count(answer, chunk)
                answer.text += chunk.text
                if chunk.text:
                    yield chunk.text
            _route(answer, call.trailing_metadata())
        except grpc.RpcError as error:
            raise RequestError(_explain(self.address, error)) from None
        finally:
            call.cancel()  # type: ignore[no-untyped-call]


def find_address(given: str | None) -> str:
    """The router to ask: as given, the newest run of this user, or the default."""
    if given:
        return given.removeprefix("grpc://").removeprefix("http://")
    runs = run.live(run.home(os.environ))
    return runs[0].grpc if runs else DEFAULT_ADDRESS


def find_model(given: str | None, address: str) -> str:
    """The model to ask for: as given, or the only one that is served. Waits for a run of ours that still starts.

    Raises:
        RequestError: there are none or several, or the router cannot be asked.

    """
    local = run_at(address)
    if local is not None:
        _wait(local, given)
    if given:
        return given
    names = [r.served_name for r in local.resources] if local else _ask_models(address)
    if len(names) == 1:
        return names[0]
    if not names:
        raise RequestError("no model is served there")
    raise RequestError(f"several models are served; choose one with --model: {', '.join(sorted(names))}")


def run_at(address: str) -> RunState | None:
    """The run of ours whose gRPC address that is, however this machine is called in it."""
    return next((r for r in run.live(run.home(os.environ)) if _plain(r.grpc) == _plain(address)), None)


def uri_of(model: str, address: str) -> str:
    """Where a served model comes from, as far as a run of ours says; else empty."""
    local = run_at(address)
    served = local.resources if local is not None else ()
    return next((r.uri for r in served if r.served_name == model), "")


def _plain(address: str) -> str:
    host, _, port = address.rpartition(":")
    return f"{'127.0.0.1' if host in {'localhost', '[::1]', ''} else host}:{port}"


def _wait(state: RunState, model: str | None) -> None:
    """Until one replica of the model serves, or nothing of it is on its way any more; what goes on is told."""
    told = ""
    while True:
        asked = [r for r in state.resources if model in (None, r.served_name)]
        coming = [p for r in asked for p in r.replicas if p.phase in _COMING and not p.restarts]
        if any(r.ready for r in asked) or not coming:
            return
        now = f"waiting: {asked[0].name} is {coming[0].phase.lower()}"
        if now != told:
            print(now, file=sys.stderr)
            told = now
        time.sleep(0.2)
        found = run_at(state.grpc)
        if found is None:
            return
        state = found


def _ask_models(address: str) -> list[str]:
    """Over the gRPC address itself: nothing says on which port its router speaks HTTP."""
    with grpc.insecure_channel(address, options=_OPTIONS) as channel:
        stub = inference_pb2_grpc.GRPCInferenceServiceStub(channel)
        try:
            metadata = tuple(credential().items())
            found = stub.RepositoryIndex(oip.RepositoryIndexRequest(), metadata=metadata, timeout=5.0)
        except grpc.RpcError as error:
            raise RequestError(_explain(address, error)) from None
    return [model.name for model in found.models]


def credential() -> dict[str, str]:
    """Headers that say who asks, where the environment has a credential."""
    key = os.environ.get(API_KEY)
    return {"authorization": f"Bearer {key}"} if key else {}


def _count(answer: Answer, chunk: pb.GenerateChunk) -> None:
    if chunk.HasField("usage"):
        answer.prompt_tokens = chunk.usage.prompt_tokens
        answer.cached_tokens = chunk.usage.cached_tokens
    if chunk.finish_reason:
        answer.finish_reason = pb.FinishReason.Name(chunk.finish_reason).removeprefix("FINISH_REASON_").lower()


def _route(answer: Answer, metadata: Iterable[tuple[str, str | bytes]] | None) -> None:
    found = {key: value for key, value in metadata or () if isinstance(value, str)}
    answer.worker = found.get("x-argosy-worker", answer.worker)
    answer.decision = found.get("x-argosy-decision", answer.decision)


def _explain(address: str, error: grpc.RpcError) -> str:
    code, details = error.code(), error.details() or ""
    if code is grpc.StatusCode.UNAVAILABLE and ("connect" in details.lower() or not details):
        return f"no router answers at {address}; start one with `argosy up FILE.yaml`, or give --address"
    if code is grpc.StatusCode.UNAUTHENTICATED:
        return f"{code.name}: {details} (set {API_KEY})"
    return f"{code.name}: {details}"
