"""Tools and calls as plain text, for models whose chat template knows nothing of them."""

import json
from collections.abc import Sequence
from typing import Any

from argosy_router.text.messages import Message

_HOW = (
    "You can call these functions:\n{tools}\n"
    'To call one, answer with a JSON object and nothing else: {{"name": "...", "arguments": {{...}}}}. '
    "To call several, answer with an array of such objects. Otherwise answer in words."
)


def offered(messages: Sequence[Message], tools: Sequence[dict[str, Any]]) -> list[Message]:
    """The messages, with the tools in that of the system."""
    how = _HOW.format(tools="\n".join(json.dumps(tool["function"], ensure_ascii=False) for tool in tools))
    if messages and messages[0]["role"] == "system":
        first, *rest = messages
        return [{**first, "content": f"{first['content']}\n\n{how}"}, *rest]
    return [{"role": "system", "content": how}, *messages]


def called(messages: Sequence[Message]) -> list[Message]:
    """The messages, with each call in its assistant's text."""
    return [_called(message) if message.get("tool_calls") else message for message in messages]


def _called(message: Message) -> Message:
    calls = [call["function"] for call in message["tool_calls"]]
    text = json.dumps(calls[0] if len(calls) == 1 else calls, ensure_ascii=False)
    before = f"{message['content']}\n" if message["content"] else ""
    return {**{key: value for key, value in message.items() if key != "tool_calls"}, "content": before + text}
