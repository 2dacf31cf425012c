"""One rule over several fields of a resource, and kinds of rules that several sections have."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from argosy_api import quantity
from argosy_api.model_uri import ModelUri

Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Rule:
    """What must hold. `at` is the path of the object that `cel` calls self; `field` is the one to blame, below it."""

    at: str
    field: str
    cel: str
    message: str
    holds: Callable[[Document], bool]
    """Over the object at `at`, with defaults filled in."""


def scheme(spec: Document) -> str:
    """Of the model's URI."""
    return ModelUri.parse(spec["model"]["uri"]).scheme


def size(at: str, field: str) -> Rule:
    """A size comes to a byte at least: 512m is half a byte, where 512Mi was meant."""
    this = f"self.{field}"
    # strings that are no quantities are the pattern's business, and `quantity` must not meet them
    text = f"!isQuantity(string({this})) || quantity(string({this})).compareTo(quantity('1')) >= 0"
    return Rule(
        at, field,
        f"!has({this}) || (type({this}) == int ? int({this}) >= 1 : {text})",
        "must be at least one byte (m is a thousandth of one; write 512Mi or 2Gi)",
        lambda d: field not in d or quantity.parse(d[field]) >= 1,
    )  # fmt: skip
