"""The messages of an OpenAI chat out of JSON."""

import json
from typing import Any

from argosy_api import limits
from argosy_api.errors import InvalidArgumentError
from argosy_router.fronts.fields import Fields, kind
from argosy_router.text.messages import ROLES, Message


def take_messages(fields: Fields) -> tuple[Message, ...]:
    """The field `messages`, at least one.

    Raises:
        InvalidArgumentError: naming the field that is wrong.

    """
    value = fields.array("messages")
    if not value:
        raise InvalidArgumentError("messages", "must have at least one message")
    if len(value) > limits.MAX_MESSAGES:
        raise InvalidArgumentError("messages", f"has {len(value)} messages; at most {limits.MAX_MESSAGES}")
    parts = sum(len(c) for m in value if isinstance(m, dict) and isinstance(c := m.get("content"), list))
    if parts > limits.MAX_PARTS:
        raise InvalidArgumentError("messages", f"have {parts} parts; at most {limits.MAX_PARTS}")
    return tuple(_message(item, f"messages[{i}]") for i, item in enumerate(value))


def _message(value: Any, path: str) -> Message:
    if not isinstance(value, dict):
        raise InvalidArgumentError(path, f"is {kind(value)}; must be an object")
    fields = Fields(value, path=f"{path}.")
    role = fields.string("role", limit=32)
    if role not in ROLES:
        raise InvalidArgumentError(f"{path}.role", f"is {role!r}; must be one of {', '.join(ROLES)}")
    message: Message = {"role": "system" if role == "developer" else role}
    calls = take_calls(fields, f"{path}.tool_calls") if role == "assistant" else []
    message["content"] = _content(fields, path, may_lack=bool(calls))
    if calls:
        message["tool_calls"] = calls
    if role == "tool":
        message["tool_call_id"] = fields.string("tool_call_id", limit=256) or ""
    if role == "assistant":
        thought = fields.string("reasoning_content") or fields.string("reasoning")
        if thought:
            message["reasoning_content"] = thought
    name = fields.string("name", limit=256)
    if name:
        message["name"] = name
    # what a client sends back of an earlier answer
    for field, *allowed in (("refusal",), ("tool_calls", []), ("function_call",), ("audio",), ("annotations", []),
                            ("reasoning_content",), ("reasoning",)):  # fmt: skip
        fields.neutral(field, *allowed)
    fields.end()
    return message


def take_calls(fields: Fields, path: str) -> list[dict[str, Any]]:
    """Calls of an earlier answer, as templates want them. Raises InvalidArgumentError."""
    found = []
    for i, call in enumerate(fields.array("tool_calls") or ()):
        where = f"{path}[{i}]"
        if not isinstance(call, dict):
            raise InvalidArgumentError(where, f"is {kind(call)}; must be an object")
        inner = Fields(call, path=f"{where}.")
        inner.neutral("type", "function")
        inner.raw("index")  # of a stream's deltas
        identity, function = inner.string("id", limit=256) or "", inner.raw("function")
        inner.end()
        if not isinstance(function, dict):
            raise InvalidArgumentError(f"{where}.function", f"is {kind(function)}; must be an object")
        about = Fields(function, path=f"{where}.function.")
        about.raw("index")  # Ollama has it here
        name, arguments = about.string("name", limit=256), about.raw("arguments")
        about.end()
        if not name:
            raise InvalidArgumentError(f"{where}.function.name", "is missing")
        found.append(
            {"id": identity, "type": "function", "function": {"name": name, "arguments": _arguments(arguments)}}
        )
    return found


def _arguments(value: Any) -> Any:
    """Templates write them as an object; what is none, though the API has a text, stays as it is."""
    if not isinstance(value, str):
        return {} if value is None else value
    try:
        said = json.loads(value or "{}")
    except (ValueError, RecursionError):
        return value
    return said if isinstance(said, dict) else value


def _content(fields: Fields, path: str, *, may_lack: bool) -> str:
    value = fields.raw("content")
    if isinstance(value, str):
        return value
    if value is None and may_lack:
        return ""
    if not isinstance(value, list):
        raise fields.wrong("content", value, "a string or an array of text parts")
    texts = []
    for i, part in enumerate(value):
        where = f"{path}.content[{i}]"
        if not isinstance(part, dict):
            raise InvalidArgumentError(where, f"is {kind(part)}; must be an object")
        inner = Fields(part, path=f"{where}.")
        if inner.string("type", limit=64) != "text":
            raise InvalidArgumentError(
                f"{where}.type", f"is {str(part.get('type'))[:64]!r}; only text parts are supported"
            )
        text = inner.string("text")
        if text is None:
            raise InvalidArgumentError(f"{where}.text", "is missing")
        inner.end()
        texts.append(text)
    return "".join(texts)
