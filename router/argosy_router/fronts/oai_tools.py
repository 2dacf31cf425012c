"""Tools, documents and variables of a chat's template out of JSON."""

import re
from typing import Any

from argosy_api import limits
from argosy_api.errors import InvalidArgumentError
from argosy_api.structured.schema import checked
from argosy_router.fronts.fields import Fields, kind
from argosy_router.text.messages import Extras
from argosy_router.tools.forms import Offer

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
RESERVED = ("messages", "tools", "documents", "add_generation_prompt")
"""Variables of a template that a request has fields of its own for."""


def take_tools(fields: Fields) -> Offer | None:
    """`tools`, `tool_choice` and `parallel_tool_calls`; None without tools.

    Raises:
        InvalidArgumentError: naming the field that is wrong.

    """
    tools = tuple(_tool(value, f"tools[{i}]") for i, value in enumerate(bounded(fields, "tools", limits.MAX_TOOLS)))
    choice, several = fields.raw("tool_choice"), fields.boolean("parallel_tool_calls")
    names = [tool["function"]["name"] for tool in tools]
    if len(set(names)) < len(names):
        raise InvalidArgumentError("tools", "has a name twice")
    must = _must(choice, names)
    if not tools:
        return None
    named = isinstance(choice, dict)
    return offered(
        tools, must, several=several is not False and not named, parsed=choice != "none", schema="function.parameters"
    )


def offered(
    tools: tuple[dict[str, Any], ...], must: tuple[str, ...], *, several: bool, parsed: bool, schema: str
) -> Offer:
    """An offer whose tools that must be called have schemas that can be kept to; `schema` is where those stand.

    Raises:
        InvalidArgumentError: naming the place in a schema.

    """
    for i, tool in enumerate(tools):
        function = tool["function"]
        if function["name"] in must:
            function["parameters"] = checked(function.get("parameters") or {}, f"tools[{i}].{schema}")
    return Offer(tools, must=must, several=several, parsed=parsed)


def take_extras(fields: Fields, offer: Offer | None) -> Extras:
    """What the template gets beside the messages. Raises InvalidArgumentError."""
    documents = bounded(fields, "documents", limits.MAX_DOCUMENTS)
    for i, document in enumerate(documents):
        if not isinstance(document, dict):
            raise InvalidArgumentError(f"documents[{i}]", f"is {kind(document)}; must be an object")
    variables = fields.raw("chat_template_kwargs") or {}
    if not isinstance(variables, dict):
        raise fields.wrong("chat_template_kwargs", variables, "an object")
    if taken := set(RESERVED) & set(variables):
        raise InvalidArgumentError(f"chat_template_kwargs.{min(taken)}", "is set by other fields of the request")
    return Extras(offer.tools if offer is not None else (), tuple(documents), variables)


def bounded(fields: Fields, name: str, most: int) -> list[Any]:
    """An array of so many entries at most; empty where it is not given. Raises InvalidArgumentError."""
    value = fields.array(name) or []
    if len(value) > most:
        raise InvalidArgumentError(name, f"has {len(value)} entries; at most {most}")
    return value


def _tool(value: Any, path: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidArgumentError(path, f"is {kind(value)}; must be an object")
    fields = Fields(value, path=f"{path}.")
    if fields.string("type", limit=64) != "function":
        raise InvalidArgumentError(f"{path}.type", "must be 'function': other tools are not run here")
    function = fields.raw("function")
    fields.end()
    if not isinstance(function, dict):
        raise InvalidArgumentError(f"{path}.function", f"is {kind(function)}; must be an object")
    about = Fields(function, path=f"{path}.function.")
    made = take_function(about, "parameters")
    about.end()
    return made


def take_function(about: Fields, schema: str) -> dict[str, Any]:
    """A tool out of the fields of its function; `schema` is that of its arguments. Raises InvalidArgumentError."""
    name, description = about.string("name", limit=256), about.string("description")
    parameters = about.raw(schema)
    about.boolean("strict")  # where a call is asked for its arguments keep to their schema in any case
    if not name or not _NAME.fullmatch(name):
        raise InvalidArgumentError(about.path("name"), "must have 1 to 64 letters, digits, '_', '-' or '.'")
    if parameters is not None and not isinstance(parameters, dict):
        raise about.wrong(schema, parameters, "an object")
    made: dict[str, Any] = {"name": name}
    if description is not None:
        made["description"] = description
    if parameters is not None:
        made["parameters"] = parameters
    return {"type": "function", "function": made}


def _must(choice: Any, names: list[str]) -> tuple[str, ...]:
    if choice in (None, "none", "auto"):
        return ()
    if not names:
        raise InvalidArgumentError("tool_choice", "needs tools")
    if choice == "required":
        return tuple(names)
    if not isinstance(choice, dict):
        raise InvalidArgumentError("tool_choice", "must be 'none', 'auto', 'required', or the name of a function")
    fields = Fields(choice, path="tool_choice.")
    fields.neutral("type", "function")
    function = fields.raw("function")
    fields.end()
    name = function.get("name") if isinstance(function, dict) else None
    if name not in names:
        raise InvalidArgumentError("tool_choice.function.name", "is none of the request's tools")
    return (name,)
