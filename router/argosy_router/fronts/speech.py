"""What an assistant says, taken apart: text, reasoning and tool calls, in order, in no protocol's shape."""

import json
from typing import Any, NamedTuple

from argosy_router.fronts.text_request import TextRequest
from argosy_router.prepared import Prepared
from argosy_router.tools.parse import Parser, Parts

REASONING, CONTENT, CALL = "reasoning", "content", "call"


class Saying(NamedTuple):
    """A piece of one kind."""

    kind: str
    text: str
    """Of a call: of its arguments."""
    number: int = 0
    """Of the call, in its choice."""
    name: str = ""
    """Of the function, with the first piece of a call."""


class Speech:
    """Of all choices of one chat. Where neither tools nor reasoning can come, texts pass as they are."""

    def __init__(self, request: TextRequest, prepared: Prepared) -> None:
        self._request, self._text = request, prepared.card.text
        chat = bool(request.messages)
        constrained = request.constraint is not None or (request.offer is not None and bool(request.offer.must))
        self._thinks = chat and self._text.thinks and not constrained
        self._thinking = [prompt.thinking and not constrained for prompt in prepared.prompts]
        self._parsed = self._thinks or any(self._thinking) or (request.offer is not None and request.offer.parsed)
        self._parsers: dict[int, Parser] = {}

    def push(self, i: int, text: str, *, last: bool) -> Parts:
        """What a piece of text, and the end of the answer, add to choice i."""
        if not self._parsed:
            return Parts(content=text)
        parser = self._parser(i)
        parts = parser.push(text)
        return _joined(parts, parser.finish()) if last else parts

    def sayings(self, i: int, text: str, *, last: bool) -> list[Saying]:
        """The same, with what came first first: `push` tells it by kind."""
        if not self._parsed:
            return [Saying(CONTENT, text)] if text else []
        parser, found = self._parser(i), list[Saying]()
        for c in text:
            found += _in_order(parser.push(c))
        if last:
            found += _in_order(parser.finish())
        return _merged(found)

    def calls(self, i: int) -> bool:
        """Whether choice i has called a tool."""
        return i in self._parsers and self._parsers[i].calls > 0

    def _parser(self, i: int) -> Parser:
        if i not in self._parsers:
            self._parsers[i] = Parser(
                self._text.form,
                self._request.offer,
                thinks=self._thinks,
                thinking=self._thinking[i // self._request.each],
            )
        return self._parsers[i]


def _joined(one: Parts, other: Parts) -> Parts:
    return Parts(one.reasoning + other.reasoning, one.content + other.content, [*one.calls, *other.calls])


def _in_order(parts: Parts) -> list[Saying]:
    """Of so short a text that what it ends stands before what it begins."""
    found = [Saying(CALL, part.arguments, part.number, part.name) for part in parts.calls]
    if parts.reasoning:
        found.insert(0, Saying(REASONING, parts.reasoning))
    if parts.content:
        found.append(Saying(CONTENT, parts.content))
    return found


def _merged(sayings: list[Saying]) -> list[Saying]:
    found: list[Saying] = []
    for one in sayings:
        before = found[-1] if found else None
        if before is not None and (before.kind, before.number) == (one.kind, one.number) and not one.name:
            found[-1] = before._replace(text=before.text + one.text)
        else:
            found.append(one)
    return found


def arguments(text: str) -> dict[str, Any]:
    """Those of a call, for protocols that have them as an object; of a call that was cut off none can be read."""
    try:
        found = json.loads(text or "{}")
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
