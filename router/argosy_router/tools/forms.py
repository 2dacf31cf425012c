"""The forms in which families of models write tool calls, told by their chat templates."""

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

THINK, THOUGHT = "<think>", "</think>"
"""What stands around reasoning."""


class Form(StrEnum):
    """How calls stand in an answer."""

    HERMES = "hermes"
    """Hermes, Qwen: `<tool_call>{"name": …, "arguments": {…}}</tool_call>`, between other text."""
    LLAMA = "llama"
    """Llama 3: the answer is `{"name": …, "parameters": {…}}`, several with `;` or line breaks between them."""
    MISTRAL = "mistral"
    """Mistral: `[TOOL_CALLS][{"name": …, "arguments": {…}}, …]`, or `[TOOL_CALLS]NAME{…}`, also with `[ARGS]`."""
    JSON = "json"
    """Any other: the answer is `{"name": …, "arguments": {…}}`, or an array of such objects."""

    @property
    def arguments(self) -> str:
        """The key of the arguments."""
        return "parameters" if self is Form.LLAMA else "arguments"


def form_of(template: str) -> Form:
    """The form that a model has learnt which has this chat template."""
    if "<tool_call>" in template:
        return Form.HERMES
    if "[TOOL_CALLS]" in template:
        return Form.MISTRAL
    if "<|python_tag|>" in template or re.search(r"\bipython\b", template):
        return Form.LLAMA
    return Form.JSON


@dataclass(frozen=True, slots=True)
class Offer:
    """The tools of one request, checked."""

    tools: tuple[dict[str, Any], ...]
    """As the request has them: `{"type": "function", "function": {"name": …, …}}`."""
    must: tuple[str, ...] = ()
    """One of these is to be called; empty: the model may as well answer in words."""
    several: bool = True
    """Whether more than one call may come."""
    parsed: bool = True
    """Whether calls are looked for: `tool_choice: none` shows the model its tools, and takes its text as it is."""

    @property
    def names(self) -> frozenset[str]:
        """Of all tools."""
        return frozenset(tool["function"]["name"] for tool in self.tools)
