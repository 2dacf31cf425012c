"""Requests to OpenAI's /v1/responses out of JSON. Nothing is kept between them: what asks for that is refused."""

from typing import Any

import orjson

from argosy_api import limits
from argosy_api.errors import InvalidArgumentError
from argosy_api.structured.constraint import ANY_OBJECT, Constraint, Kind, make
from argosy_router.fronts.fields import Fields, kind
from argosy_router.fronts.oai_parse import take_model, within
from argosy_router.fronts.oai_tools import bounded, offered, take_function
from argosy_router.fronts.responses_items import take_input
from argosy_router.fronts.sampling import take_bad_words, take_sampling
from argosy_router.fronts.text_request import TextRequest
from argosy_router.text.messages import Extras
from argosy_router.tools.forms import Offer

_NEUTRAL: tuple[tuple[Any, ...], ...] = (
    ("background", False), ("background_options",), ("context_management", []), ("conversation",), ("image",),
    ("max_tool_calls",), ("moderation",), ("prompt",), ("truncation", "disabled"), ("top_logprobs", 0), ("n", 1),
    ("logprobs", False),
)  # fmt: skip
_WITHOUT_EFFECT: tuple[tuple[Any, ...], ...] = (
    ("store", False), ("user",), ("safety_identifier",), ("prompt_cache_key",), ("prompt_cache_options",),
    ("prompt_cache_retention",), ("service_tier", "auto", "default"), ("access_programs",), ("client_metadata",),
)  # fmt: skip
_ENCRYPTED = "reasoning.encrypted_content"


def responses(document: dict[str, Any]) -> TextRequest:
    """A /v1/responses request.

    Raises:
        InvalidArgumentError: naming the first field that is wrong.

    """
    fields = Fields(document)
    model, messages = take_model(fields), take_input(fields)
    if fields.raw("previous_response_id") is not None:
        raise InvalidArgumentError("previous_response_id", "answers are not kept here; send the whole input")
    offer, choice = _take_tools(fields)
    max_tokens = fields.integer("max_output_tokens")
    within("max_output_tokens", max_tokens, 1, limits.MAX_TOKENS)
    params, given = take_sampling(fields, max_tokens=max_tokens, logprobs=None)
    constraint, form = _take_text(fields)
    if constraint is not None and offer is not None and offer.parsed:
        problem = "says what the answer looks like, and so do tools that may be called; with it give tool_choice: none"
        raise InvalidArgumentError("text.format", problem)
    metadata = fields.raw("metadata")
    if not isinstance(metadata, dict | None):
        raise fields.wrong("metadata", metadata, "an object")
    ignored = _take_include(fields) + _take_reasoning(fields)
    stream = fields.boolean("stream") or False
    _take_stream_options(fields)
    for name, *allowed in _NEUTRAL:
        fields.neutral(name, *allowed)
    bad_words = take_bad_words(fields)
    priority, salt = fields.integer("priority") or 0, fields.string("cache_salt", limit=limits.MAX_CACHE_SALT) or ""
    for name, *neutral in _WITHOUT_EFFECT:
        fields.passed_over(name, *neutral)
    fields.end()
    told = {
        "instructions": document.get("instructions"), "metadata": metadata or {}, "format": form, "choice": choice,
        "tools": document.get("tools") or [], "max_output_tokens": max_tokens,
        "parallel": document.get("parallel_tool_calls") is not False,
    }  # fmt: skip
    for name, value in (("metadata", metadata), ("tools", told["tools"]), ("text.format", form)):
        _check_told(value, name)
    return TextRequest(
        model=model, params=params, max_tokens_given=given, messages=messages, offer=offer, stream=stream,
        extras=Extras(offer.tools if offer is not None else ()), constraint=constraint,
        constraint_field="text.format.schema",
        ignored=(*ignored, *fields.ignored), names={"max_tokens": "max_output_tokens", "messages": "input"},
        bad_words=bad_words, priority=priority, cache_salt=salt, told=told,
    )  # fmt: skip


def _take_tools(fields: Fields) -> tuple[Offer | None, Any]:
    """The tools, and the choice among them as it was asked for."""
    tools = tuple(_tool(value, f"tools[{i}]") for i, value in enumerate(bounded(fields, "tools", limits.MAX_TOOLS)))
    names = [tool["function"]["name"] for tool in tools]
    if len(set(names)) < len(names):
        raise InvalidArgumentError("tools", "has a name twice")
    choice, several = fields.raw("tool_choice"), fields.boolean("parallel_tool_calls")
    must: tuple[str, ...] = ()
    if isinstance(choice, dict):
        inner = Fields(choice, path="tool_choice.")
        sort, name = inner.string("type", limit=64), inner.string("name", limit=256)
        inner.end()
        if sort != "function":
            raise InvalidArgumentError("tool_choice.type", f"is {str(sort)!r}; must be function")
        if name not in names:
            raise InvalidArgumentError("tool_choice.name", "is none of the request's tools")
        must = (str(name),)
    elif choice == "required":
        if not tools:
            raise InvalidArgumentError("tool_choice", "needs tools")
        must = tuple(names)
    elif choice not in (None, "auto", "none"):
        raise InvalidArgumentError("tool_choice", "must be 'none', 'auto', 'required', or the name of a function")
    if not tools:
        return None, choice or "auto"
    single = several is False or isinstance(choice, dict)
    made = offered(tools, must, several=not single, parsed=choice != "none", schema="parameters")
    return made, choice or "auto"


def _tool(value: Any, path: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidArgumentError(path, f"is {kind(value)}; must be an object")
    about = Fields(value, path=f"{path}.")
    if about.string("type", limit=64) != "function":
        raise InvalidArgumentError(f"{path}.type", "must be 'function': other tools are not run here")
    made = take_function(about, "parameters")
    for name, *allowed in (("allowed_callers", ["direct"]), ("defer_loading", False), ("output_schema",)):
        about.neutral(name, *allowed)
    about.end()
    return made


def _take_text(fields: Fields) -> tuple[Constraint | None, dict[str, Any]]:
    """What the answer must look like, and how that was asked for."""
    value = fields.raw("text")
    if value is None:
        return None, {"type": "text"}
    if not isinstance(value, dict):
        raise fields.wrong("text", value, "an object")
    text = Fields(value, path="text.")
    text.neutral("verbosity", "medium")
    form = text.raw("format")
    text.end()
    if form is None:
        return None, {"type": "text"}
    if not isinstance(form, dict):
        raise text.wrong("format", form, "an object")
    inner = Fields(form, path="text.format.")
    sort = inner.string("type", limit=64)
    for name in ("name", "description"):
        inner.string(name, limit=1024)
    inner.boolean("strict")  # a schema is kept to in any case
    schema = inner.raw("schema")
    inner.end()
    if sort == "text":
        return None, form
    if sort == "json_object":
        return make(Kind.JSON_SCHEMA, ANY_OBJECT, field="text.format.type"), form
    if sort != "json_schema":
        raise InvalidArgumentError("text.format.type", f"is {sort!r}; must be one of text, json_object, json_schema")
    if not isinstance(schema, dict):
        raise InvalidArgumentError("text.format.schema", f"is {kind(schema)}; must be an object")
    return make(Kind.JSON_SCHEMA, schema, field="text.format.schema"), form


def _take_include(fields: Fields) -> list[str]:
    """What has no effect of it: reasoning comes in plain text."""
    for i, name in enumerate(fields.array("include") or ()):
        if name != _ENCRYPTED:
            raise InvalidArgumentError(f"include[{i}]", f"is {str(name)[:64]!r}, which there is not here")
        return ["include"]
    return []


def _take_reasoning(fields: Fields) -> list[str]:
    value = fields.raw("reasoning")
    if value is None:
        return []
    if not isinstance(value, dict):
        raise fields.wrong("reasoning", value, "an object")
    inner = Fields(value, path="reasoning.")
    inner.neutral("effort", "none")
    for name in ("summary", "generate_summary", "context"):  # it is told as it is
        inner.passed_over(name)
    inner.end()
    return inner.ignored


def _check_told(value: Any, field: str) -> None:
    """The answer tells it again."""
    try:
        orjson.dumps(value)
    except TypeError as error:
        raise InvalidArgumentError(field, f"has what an answer cannot tell again: {str(error)[:100]}") from None


def _take_stream_options(fields: Fields) -> None:
    value = fields.raw("stream_options")
    if value is None:
        return
    if not isinstance(value, dict):
        raise fields.wrong("stream_options", value, "an object")
    options = Fields(value, path="stream_options.")
    options.boolean("include_obfuscation")  # padding against who reads the sizes of packets; never sent
    options.end()
