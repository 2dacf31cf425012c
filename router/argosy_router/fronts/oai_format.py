"""OpenAI answers: choices, chunks, usage, log-probabilities and errors as JSON-ready dictionaries. No I/O."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from argosy_api.errors import ArgosyError, InvalidArgumentError
from argosy_api.v1 import worker_pb2 as pb
from argosy_router.text.tokenize import Text

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


def chat_logprobs(text: Text, entries: Sequence[pb.TokenLogprob], top: int) -> dict[str, Any]:
    """The chat form: token strings with their bytes, `top` alternatives each."""

    def one(token: int, logprob: float) -> dict[str, Any]:
        raw: bytes = text.token_bytes(token)
        return {"token": raw.decode("utf-8", "replace"), "logprob": logprob, "bytes": list(raw)}

    return {
        "content": [
            {**one(e.token, e.logprob), "top_logprobs": [one(a.token, a.logprob) for a in e.top[:top]]} for e in entries
        ],
        "refusal": None,
    }


@dataclass(slots=True)
class LegacyLogprobs:
    """The completions form: parallel arrays. `offset` is where the next token's text begins in the answer."""

    text: Text
    top: int
    offset: int = 0

    def take(self, entries: Sequence[pb.TokenLogprob], *, first_token: int | None = None) -> dict[str, Any]:
        """The arrays for these tokens; `first_token` is a prompt's first one, which has no log-probability."""
        tokens: list[str] = []
        values: list[float | None] = []
        tops: list[dict[str, float] | None] = []
        offsets: list[int] = []
        if first_token is not None:
            tokens.append(self.text.token_text(first_token))
            values.append(None)
            tops.append(None)
            offsets.append(self._advance(first_token))
        for entry in entries:
            tokens.append(self.text.token_text(entry.token))
            values.append(entry.logprob)
            tops.append(self._top(entry))
            offsets.append(self._advance(entry.token))
        return {
            "tokens": tokens,
            "token_logprobs": values,
            "top_logprobs": tops if self.top else None,
            "text_offset": offsets,
        }

    def _top(self, entry: pb.TokenLogprob) -> dict[str, float]:
        # the token itself is always among them, as in the OpenAI API
        found = {self.text.token_text(a.token): a.logprob for a in entry.top[: self.top]}
        found.setdefault(self.text.token_text(entry.token), entry.logprob)
        return found

    def _advance(self, token: int) -> int:
        at = self.offset
        raw: bytes = self.text.token_bytes(token)
        # characters that begin in this token; continuation bytes of UTF-8 belong to the one before
        self.offset += sum(1 for b in raw if b & 0xC0 != 0x80)
        return at


def prompt_logprobs(
    text: Text, tokens: Sequence[int], entries: Sequence[pb.TokenLogprob]
) -> list[dict[str, Any] | None]:
    """By prompt token, as vLLM has it: null for the first, else token id -> log-probability, rank and text."""
    out: list[dict[str, Any] | None] = [None] if tokens else []
    for entry in entries:
        both = {str(a.token): a.logprob for a in entry.top} | {str(entry.token): entry.logprob}
        ranks = {str(a.token): rank for rank, a in enumerate(entry.top, start=1)}
        out.append({
            token: {"logprob": value, "rank": ranks.get(token), "decoded_token": text.token_text(int(token))}
            for token, value in both.items()
        })  # fmt: skip
    return out


@dataclass(slots=True)
class Gathered:
    """A choice that is answered as a whole."""

    text: list[str] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[pb.TokenLogprob] = field(default_factory=list)
    prompt_logprobs: list[pb.TokenLogprob] = field(default_factory=list)
    finish: str | None = None
    stop_reason: int | str | None = None
    cached: int = 0

    def add(self, chunk: pb.GenerateChunk) -> None:
        """Takes one chunk."""
        self.text.append(chunk.text)
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
