"""What clients saw of their requests, and what is wrong with it: every stream is held against the oracle."""

import random
import time
from dataclasses import dataclass, field

import grpc

from argosy import ArgosyError, AsyncClient, FinishReason
from argosy_api.convert import params_to_proto
from argosy_api.params import SamplingParams
from argosy_api.v1 import worker_pb2 as pb
from argosy_api.v1 import worker_pb2_grpc as rpc
from argosy_worker import sim

MODEL = "bench"
NEVER_S = 60.0


@dataclass(slots=True)
class History:
    """One request, and all that its client got."""

    prompt: list[int]
    params: SamplingParams
    chunks: list[tuple[float, int, int, list[int]]] = field(default_factory=list)
    """(when, attempt, index, tokens)."""
    text: str = ""
    finished: bool = False
    completion_tokens: int = 0
    error: str = ""

    @property
    def resumed(self) -> list[float]:
        """Seconds between the last token of an attempt and the first one of the next, for each time it went on."""
        pairs = zip(self.chunks, self.chunks[1:], strict=False)
        return [later[0] - earlier[0] for earlier, later in pairs if later[1] != earlier[1]]


def wrongs(history: History) -> list[str]:
    """What is wrong with what a client got; nothing where it is the oracle's answer, each token once, in order."""
    if history.error:
        return [f"failed: {history.error}"]
    found, tokens, attempt = [], [], 0
    for _, number, index, more in history.chunks:
        if index != len(tokens):
            found.append(f"token {index} came when {len(tokens)} was due")
        if number < attempt:
            found.append(f"attempt {number} spoke after attempt {attempt}")
        attempt = max(attempt, number)
        tokens += more
    if tokens != sim.oracle(history.prompt, history.params.max_tokens, history.params):
        found.append("other tokens than the oracle's")
    if history.text.encode() != bytes(tokens):
        found.append("the text is not that of the tokens")
    if not history.finished:
        found.append("ended without a finish reason")
    elif history.completion_tokens != history.params.max_tokens:
        found.append(f"usage says {history.completion_tokens} tokens")
    return found


def some_request(rng: random.Random) -> History:
    prompt = [rng.randrange(32, 127) for _ in range(rng.randrange(8, 200))]
    kind = rng.randrange(3)
    return History(
        prompt,
        SamplingParams(
            max_tokens=rng.randrange(8, 96),
            temperature=float(kind > 0),
            seed=rng.randrange(1 << 40) if kind else None,
            frequency_penalty=0.5 if kind == 2 else 0.0,
        ),
    )


async def ask(stub: "rpc.InferenceAsyncStub", history: History) -> None:
    """A plain gRPC call, which no library repairs."""
    request = pb.InferenceRequest(
        model=MODEL, tokens=pb.TokenIds(ids=history.prompt), sampling=params_to_proto(history.params)
    )
    try:
        async for chunk in stub.Generate(request, timeout=NEVER_S):
            history.text += chunk.text
            history.finished = chunk.finish_reason == pb.FINISH_REASON_LENGTH
            history.completion_tokens = chunk.usage.completion_tokens
            if chunk.token_ids:
                history.chunks.append((time.monotonic(), chunk.attempt, chunk.index, list(chunk.token_ids)))
    except grpc.aio.AioRpcError as error:
        history.error = f"{error.code().name}: {error.details()}"


async def ask_client(client: AsyncClient, history: History) -> None:
    """Through the client library, which goes on at another router."""
    try:
        async for piece in client.generate(MODEL, history.prompt, params=history.params, timeout=NEVER_S):
            history.text += piece.text
            history.finished = piece.finish is FinishReason.LENGTH
            history.completion_tokens = piece.usage.completion_tokens if piece.usage else 0
            if piece.tokens:
                history.chunks.append((time.monotonic(), piece.attempt, piece.index, list(piece.tokens)))
    except ArgosyError as error:
        history.error = f"{error.status}: {error.message}"
