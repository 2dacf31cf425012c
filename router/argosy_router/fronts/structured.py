"""What an answer must look like, out of JSON: OpenAI's `response_format` and vLLM's fields for the same."""

from typing import Any

from argosy_api.errors import InvalidArgumentError
from argosy_api.structured.constraint import ANY_OBJECT, Constraint, Kind, make
from argosy_router.fronts.fields import Fields, parse_json

_GUIDED = {
    "guided_json": Kind.JSON_SCHEMA,
    "guided_regex": Kind.REGEX,
    "guided_choice": Kind.CHOICE,
    "guided_grammar": Kind.GRAMMAR,
}
_STRUCTURED = {
    "json": Kind.JSON_SCHEMA,
    "regex": Kind.REGEX,
    "choice": Kind.CHOICE,
    "grammar": Kind.GRAMMAR,
}
_FORMATS = ("text", "json_object", "json_schema")


def take_constraint(fields: Fields) -> tuple[Constraint | None, str]:
    """The constraint, and the field that it stands in.

    Raises:
        InvalidArgumentError: naming the field; also where two of them ask for something.

    """
    found = [*_response_format(fields), *_guided(fields), *_structured_outputs(fields)]
    if len(found) > 1:
        raise InvalidArgumentError(found[1][1], f"says what the answer looks like, as {found[0][1]} does; give one")
    return found[0] if found else (None, "constraint")


def _response_format(fields: Fields) -> list[tuple[Constraint, str]]:
    value = fields.raw("response_format")
    if value is None:
        return []
    if not isinstance(value, dict):
        raise fields.wrong("response_format", value, "an object")
    inner = Fields(value, path=f"{fields.path('response_format')}.")
    kind = inner.string("type", limit=64)
    if kind not in _FORMATS:
        raise InvalidArgumentError(inner.path("type"), f"is {kind!r}; must be one of {', '.join(_FORMATS)}")
    document = inner.raw("json_schema")
    inner.end()
    if kind == "json_object":
        return [(make(Kind.JSON_SCHEMA, ANY_OBJECT, field=inner.path("type")), inner.path("type"))]
    if kind == "text":
        return []
    if not isinstance(document, dict):
        raise inner.wrong("json_schema", document, "an object with the schema")
    about = Fields(document, path=f"{inner.path('json_schema')}.")
    for name in ("name", "description"):
        about.string(name, limit=1024)
    about.boolean("strict")  # a schema is kept to in any case
    if "schema" not in document:
        raise InvalidArgumentError(about.path("schema"), "is missing")
    schema = about.raw("schema")
    about.end()
    return [(make(Kind.JSON_SCHEMA, schema, field=about.path("schema")), about.path("schema"))]


def _guided(fields: Fields) -> list[tuple[Constraint, str]]:
    found = []
    for name, kind in _GUIDED.items():
        value = fields.raw(name)
        if value is not None:
            found.append(
                (make(kind, _schema(value, kind, fields.path(name)), field=fields.path(name)), fields.path(name))
            )
    for name in ("guided_decoding_backend", "guided_whitespace_pattern"):
        fields.neutral(name)
    return found


def _structured_outputs(fields: Fields) -> list[tuple[Constraint, str]]:
    value = fields.raw("structured_outputs")
    if value is None:
        return []
    if not isinstance(value, dict):
        raise fields.wrong("structured_outputs", value, "an object")
    inner = Fields(value, path=f"{fields.path('structured_outputs')}.")
    found = []
    for name, kind in _STRUCTURED.items():
        given = inner.raw(name)
        if given is not None:
            found.append((make(kind, _schema(given, kind, inner.path(name)), field=inner.path(name)), inner.path(name)))
    if inner.boolean("json_object"):
        found.append((make(Kind.JSON_SCHEMA, ANY_OBJECT, field=inner.path("json_object")), inner.path("json_object")))
    for name, allowed in (("disable_any_whitespace", False), ("disable_additional_properties", False)):
        inner.neutral(name, allowed)
    for name in ("structural_tag", "whitespace_pattern"):
        inner.neutral(name)
    inner.boolean("disable_fallback")  # there is none
    inner.end()
    return found


def _schema(value: Any, kind: Kind, field: str) -> Any:
    """VLLM takes a schema as a text, too."""
    if kind is not Kind.JSON_SCHEMA or not isinstance(value, str):
        return value
    return parse_json(value, field=field)
