"""Requests for embeddings, OpenAI's and Ollama's, out of JSON."""

from typing import Any

from argosy_api import limits
from argosy_api.errors import InvalidArgumentError
from argosy_api.params import SamplingParams
from argosy_router.fronts.fields import Fields
from argosy_router.fronts.oai_parse import take_model, take_prompts, within
from argosy_router.fronts.text_request import TextRequest
from argosy_router.text.messages import Prompt

_FORMATS = ("float", "base64")
_ONE_TOKEN = SamplingParams(max_tokens=1, temperature=0, ignore_eos=True)
"""An embedding comes with an answer's first token."""


def embeddings(document: dict[str, Any]) -> TextRequest:
    """A /v1/embeddings request.

    Raises:
        InvalidArgumentError: naming the first field that is wrong.

    """
    fields = Fields(document)
    model, prompts = take_model(fields), take_prompts(fields, "input", limits.MAX_INPUTS)
    form = fields.string("encoding_format", limit=64) or "float"
    if form not in _FORMATS:
        raise InvalidArgumentError("encoding_format", f"is {form!r}; must be one of {', '.join(_FORMATS)}")
    told = {"form": form, "dimensions": _dimensions(fields)}
    special = fields.boolean("add_special_tokens")
    priority, salt = fields.integer("priority") or 0, fields.string("cache_salt", limit=limits.MAX_CACHE_SALT) or ""
    fields.neutral("truncate_prompt_tokens")
    fields.passed_over("user")
    fields.end()
    return TextRequest(
        model=model, params=_ONE_TOKEN, max_tokens_given=True, prompts=prompts, embeds=True,
        special=special is not False, priority=priority, cache_salt=salt, ignored=tuple(fields.ignored),
        names={"prompt": "input"}, told=told,
    )  # fmt: skip


def ollama_embed(document: dict[str, Any]) -> TextRequest:
    """An /api/embed request. Raises as `embeddings`."""
    fields = Fields(document)
    model, prompts = take_model(fields), take_prompts(fields, "input", limits.MAX_INPUTS)
    if not all(isinstance(prompt, str) for prompt in prompts):
        raise InvalidArgumentError("input", "must be a string or an array of strings")
    return _ollama(fields, model, prompts, "input", dimensions=_dimensions(fields))


def ollama_embeddings(document: dict[str, Any]) -> TextRequest:
    """An /api/embeddings request, as it was before: of one prompt. Raises as `embeddings`."""
    fields = Fields(document)
    model, prompt = take_model(fields), fields.string("prompt")
    if prompt is None:
        raise InvalidArgumentError("prompt", "is missing")
    return _ollama(fields, model, [prompt], "prompt", dimensions=None)


def _ollama(fields: Fields, model: str, prompts: list[Prompt], name: str, *, dimensions: int | None) -> TextRequest:
    for field in ("truncate", "options", "keep_alive"):  # nothing is cut off
        fields.passed_over(field)
    fields.end()
    return TextRequest(
        model=model, params=_ONE_TOKEN, max_tokens_given=True, prompts=prompts, embeds=True,
        ignored=tuple(fields.ignored), names={"prompt": name}, told={"dimensions": dimensions},
    )  # fmt: skip


def _dimensions(fields: Fields) -> int | None:
    dimensions = fields.integer("dimensions")
    within("dimensions", dimensions, 1, limits.MAX_EMBEDDING)
    return dimensions
