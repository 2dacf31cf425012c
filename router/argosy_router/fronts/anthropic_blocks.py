"""The messages of Anthropic's API out of JSON: blocks of text, tools used and their results."""

from collections.abc import Iterator
from typing import Any

from argosy_api import limits
from argosy_api.errors import InvalidArgumentError
from argosy_router.fronts.fields import Fields, kind
from argosy_router.text.messages import Message

_ROLES = ("user", "assistant", "system")
_BETWEEN = "\n"
"""What stands between two blocks of text."""


class Blocks:
    """Reads the fields that hold blocks. `ignored` are those that change nothing here, by their last name."""

    def __init__(self) -> None:
        self.ignored: list[str] = []
        self._left = limits.MAX_PARTS

    def take(self, fields: Fields) -> tuple[Message, ...]:
        """`system` and `messages`, as the model's template wants them.

        Raises:
            InvalidArgumentError: naming the field that is wrong.

        """
        found: list[Message] = []
        system = fields.raw("system")
        if system is not None:
            text = _joined(self._texts(system, "system"))
            if text:
                found.append({"role": "system", "content": text})
        messages = fields.array("messages")
        if not messages:
            raise InvalidArgumentError("messages", "must have at least one message")
        if len(messages) > limits.MAX_MESSAGES:
            raise InvalidArgumentError("messages", f"has {len(messages)} messages; at most {limits.MAX_MESSAGES}")
        for i, value in enumerate(messages):
            found += self._message(value, f"messages[{i}]")
        if found[-1]["role"] == "assistant":
            problem = "is the assistant's: an answer that is begun cannot go on here"
            raise InvalidArgumentError(f"messages[{len(messages) - 1}].role", problem)
        return tuple(found)

    def _message(self, value: Any, path: str) -> list[Message]:
        if not isinstance(value, dict):
            raise InvalidArgumentError(path, f"is {kind(value)}; must be an object")
        fields = Fields(value, path=f"{path}.")
        role, content = fields.string("role", limit=32), fields.raw("content")
        fields.end()
        if role not in _ROLES:
            raise InvalidArgumentError(f"{path}.role", f"is {role!r}; must be one of {', '.join(_ROLES)}")
        if isinstance(content, str):
            return [{"role": role, "content": content}]
        if not isinstance(content, list):
            raise fields.wrong("content", content, "a string or an array of blocks")
        blocks = list(self._each(content, f"{path}.content"))
        if role == "assistant":
            return [self._assistant(blocks)]
        return self._said(role, blocks)

    def _said(self, role: str, blocks: list[tuple[str, Fields]]) -> list[Message]:
        """A user's text, and results of tools as messages of their own, in their order."""
        found: list[Message] = []
        for what, block in blocks:
            if what == "tool_result" and role == "user":
                found.append(self._result(block))
            elif found and found[-1]["role"] == role:
                found[-1]["content"] += _BETWEEN + self._text(what, block)
            else:
                found.append({"role": role, "content": self._text(what, block)})
        return found or [{"role": role, "content": ""}]

    def _assistant(self, blocks: list[tuple[str, Fields]]) -> Message:
        texts, thoughts, calls = [], [], []
        for what, block in blocks:
            if what == "tool_use":
                calls.append(self._call(block))
            elif what == "thinking":
                thoughts.append(block.string("thinking") or "")
                block.string("signature")  # of the model that thought it: nothing here can check it
                self._end(block)
            else:
                texts.append(self._text(what, block))
        message: Message = {"role": "assistant", "content": _joined(texts)}
        if thoughts:
            message["reasoning_content"] = _joined(thoughts)
        if calls:
            message["tool_calls"] = calls
        return message

    def _call(self, block: Fields) -> dict[str, Any]:
        identity, name, given = block.string("id", limit=256), block.string("name", limit=256), block.raw("input")
        if not name:
            raise InvalidArgumentError(block.path("name"), "is missing")
        if not isinstance(given, dict):
            raise block.wrong("input", given, "an object")
        block.neutral("caller", {"type": "direct"})
        block.neutral("toolset_name")
        self._end(block)
        return {"id": identity or "", "type": "function", "function": {"name": name, "arguments": given}}

    def _result(self, block: Fields) -> Message:
        identity = block.string("tool_use_id", limit=256)
        if not identity:
            raise InvalidArgumentError(block.path("tool_use_id"), "is missing")
        content = block.raw("content")
        texts = [] if content is None else self._texts(content, block.path("content"))
        block.neutral("toolset_name")
        if block.boolean("is_error"):  # that it failed is to be seen in its text: templates have no word for it
            self._ignore("is_error")
        self._end(block)
        return {"role": "tool", "tool_call_id": identity, "content": _joined(texts)}

    def _texts(self, value: Any, path: str) -> list[str]:
        if isinstance(value, str):
            return [value]
        if not isinstance(value, list):
            raise InvalidArgumentError(path, f"is {kind(value)}; must be a string or an array of blocks")
        return [self._text(what, block) for what, block in self._each(value, path)]

    def _text(self, what: str, block: Fields) -> str:
        if what != "text":
            raise InvalidArgumentError(block.path("type"), f"is {what[:64]!r}; only text is understood here")
        text = block.string("text")
        if text is None:
            raise InvalidArgumentError(block.path("text"), "is missing")
        block.neutral("citations", [])
        self._end(block)
        return text

    def _each(self, blocks: list[Any], path: str) -> Iterator[tuple[str, Fields]]:
        self._left -= len(blocks)
        if self._left < 0:
            raise InvalidArgumentError("messages", f"have more than {limits.MAX_PARTS} blocks")
        for i, value in enumerate(blocks):
            if not isinstance(value, dict):
                raise InvalidArgumentError(f"{path}[{i}]", f"is {kind(value)}; must be an object")
            block = Fields(value, path=f"{path}[{i}].")
            yield block.string("type", limit=64) or "", block

    def _end(self, block: Fields) -> None:
        """Whatever may be cached is cached, marked or not."""
        if block.raw("cache_control") is not None:
            self._ignore("cache_control")
        block.end()

    def _ignore(self, name: str) -> None:
        if name not in self.ignored:
            self.ignored.append(name)


def _joined(texts: list[str]) -> str:
    return _BETWEEN.join(texts)
