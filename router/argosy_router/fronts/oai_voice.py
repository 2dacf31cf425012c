"""What an assistant says, in OpenAI's shape: content, reasoning and tool calls, whole and as deltas."""

import secrets
from typing import Any

from argosy_router.fronts.speech import Speech
from argosy_router.fronts.text_request import TextRequest
from argosy_router.prepared import Prepared
from argosy_router.tools.parse import Parts


class Voices:
    """Of all choices of one chat."""

    def __init__(self, request: TextRequest, prepared: Prepared) -> None:
        self._speech = Speech(request, prepared)

    def message(self, i: int, text: str, finish: str | None) -> tuple[dict[str, Any], str | None]:
        """The message of choice i, and how it ended."""
        parts = self._speech.push(i, text, last=True)
        calls = [{key: value for key, value in call.items() if key != "index"} for call in _calls(parts)]
        content = parts.content or (None if calls else "")
        message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": None}
        if parts.reasoning:
            message["reasoning_content"] = parts.reasoning
        if calls:
            message["tool_calls"] = calls
        return message, self._finish(i, finish)

    def delta(self, i: int, text: str, finish: str | None) -> tuple[dict[str, Any], str | None]:
        """What a piece of text, and the end of the answer, add to choice i."""
        parts = self._speech.push(i, text, last=finish is not None)
        delta: dict[str, Any] = {}
        if parts.reasoning:
            delta["reasoning_content"] = parts.reasoning
        if parts.content:
            delta["content"] = parts.content
        calls = _calls(parts)
        if calls:
            delta["tool_calls"] = calls
        return delta, self._finish(i, finish)

    def _finish(self, i: int, finish: str | None) -> str | None:
        return "tool_calls" if finish == "stop" and self._speech.calls(i) else finish


def _calls(parts: Parts) -> list[dict[str, Any]]:
    """Pieces of the same call as one."""
    found: dict[int, dict[str, Any]] = {}
    for part in parts.calls:
        call = found.setdefault(part.number, {"index": part.number, "function": {"arguments": ""}})
        if part.name:
            identity = f"call_{secrets.token_hex(12)}"
            call |= {"id": identity, "type": "function", "function": {"name": part.name, **call["function"]}}
        call["function"]["arguments"] += part.arguments
    return list(found.values())
