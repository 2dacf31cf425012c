"""The input of an OpenAI response out of JSON: items into a chat's messages."""

import json
from typing import Any

from argosy_api import limits
from argosy_api.errors import InvalidArgumentError
from argosy_router.fronts.fields import Fields, kind
from argosy_router.text.messages import Message

_ROLES = ("user", "assistant", "system", "developer")
_TEXTS = ("input_text", "output_text", "text")


def take_input(fields: Fields) -> tuple[Message, ...]:
    """`instructions` and `input`, as the model's template wants them.

    Raises:
        InvalidArgumentError: naming the field that is wrong.

    """
    instructions, value = fields.string("instructions"), fields.raw("input")
    chat = _Chat()
    if instructions:
        chat.messages.append({"role": "system", "content": instructions})
    if isinstance(value, str):
        chat.messages.append({"role": "user", "content": value})
    elif isinstance(value, list):
        if len(value) > limits.MAX_MESSAGES:
            raise InvalidArgumentError("input", f"has {len(value)} items; at most {limits.MAX_MESSAGES}")
        for i, item in enumerate(value):
            chat.take(item, f"input[{i}]")
    elif value is None:
        raise InvalidArgumentError("input", "is missing")
    else:
        raise fields.wrong("input", value, "a string or an array of items")
    if len(chat.messages) == bool(instructions):
        raise InvalidArgumentError("input", "says nothing")
    return tuple(chat.messages)


class _Chat:
    """Messages as they are put together: a turn of the assistant is several items."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self._thought = ""
        self._parts = 0

    def take(self, item: Any, path: str) -> None:
        """One more item."""
        if not isinstance(item, dict):
            raise InvalidArgumentError(path, f"is {kind(item)}; must be an object")
        fields = Fields(item, path=f"{path}.")
        what = fields.string("type", limit=64) or "message"
        for name in ("id", "status", "phase"):  # of what an earlier answer told
            fields.string(name, limit=256)
        if what == "message":
            self._message(fields)
        elif what == "function_call":
            self._call(fields)
        elif what == "function_call_output":
            identity = fields.string("call_id", limit=256)
            if not identity:
                raise InvalidArgumentError(fields.path("call_id"), "is missing")
            text = self._text(fields, "output")
            self.messages.append({"role": "tool", "tool_call_id": identity, "content": text})
        elif what == "reasoning":
            self._thought = self._reasoning(fields)
        elif what == "item_reference":
            raise InvalidArgumentError(path, "refers to what was said before, of which nothing is kept here")
        else:
            raise InvalidArgumentError(
                fields.path("type"), f"is {what!r}; must be message, function_call, function_call_output or reasoning"
            )
        for name, *allowed in (("caller", {"type": "direct"}), ("namespace",), ("async",)):
            fields.neutral(name, *allowed)
        fields.end()

    def _message(self, fields: Fields) -> None:
        role = fields.string("role", limit=32)
        if role not in _ROLES:
            raise InvalidArgumentError(fields.path("role"), f"is {role!r}; must be one of {', '.join(_ROLES)}")
        text = self._text(fields, "content")
        message: Message = {"role": "system" if role == "developer" else role, "content": text}
        if role == "assistant" and self._thought:
            message["reasoning_content"], self._thought = self._thought, ""
        self.messages.append(message)

    def _call(self, fields: Fields) -> None:
        identity, name = fields.string("call_id", limit=256), fields.string("name", limit=256)
        given = fields.string("arguments")
        if not name:
            raise InvalidArgumentError(fields.path("name"), "is missing")
        if not self.messages or self.messages[-1]["role"] != "assistant":
            self.messages.append({"role": "assistant", "content": ""})
        turn = self.messages[-1]
        if self._thought:
            turn["reasoning_content"], self._thought = self._thought, ""
        call = {"id": identity or "", "type": "function", "function": {"name": name, "arguments": _object(given or "")}}
        turn.setdefault("tool_calls", []).append(call)

    def _reasoning(self, fields: Fields) -> str:
        fields.raw("encrypted_content")  # another server's own
        found = []
        for name in ("content", "summary"):
            parts = fields.array(name) or []
            self._count(len(parts))
            texts = [part.get("text") for part in parts if isinstance(part, dict)]
            found.append("\n".join(text for text in texts if isinstance(text, str)))
        return found[0] or found[1]

    def _text(self, fields: Fields, name: str) -> str:
        value = fields.raw(name)
        if isinstance(value, str):
            return value
        if not isinstance(value, list):
            raise fields.wrong(name, value, "a string or an array of text parts")
        self._count(len(value))
        texts = []
        for i, part in enumerate(value):
            path = fields.path(f"{name}[{i}]")
            if not isinstance(part, dict):
                raise InvalidArgumentError(path, f"is {kind(part)}; must be an object")
            inner = Fields(part, path=f"{path}.")
            what = inner.string("type", limit=64)
            if what not in _TEXTS:
                raise InvalidArgumentError(f"{path}.type", f"is {str(what)!r}; only text parts are supported")
            text = inner.string("text")
            if text is None:
                raise InvalidArgumentError(f"{path}.text", "is missing")
            for told in ("annotations", "logprobs"):  # of an earlier answer
                inner.array(told)
            inner.raw("prompt_cache_breakpoint")  # whatever may be cached is
            inner.end()
            texts.append(text)
        return "".join(texts)

    def _count(self, parts: int) -> None:
        self._parts += parts
        if self._parts > limits.MAX_PARTS:
            raise InvalidArgumentError("input", f"has more than {limits.MAX_PARTS} parts")


def _object(text: str) -> Any:
    """Arguments as templates want them; what is no object stays the text that it is."""
    try:
        said = json.loads(text or "{}")
    except (ValueError, RecursionError):
        return text
    return said if isinstance(said, dict) else text
