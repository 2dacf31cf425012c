"""An answer: the pieces in which it comes, and the whole."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum

from argosy_api.v1 import worker_pb2 as pb


class FinishReason(Enum):
    """Why an answer ended."""

    STOP = "stop"
    """An end of sequence, a stop token or a stop string."""
    LENGTH = "length"
    """`max_tokens`, or the context is full."""


_REASONS = {pb.FINISH_REASON_STOP: FinishReason.STOP, pb.FINISH_REASON_LENGTH: FinishReason.LENGTH}


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A piece of an answer. Pieces come in order, each token once, whatever becomes of workers and routers."""

    text: str = ""
    """May lag behind the tokens: incomplete characters and possible stop strings are held back."""
    tokens: Sequence[int] = ()
    index: int = 0
    """Of the first of `tokens` in the answer, from 0."""
    attempt: int = 0
    """Counts the workers that worked on the answer so far, from 1."""
    logprobs: Sequence[pb.TokenLogprob] = ()
    """One for each of `tokens`, where they were asked for."""
    prompt_logprobs: Sequence[pb.TokenLogprob] = ()
    finish: FinishReason | None = None
    """Of the last piece."""
    stop_reason: str = ""
    """The stop string that matched, or the stop token's id in decimal."""
    usage: pb.Usage | None = None
    """Of the last piece, and of the first."""

    @classmethod
    def of(cls, chunk: pb.GenerateChunk) -> "Piece":
        """What a router's chunk says."""
        return cls(
            text=chunk.text,
            tokens=tuple(chunk.token_ids),
            index=chunk.index,
            attempt=chunk.attempt,
            logprobs=tuple(chunk.logprobs),
            prompt_logprobs=tuple(chunk.prompt_logprobs),
            finish=_REASONS.get(chunk.finish_reason),
            stop_reason=chunk.stop_reason,
            usage=chunk.usage if chunk.HasField("usage") else None,
        )


@dataclass(slots=True)
class Answer:
    """A whole answer."""

    text: str = ""
    tokens: list[int] = field(default_factory=list)
    logprobs: list[pb.TokenLogprob] = field(default_factory=list)
    finish: FinishReason | None = None
    stop_reason: str = ""
    usage: pb.Usage | None = None

    def add(self, piece: Piece) -> None:
        """The next piece."""
        self.text += piece.text
        self.tokens += piece.tokens
        self.logprobs += piece.logprobs
        self.finish = piece.finish or self.finish
        self.stop_reason = piece.stop_reason or self.stop_reason
        self.usage = piece.usage or self.usage

    @classmethod
    def of(cls, pieces: Iterable[Piece]) -> "Answer":
        """All pieces together."""
        answer = cls()
        for piece in pieces:
            answer.add(piece)
        return answer
