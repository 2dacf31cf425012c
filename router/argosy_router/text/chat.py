"""Chat messages to prompt text, by the model's own Jinja template in an immutable sandbox.

The template comes from the model's files and the messages from anyone, so: no attribute tricks (the sandbox), a limit
on the template and on what it writes. Its time and memory are limited by the child process that it runs in.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jinja2

from argosy_api import limits
from argosy_router.children import RefusedError
from argosy_router.text import spelled
from argosy_router.text.chat_sandbox import TemplateRefusedError, environment
from argosy_router.text.messages import Message

_PROBE = "a text that no template has"
_ASKED: Message = {"role": "user", "content": "a question"}
_PROBE_NAME = "name_that_no_template_has"
_PROBE_TOOL = {
    "type": "function",
    "function": {"name": _PROBE_NAME, "description": "", "parameters": {"type": "object", "properties": {}}},
}
_PROBE_CALL = {"id": "0" * 9, "type": "function", "function": {"name": _PROBE_NAME, "arguments": {}}}
_NONE: Mapping[str, Any] = {}
_FAULTS = (
    jinja2.TemplateError, RecursionError, MemoryError, ArithmeticError, LookupError, TypeError, ValueError,
    AttributeError,
)  # fmt: skip


class ChatRenderer:
    """One model's chat template.

    `template` is Jinja source; an empty one is a model without chat. `special_tokens` are variables of the template.
    Raises nothing until it is used: a broken template must not keep the model from serving completions.
    """

    def __init__(self, template: str, special_tokens: Mapping[str, str]) -> None:
        self._tokens = dict(special_tokens)
        self._problem = ""
        self._in_parts = self._takes_tools = self._takes_calls = False
        self._template: jinja2.Template | None = None
        if not template:
            self._problem = "the model has no chat template; use /v1/completions"
        elif len(template.encode("utf-8", "surrogatepass")) > limits.MAX_CHAT_TEMPLATE_BYTES:
            self._problem = f"the model's chat template has more than {limits.MAX_CHAT_TEMPLATE_BYTES} bytes"
        else:
            try:
                self._template = environment().from_string(template)
            except (jinja2.TemplateError, RecursionError) as error:
                self._problem = f"the model's chat template is broken: {error}"
            else:
                self._find_shape(self._template)

    def _find_shape(self, template: jinja2.Template) -> None:
        """Some templates go over the parts of a message's content, and pass over a plain text without a word."""
        tried = [self._shows_content(template, in_parts=False), self._shows_content(template, in_parts=True)]
        self._in_parts = tried == [False, True]
        if tried == [False, False]:
            self._problem = "the model's chat template leaves out what the user says"
            self._template = None
            return
        self._takes_tools = self._shows(template, _PROBE_NAME, tools=[_PROBE_TOOL])
        called = [{**_ASKED}, {"role": "assistant", "content": "", "tool_calls": [_PROBE_CALL]}, {**_ASKED}]
        self._takes_calls = self._shows(template, _PROBE_NAME, messages=called)

    def _shows_content(self, template: jinja2.Template, *, in_parts: bool) -> bool | None:
        """Whether a user's text comes out; None when the template wants another conversation."""
        try:
            return _PROBE in self._run(template, [{"role": "user", "content": _PROBE}], in_parts=in_parts)
        except (*_FAULTS, TemplateRefusedError, RefusedError):
            return None

    def _shows(
        self, template: jinja2.Template, wanted: str, *, messages: Sequence[Message] = (_ASKED,), tools: Any = None
    ) -> bool:
        try:
            return wanted in self._run(template, messages, in_parts=self._in_parts, tools=tools)
        except (*_FAULTS, TemplateRefusedError, RefusedError):
            return False

    def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[dict[str, Any]] = (),
        documents: Sequence[dict[str, Any]] = (),
        variables: Mapping[str, Any] = _NONE,
    ) -> str:
        """The prompt, with the header of the assistant's turn at its end.

        A template that knows nothing of tools gets them as a part of the system's message, and calls as text.

        Raises:
            RefusedError: no template, the template refuses the messages, fails or writes too much.

        """
        if self._template is None:
            raise RefusedError(self._problem)
        if unknown := set(variables) & set(self._tokens):
            raise RefusedError(f"chat_template_kwargs.{min(unknown)} is set by the model")
        if tools and not self._takes_tools:
            messages, tools = spelled.offered(messages, tools), ()
        if not self._takes_calls:
            messages = spelled.called(messages)
        try:
            return self._run(
                self._template, messages, in_parts=self._in_parts, tools=list(tools) or None,
                documents=list(documents) or None, **variables,
            )  # fmt: skip
        except TemplateRefusedError as error:
            raise RefusedError(f"refused by the model's chat template: {error}") from None
        except _FAULTS as error:
            problem = f"the model's chat template failed: {type(error).__name__}: {str(error)[:200]}"
            raise RefusedError(problem) from None

    def _run(self, template: jinja2.Template, messages: Sequence[Message], *, in_parts: bool, **more: Any) -> str:
        parts: list[str] = []
        size = 0
        context: dict[str, Any] = {
            "tools": None,
            "documents": None,
            **more,
            **self._tokens,
            "messages": [
                {**m, "content": [{"type": "text", "text": m["content"]}] if in_parts else m["content"]}
                for m in messages
            ],
            "add_generation_prompt": True,
        }
        for part in template.generate(**context):
            size += len(part)
            if size > limits.MAX_RENDERED_CHAT_BYTES:
                raise RefusedError(f"the chat template wrote more than {limits.MAX_RENDERED_CHAT_BYTES} characters")
            parts.append(part)
        return "".join(parts)
