"""Requests to /tokenize and /detokenize, vLLM's, out of JSON."""

from typing import Any

from argosy_api.errors import InvalidArgumentError
from argosy_api.params import SamplingParams
from argosy_router.fronts.fields import Fields
from argosy_router.fronts.oai_messages import take_messages
from argosy_router.fronts.oai_parse import check_count, take_model, token_ids
from argosy_router.fronts.oai_tools import take_extras, take_tools
from argosy_router.fronts.text_request import TextRequest
from argosy_router.text.messages import Prompt


def tokenize(document: dict[str, Any]) -> TextRequest:
    """A /tokenize request: `prompt`, or `messages` and what belongs to a chat.

    Raises:
        InvalidArgumentError: naming the first field that is wrong.

    """
    fields = Fields(document)
    model = take_model(fields)
    told = {"strings": fields.boolean("return_token_strs") or False}
    params = SamplingParams(max_tokens=1)
    if "messages" not in document:
        prompt, special = fields.string("prompt"), fields.boolean("add_special_tokens")
        fields.end()
        if prompt is None:
            raise InvalidArgumentError("prompt", "is missing")
        return TextRequest(
            model=model, params=params, max_tokens_given=True, prompts=[prompt], special=special is not False, told=told
        )
    messages, offer = take_messages(fields), take_tools(fields)
    extras = take_extras(fields, offer)
    for name, *allowed in (
        ("add_special_tokens", False), ("add_generation_prompt", True), ("continue_final_message", False),
        ("chat_template",), ("mm_processor_kwargs",),
    ):  # fmt: skip
        fields.neutral(name, *allowed)
    fields.end()
    return TextRequest(
        model=model, params=params, max_tokens_given=True, messages=messages, offer=offer, extras=extras, told=told
    )


def detokenize(document: dict[str, Any]) -> TextRequest:
    """A /detokenize request: the ids are its one prompt. Raises as `tokenize`."""
    fields = Fields(document)
    model, value = take_model(fields), fields.array("tokens")
    fields.end()
    if value is None:
        raise InvalidArgumentError("tokens", "is missing")
    check_count(len(value), "tokens")
    prompts: list[Prompt] = [token_ids(value, "tokens")]
    return TextRequest(model=model, params=SamplingParams(max_tokens=1), max_tokens_given=True, prompts=prompts)
