"""What a streamed answer of OpenAI's form says, event by event. Pure."""

import json
from dataclasses import dataclass, field
from typing import Any


class StreamError(Exception):
    """The stream is none, or says that the request has failed."""


@dataclass(slots=True)
class Course:
    """One answer as it came. Times in seconds since the request was sent."""

    times: list[float] = field(default_factory=list)
    """When each piece of text came."""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    tokens: int = 0
    """As the server counts them; the pieces where it doesn't."""
    ended: bool = False
    """Whether the stream said that the answer is complete."""

    def take(self, line: bytes, at: float) -> None:
        """A line of the stream.

        Raises:
            StreamError: the server reports an error in the stream, or sends what is no JSON.

        """
        if not line.startswith(b"data:"):
            return  # comments that keep the connection alive, names of events, empty lines
        data = line[5:].strip()
        if data == b"[DONE]":
            self.ended = True
            return
        try:
            event = json.loads(data)
        except ValueError as error:
            raise StreamError(f"an event is no JSON: {data[:80]!r}") from error
        if not isinstance(event, dict):
            raise StreamError(f"an event is no object: {data[:80]!r}")
        if event.get("error"):
            raise StreamError(f"the server reports: {said(event)}")
        for choice in event.get("choices") or ():
            if _text(choice):
                self.times.append(at)
            if choice.get("finish_reason"):
                self.ended = True
        self._count(event.get("usage") or {})

    def _count(self, usage: dict[str, Any]) -> None:
        self.prompt_tokens = usage.get("prompt_tokens") or self.prompt_tokens
        self.tokens = usage.get("completion_tokens") or self.tokens
        details = usage.get("prompt_tokens_details") or {}
        self.cached_tokens = details.get("cached_tokens") or self.cached_tokens


def said(body: object) -> str:
    """The message of an error, in one of the forms that servers have."""
    if isinstance(body, dict):
        error = body.get("error", body.get("message", body.get("detail", body)))
        if isinstance(error, dict):
            error = error.get("message", error)
        return str(error)[:300]
    return str(body)[:300]


def _text(choice: dict[str, Any]) -> str:
    """Of a chat, what it thinks included, or of a completion."""
    delta = choice.get("delta") or {}
    found = choice.get("text") or delta.get("content") or delta.get("reasoning_content") or delta.get("reasoning")
    return found if isinstance(found, str) else ""
