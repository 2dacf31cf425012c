"""A choice that is collected, and how it ended."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from argosy_api.v1 import worker_pb2 as pb
from argosy_router.clock import now

_REASONS = {pb.FINISH_REASON_STOP: "stop", pb.FINISH_REASON_LENGTH: "length", pb.FINISH_REASON_ABORT: "abort"}


def finish_reason(chunk: pb.GenerateChunk) -> str | None:
    """As OpenAI spells it; None while it goes on."""
    return _REASONS.get(chunk.finish_reason)


@dataclass(slots=True)
class Gathered:
    """A choice that is answered as a whole."""

    keep_ids: bool = False
    text: list[str] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    count: int = 0
    logprobs: list[pb.TokenLogprob] = field(default_factory=list)
    prompt_logprobs: list[pb.TokenLogprob] = field(default_factory=list)
    embedding: list[float] = field(default_factory=list)
    """Of its prompt."""
    finish: str | None = None
    stop_reason: int | str | None = None
    cached: int = 0
    begun_at: float = 0.0
    """When its first chunk came; seconds of `clock.now`."""

    def add(self, chunk: pb.GenerateChunk) -> None:
        """Takes one chunk."""
        self.begun_at = self.begun_at or now()
        self.text.append(chunk.text)
        self.count += len(chunk.token_ids)
        if self.keep_ids:
            self.token_ids.extend(chunk.token_ids)
        self.logprobs.extend(chunk.logprobs)
        self.prompt_logprobs.extend(chunk.prompt_logprobs)
        self.embedding.extend(chunk.embedding)
        self.finish = finish_reason(chunk) or self.finish
        self.stop_reason = stop_reason(chunk) if self.finish else None


def stop_reason(chunk: pb.GenerateChunk) -> int | str | None:
    """What stopped it: the stop string, or the id of the stop token (vLLM's extension)."""
    given = chunk.stop_reason
    # the worker writes a token id in decimal; a stop string of digits cannot be told from it, but is the same text
    return (
        int(given)
        if given.isascii() and given.isdigit() and chunk.token_ids and int(given) == chunk.token_ids[-1]
        else given or None
    )


def best(gathered: Sequence[Gathered], *, of: int, n: int) -> list[Gathered]:
    """Of each prompt's `of` choices the `n` with the highest mean log-probability of a token, best first."""
    found: list[Gathered] = []
    for at in range(0, len(gathered), of):
        found += sorted(gathered[at : at + of], key=_mean, reverse=True)[:n]
    return found


def _mean(choice: Gathered) -> float:
    return sum(entry.logprob for entry in choice.logprobs) / max(1, len(choice.logprobs))
