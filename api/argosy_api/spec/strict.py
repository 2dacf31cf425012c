"""What the sections are made of: a type that refuses what it does not know, and types of fields that several have."""

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, WithJsonSchema
from pydantic.alias_generators import to_camel

from argosy_api import model_uri, quantity
from argosy_api.errors import InvalidArgumentError
from argosy_api.model_uri import ModelUri

_QUANTITY_SCHEMA = {
    "x-kubernetes-int-or-string": True,
    "anyOf": [{"type": "integer"}, {"type": "string"}],
    "pattern": quantity.PATTERN,
    "maxLength": 32,
}
Quantity = Annotated[str | int, WithJsonSchema(_QUANTITY_SCHEMA)]


def _model_uri(text: str) -> str:
    try:
        ModelUri.parse(text)
    except InvalidArgumentError as error:
        raise ValueError(error.problem) from None
    return text


Uri = Annotated[
    str,
    Field(max_length=model_uri.MAX_LENGTH, json_schema_extra={"pattern": model_uri.PATTERN}),
    AfterValidator(_model_uri),
]


class Strict(BaseModel):
    """A type that refuses what it does not know."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        extra="forbid",
        frozen=True,
        strict=True,
        defer_build=True,
    )
