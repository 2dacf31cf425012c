"""Ollama's requests out of JSON. What cannot be honoured is refused by name."""

from typing import Any

from argosy_api import limits
from argosy_api.errors import InvalidArgumentError
from argosy_api.structured.constraint import ANY_OBJECT, Constraint, Kind, make
from argosy_router.fronts.fields import Fields, kind
from argosy_router.fronts.oai_messages import take_calls
from argosy_router.fronts.oai_parse import take_model, within
from argosy_router.fronts.oai_tools import take_extras, take_tools
from argosy_router.fronts.ollama_options import NAMES, take_options
from argosy_router.fronts.text_request import TextRequest
from argosy_router.text.messages import Extras, Message

_ROLES = ("system", "user", "assistant", "tool")


def chat(document: dict[str, Any]) -> TextRequest:
    """An /api/chat request; without messages it only asks for the model.

    Raises:
        InvalidArgumentError: naming the first field that is wrong.

    """
    fields = Fields(document)
    model, messages = take_model(fields), _messages(fields)
    offer = take_tools(fields)
    extras = take_extras(fields, offer)
    variables = {**extras.variables, **_take_thinking(fields)}
    extras = Extras(extras.tools, extras.documents, variables)
    request = _common(fields, model, generates=False, messages=messages, offer=offer, extras=extras)
    if request.constraint is not None and offer is not None and offer.parsed:
        raise InvalidArgumentError("format", "says what the answer looks like, and so do tools")
    return request


def generate(document: dict[str, Any]) -> TextRequest:
    """An /api/generate request; without a prompt it only asks for the model. Raises as `chat`."""
    fields = Fields(document)
    model, prompt, system = take_model(fields), fields.string("prompt") or "", fields.string("system") or ""
    raw = fields.boolean("raw") or False
    for name, *allowed in (
        ("suffix", ""), ("template", ""), ("context", []), ("images", []), ("width", 0), ("height", 0), ("steps", 0),
    ):  # fmt: skip
        fields.neutral(name, *allowed)
    variables = _take_thinking(fields)
    if raw:
        if system or variables:
            raise InvalidArgumentError(
                "system" if system else "think", "is the template's matter, which raw leaves out"
            )
        return _common(fields, model, generates=True, prompts=[prompt] if prompt else [])
    messages: list[Message] = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": prompt})
    extras = Extras(variables=variables)
    return _common(fields, model, generates=True, messages=tuple(messages) if prompt else (), extras=extras)


def show(document: dict[str, Any]) -> TextRequest:
    """An /api/show request. Raises as `chat`."""
    fields = Fields(document)
    name = fields.string("name", limit=limits.MAX_MODEL_NAME)  # as it was called before
    model = take_model(Fields({"model": fields.raw("model") or name}))
    fields.boolean("verbose")
    for field in ("system", "template"):
        fields.neutral(field, "")
    fields.neutral("options", {})
    fields.end()
    return _only_model(model)


def _only_model(model: str) -> TextRequest:
    params, *_ = take_options(Fields({}), logprobs=None)
    return TextRequest(model=model, params=params, max_tokens_given=True)


def _common(fields: Fields, model: str, *, generates: bool, **more: Any) -> TextRequest:
    """What both have, and the end of the fields."""
    wanted, top = fields.boolean("logprobs") or False, fields.integer("top_logprobs")
    within("top_logprobs", top, 0, limits.MAX_LOGPROBS)
    params, given, without_effect = take_options(fields, logprobs=(top or 0) if wanted else None)
    constraint = _take_format(fields)
    stream = fields.boolean("stream")
    for name in ("keep_alive", "truncate", "shift"):
        fields.passed_over(name)
    fields.end()
    return TextRequest(
        model=model,
        params=params,
        max_tokens_given=given,
        fills=True,
        stream=stream is not False,
        constraint=constraint,
        constraint_field="format",
        ignored=(*without_effect, *fields.ignored),
        names=NAMES,
        told={"generates": generates},
        **more,
    )


def _take_format(fields: Fields) -> Constraint | None:
    value = fields.raw("format")
    if value in (None, ""):
        return None
    if value == "json":
        return make(Kind.JSON_SCHEMA, ANY_OBJECT, field="format")
    if not isinstance(value, dict):
        raise fields.wrong("format", value, '"json" or a JSON schema')
    return make(Kind.JSON_SCHEMA, value, field="format")


def _take_thinking(fields: Fields) -> dict[str, Any]:
    """A variable of the templates of models that can be told to think first."""
    think = fields.boolean("think")
    return {} if think is None else {"enable_thinking": think}


def _messages(fields: Fields) -> tuple[Message, ...]:
    value = fields.array("messages") or []
    if len(value) > limits.MAX_MESSAGES:
        raise InvalidArgumentError("messages", f"has {len(value)} messages; at most {limits.MAX_MESSAGES}")
    return tuple(_message(item, f"messages[{i}]") for i, item in enumerate(value))


def _message(value: Any, path: str) -> Message:
    if not isinstance(value, dict):
        raise InvalidArgumentError(path, f"is {kind(value)}; must be an object")
    fields = Fields(value, path=f"{path}.")
    role = fields.string("role", limit=32)
    if role not in _ROLES:
        raise InvalidArgumentError(f"{path}.role", f"is {role!r}; must be one of {', '.join(_ROLES)}")
    message: Message = {"role": role, "content": fields.string("content") or ""}
    calls = take_calls(fields, f"{path}.tool_calls")
    if calls and role == "assistant":
        message["tool_calls"] = calls
    thought = fields.string("thinking")
    if thought and role == "assistant":
        message["reasoning_content"] = thought
    if role == "tool":
        message["tool_call_id"] = fields.string("tool_call_id", limit=256) or ""
        name = fields.string("tool_name", limit=256)
        if name:
            message["name"] = name
    fields.neutral("images", [])
    fields.end()
    return message
