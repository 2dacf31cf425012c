"""What an assistant says, in OpenAI's shape: content, reasoning and tool calls, whole and as deltas."""

import secrets
from typing import Any

from argosy_router.fronts.oai_parse import OaiRequest
from argosy_router.service import Prepared
from argosy_router.tools.parse import Parser, Parts


class Voices:
    """Of all choices of one chat. Where neither tools nor reasoning can come, texts pass as they are."""

    def __init__(self, request: OaiRequest, prepared: Prepared) -> None:
        self._request, self._text = request, prepared.card.text
        constrained = request.constraint is not None or (request.offer is not None and bool(request.offer.must))
        self._thinks = self._text.thinks and not constrained
        self._thinking = [prompt.thinking and not constrained for prompt in prepared.prompts]
        self._needed = self._thinks or any(self._thinking) or (request.offer is not None and request.offer.parsed)
        self._parsers: dict[int, Parser] = {}

    def message(self, i: int, text: str, finish: str | None) -> tuple[dict[str, Any], str | None]:
        """The message of choice i, and how it ended."""
        message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None}
        if not self._needed:
            return message, finish
        parser = self._parser(i)
        first, last = parser.push(text), parser.finish()
        content = first.content + last.content
        reasoning = first.reasoning + last.reasoning
        parts = Parts(calls=[*first.calls, *last.calls])
        calls = [{key: value for key, value in call.items() if key != "index"} for call in _calls(parts)]
        message["content"] = content or (None if calls else "")
        if reasoning:
            message["reasoning_content"] = reasoning
        if calls:
            message["tool_calls"] = calls
        return message, _finish(finish, parser)

    def delta(self, i: int, text: str, finish: str | None) -> tuple[dict[str, Any], str | None]:
        """What a piece of text, and the end of the answer, add to choice i."""
        if not self._needed:
            return ({"content": text} if text else {}), finish
        parser = self._parser(i)
        found = [parser.push(text)]
        if finish:
            found.append(parser.finish())
        delta: dict[str, Any] = {}
        for key in ("reasoning", "content"):
            said = "".join(getattr(parts, key) for parts in found)
            if said:
                delta["reasoning_content" if key == "reasoning" else key] = said
        calls = _calls(Parts(calls=[part for parts in found for part in parts.calls]))
        if calls:
            delta["tool_calls"] = calls
        return delta, _finish(finish, parser)

    def _parser(self, i: int) -> Parser:
        if i not in self._parsers:
            self._parsers[i] = Parser(
                self._text.form,
                self._request.offer,
                thinks=self._thinks,
                thinking=self._thinking[i // self._request.n],
            )
        return self._parsers[i]


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


def _finish(finish: str | None, parser: Parser) -> str | None:
    return "tool_calls" if finish == "stop" and parser.calls else finish
