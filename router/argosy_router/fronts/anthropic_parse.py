"""Requests to Anthropic's /v1/messages out of JSON. What cannot be honoured is refused by name."""

from typing import Any

from argosy_api import limits
from argosy_api.errors import InvalidArgumentError
from argosy_api.params import SamplingParams
from argosy_api.structured.constraint import Constraint, Kind, make
from argosy_router.fronts.anthropic_blocks import Blocks
from argosy_router.fronts.fields import Fields, kind
from argosy_router.fronts.oai_parse import take_model, within
from argosy_router.fronts.oai_tools import bounded, offered, take_function
from argosy_router.fronts.sampling import take_stop
from argosy_router.fronts.text_request import TextRequest
from argosy_router.text.messages import Extras, Message
from argosy_router.tools.forms import Offer

_NEUTRAL: tuple[tuple[Any, ...], ...] = (
    ("container",), ("context_management",), ("mcp_servers", []), ("speed", "standard"), ("fallbacks", []),
)  # fmt: skip
_WITHOUT_EFFECT: tuple[tuple[Any, ...], ...] = (
    ("metadata", {}), ("service_tier", "auto", "standard_only"), ("inference_geo",), ("diagnostics",),
    ("cache_control",), ("user_profile_id",), ("workspace_id",),
)  # fmt: skip


def messages(document: dict[str, Any]) -> TextRequest:
    """A /v1/messages request.

    Raises:
        InvalidArgumentError: naming the first field that is wrong.

    """
    fields = Fields(document)
    model, (chat, offer, variables, ignored) = take_model(fields), _take_chat(fields)
    max_tokens = fields.integer("max_tokens")
    if max_tokens is None:
        raise InvalidArgumentError("max_tokens", "is missing")
    within("max_tokens", max_tokens, 1, limits.MAX_TOKENS)
    temperature, top_k, top_p = fields.number("temperature"), fields.integer("top_k"), fields.number("top_p")
    params = SamplingParams(
        max_tokens=max_tokens,
        temperature=1.0 if temperature is None else temperature,
        top_k=top_k or 0,
        top_p=1.0 if top_p is None else top_p,
        stop=take_stop(fields, "stop_sequences"),
    )
    stream = fields.boolean("stream") or False
    constraint, constraint_field = _take_format(fields)
    for name, *allowed in _NEUTRAL:
        fields.neutral(name, *allowed)
    for name, *neutral in _WITHOUT_EFFECT:
        fields.passed_over(name, *neutral)
    fields.end()
    if constraint is not None and offer is not None and offer.parsed:
        problem = "says what the answer looks like, and so do tools; with it give tool_choice: {type: none}"
        raise InvalidArgumentError(constraint_field, problem)
    return TextRequest(
        model=model, params=params, max_tokens_given=True, messages=chat, offer=offer, stream=stream,
        extras=Extras(offer.tools if offer is not None else (), (), variables), constraint=constraint,
        constraint_field=constraint_field, names={"stop": "stop_sequences"},
        ignored=(*ignored, *fields.ignored),
    )  # fmt: skip


def count(document: dict[str, Any]) -> TextRequest:
    """A /v1/messages/count_tokens request. Raises as `messages`."""
    fields = Fields(document)
    model, (chat, offer, variables, ignored) = take_model(fields), _take_chat(fields)
    _take_format(fields)  # costs no token of the prompt
    for name, *allowed in _NEUTRAL:
        fields.neutral(name, *allowed)
    for name, *neutral in _WITHOUT_EFFECT:
        fields.passed_over(name, *neutral)
    fields.end()
    return TextRequest(
        model=model, params=SamplingParams(max_tokens=1), max_tokens_given=True, messages=chat, offer=offer,
        extras=Extras(offer.tools if offer is not None else (), (), variables), ignored=(*ignored, *fields.ignored),
    )  # fmt: skip


def _take_chat(fields: Fields) -> tuple[tuple[Message, ...], Offer | None, dict[str, Any], list[str]]:
    """Messages, tools, the template's variables, and what of all that has no effect."""
    blocks = Blocks()
    chat = blocks.take(fields)
    variables = _take_thinking(fields, blocks.ignored)
    return chat, _take_tools(fields, blocks.ignored), variables, blocks.ignored


def _take_thinking(fields: Fields, ignored: list[str]) -> dict[str, Any]:
    """Whether the model is to think first: a variable of the templates of models that can be told."""
    value = fields.raw("thinking")
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise fields.wrong("thinking", value, "an object")
    inner = Fields(value, path="thinking.")
    how = inner.string("type", limit=64)
    if how not in ("enabled", "disabled", "adaptive"):
        raise InvalidArgumentError("thinking.type", f"is {how!r}; must be enabled, disabled or adaptive")
    if inner.integer("budget_tokens") is not None:  # the protocol asks for it; a model thinks as long as it thinks
        ignored.append("thinking.budget_tokens")
    inner.neutral("display", "summarized")
    inner.end()
    return {} if how == "adaptive" else {"enable_thinking": how == "enabled"}


def _take_tools(fields: Fields, ignored: list[str]) -> Offer | None:
    tools = tuple(
        _tool(value, f"tools[{i}]", ignored) for i, value in enumerate(bounded(fields, "tools", limits.MAX_TOOLS))
    )
    names = [tool["function"]["name"] for tool in tools]
    if len(set(names)) < len(names):
        raise InvalidArgumentError("tools", "has a name twice")
    choice = fields.raw("tool_choice")
    if choice is None:
        return offered(tools, (), several=True, parsed=True, schema="input_schema") if tools else None
    if not isinstance(choice, dict):
        raise fields.wrong("tool_choice", choice, "an object")
    inner = Fields(choice, path="tool_choice.")
    how, single = inner.string("type", limit=64), inner.boolean("disable_parallel_tool_use")
    name = inner.string("name", limit=256)
    inner.end()
    if how not in ("auto", "any", "tool", "none"):
        raise InvalidArgumentError("tool_choice.type", f"is {how!r}; must be auto, any, tool or none")
    if how in ("any", "tool") and not tools:
        raise InvalidArgumentError("tool_choice", "needs tools")
    if how == "tool" and name not in names:
        raise InvalidArgumentError("tool_choice.name", "is none of the request's tools")
    if not tools:
        return None
    must = tuple(names) if how == "any" else (str(name),) if how == "tool" else ()
    return offered(tools, must, several=not single and how != "tool", parsed=how != "none", schema="input_schema")


def _tool(value: Any, path: str, ignored: list[str]) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidArgumentError(path, f"is {kind(value)}; must be an object")
    about = Fields(value, path=f"{path}.")
    sort = about.raw("type")
    if sort not in (None, "custom"):
        raise InvalidArgumentError(f"{path}.type", f"is {str(sort)[:64]!r}: tools other than your own are not run here")
    made = take_function(about, "input_schema")
    about.neutral("allowed_callers", ["direct"])
    about.neutral("defer_loading", False)
    about.neutral("input_examples", [])
    about.boolean("eager_input_streaming")  # arguments come as they are written in any case
    if about.raw("cache_control") is not None and "cache_control" not in ignored:
        ignored.append("cache_control")
    about.end()
    return made


def _take_format(fields: Fields) -> tuple[Constraint | None, str]:
    """`output_config.format`: a schema that the answer keeps to."""
    value = fields.raw("output_config")
    if value is None:
        return None, "output_config"
    if not isinstance(value, dict):
        raise fields.wrong("output_config", value, "an object")
    config = Fields(value, path="output_config.")
    config.neutral("effort")
    config.neutral("task_budget")
    form = config.raw("format")
    config.end()
    if form is None:
        return None, "output_config"
    if not isinstance(form, dict):
        raise config.wrong("format", form, "an object")
    inner = Fields(form, path="output_config.format.")
    if inner.string("type", limit=64) != "json_schema":
        raise InvalidArgumentError(inner.path("type"), "must be json_schema")
    schema, where = inner.raw("schema"), inner.path("schema")
    inner.end()
    if not isinstance(schema, dict):
        raise InvalidArgumentError(where, f"is {kind(schema)}; must be an object")
    return make(Kind.JSON_SCHEMA, schema, field=where), where
