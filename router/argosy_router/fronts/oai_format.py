"""OpenAI answers: usage, errors, and a choice that is collected. No I/O."""

from dataclasses import dataclass, field
from typing import Any

from argosy_api.errors import ArgosyError, InvalidArgumentError
from argosy_api.v1 import worker_pb2 as pb

_REASONS = {pb.FINISH_REASON_STOP: "stop", pb.FINISH_REASON_LENGTH: "length", pb.FINISH_REASON_ABORT: "abort"}
_TYPES = {
    400: "invalid_request_error", 401: "authentication_error", 404: "not_found_error", 413: "invalid_request_error",
    429: "rate_limit_error",
}  # fmt: skip


def finish_reason(chunk: pb.GenerateChunk) -> str | None:
    """As OpenAI spells it; None while it goes on."""
    return _REASONS.get(chunk.finish_reason)


def error_object(error: ArgosyError) -> dict[str, Any]:
    """`{"error": {message, type, param, code}}`."""
    param = error.field if isinstance(error, InvalidArgumentError) else None
    kind = _TYPES.get(error.http_status, "server_error")
    return {"error": {"message": error.message, "type": kind, "param": param, "code": error.reason}}


def usage(prompt: int, cached: int, completion: int) -> dict[str, Any]:
    """The usage object; `cached` of the prompt tokens came from the prefix cache."""
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": cached},
    }


@dataclass(slots=True)
class Gathered:
    """A choice that is answered as a whole."""

    keep_ids: bool = False
    text: list[str] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    count: int = 0
    logprobs: list[pb.TokenLogprob] = field(default_factory=list)
    prompt_logprobs: list[pb.TokenLogprob] = field(default_factory=list)
    finish: str | None = None
    stop_reason: int | str | None = None
    cached: int = 0

    def add(self, chunk: pb.GenerateChunk) -> None:
        """Takes one chunk."""
        self.text.append(chunk.text)
        self.count += len(chunk.token_ids)
        if self.keep_ids:
            self.token_ids.extend(chunk.token_ids)
        self.logprobs.extend(chunk.logprobs)
        self.prompt_logprobs.extend(chunk.prompt_logprobs)
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
