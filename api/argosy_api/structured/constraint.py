"""The constraint of a request: one type for all ways in, and what travels from router to worker as JSON."""

import json
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from argosy_api import limits
from argosy_api.errors import InvalidArgumentError
from argosy_api.structured.schema import checked


class Kind(StrEnum):
    """How a constraint says what an answer must look like."""

    JSON_SCHEMA = "json_schema"
    REGEX = "regex"
    CHOICE = "choice"
    GRAMMAR = "grammar"


ANY_OBJECT: dict[str, Any] = {"type": "object"}
"""The schema of any JSON object."""


@dataclass(frozen=True, slots=True)
class Constraint:
    """A checked constraint. Make one with `make` or `parse`."""

    kind: Kind
    value: str
    """A schema or the choices as JSON; a pattern or a grammar as it is."""

    @property
    def text(self) -> str:
        """As it travels: `{"KIND": VALUE}`. Equal constraints have equal texts."""
        value = self.value if self.kind in _TEXTS else json.loads(self.value)
        return json.dumps({self.kind.value: value}, ensure_ascii=False, separators=(",", ":"))


_TEXTS = (Kind.REGEX, Kind.GRAMMAR)


def make(kind: Kind, value: Any, *, field: str) -> Constraint:
    """A constraint of the value that a request has for it; `field` is where it stands there.

    Raises:
        InvalidArgumentError: it has the wrong type, is too large, or a schema has what cannot be kept to.

    """
    if kind in _TEXTS:
        if not isinstance(value, str) or not value:
            raise InvalidArgumentError(field, "must be a string that is not empty")
        text = value
    else:
        value = checked(value, field) if kind is Kind.JSON_SCHEMA else _choices(value, field)
        try:
            text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        except (ValueError, RecursionError):
            raise InvalidArgumentError(field, "is no JSON") from None
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise InvalidArgumentError(field, "is not valid Unicode text") from None
    if size > limits.MAX_CONSTRAINT_BYTES:
        raise InvalidArgumentError(field, f"has {size} bytes; at most {limits.MAX_CONSTRAINT_BYTES}")
    return Constraint(kind, text)


def parse(text: str, *, field: str = "constraint") -> Constraint:
    """The inverse of `Constraint.text`. Raises InvalidArgumentError."""
    if len(text) > 2 * limits.MAX_CONSTRAINT_BYTES:
        raise InvalidArgumentError(field, f"has {len(text)} characters; at most {limits.MAX_CONSTRAINT_BYTES} bytes")
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        raise InvalidArgumentError(field, "is no JSON") from None
    kinds = ", ".join(Kind)
    if not isinstance(document, dict) or len(document) != 1:
        raise InvalidArgumentError(field, f"must be an object with one of {kinds}")
    ((name, value),) = document.items()
    if name not in set(Kind):
        raise InvalidArgumentError(field, f"has {name[:40]!r}; must be one of {kinds}")
    return make(Kind(name), value, field=f"{field}.{name}")


def _choices(value: Any, field: str) -> list[str]:
    if not isinstance(value, list) or not value or not all(isinstance(text, str) and text for text in value):
        raise InvalidArgumentError(field, "must be an array of strings, none of them empty")
    if len(value) > limits.MAX_CHOICE_TEXTS:
        raise InvalidArgumentError(field, f"has {len(value)} texts; at most {limits.MAX_CHOICE_TEXTS}")
    return value
