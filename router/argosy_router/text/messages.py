"""What a client may ask to be turned into tokens."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

Message = dict[str, Any]
"""A chat message: `role` and `content`; of an assistant maybe `tool_calls` and `reasoning_content`, of a tool
`tool_call_id`; `name`."""
ROLES = ("system", "developer", "user", "assistant", "tool")
Prompt = str | list[int]
"""A text, or token ids."""


@dataclass(frozen=True, slots=True)
class Extras:
    """What a chat's template gets beside the messages."""

    tools: Sequence[dict[str, Any]] = ()
    """As the OpenAI API has them."""
    documents: Sequence[dict[str, Any]] = ()
    variables: dict[str, Any] = field(default_factory=dict)
    """Of the template's own, by name (`chat_template_kwargs`)."""
