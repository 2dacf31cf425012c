"""JSON schemas: what is taken out because it says nothing, and what is refused because it could not be kept to.

The library that makes grammars of schemas (`compile`) refuses most keywords that it does not know, by name, and this
refuses those that it would pass over. Bounded here, too: what takes it long, since a compilation cannot be stopped.
"""

import math
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

from argosy_api import limits
from argosy_api.errors import InvalidArgumentError

FORMATS = frozenset(("date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri"))
"""Formats that answers keep to. Any other is an annotation, as JSON Schema has it by default, and changes nothing."""
_PASSED_OVER = ("divisibleBy", "disallow", "extends", "x-guidance")
"""Keywords that the library would pass over, or that are switches of its own."""
_UNKNOWN = (
    "not", "if", "then", "else", "contains", "minContains", "maxContains", "uniqueItems", "propertyNames",
    "dependencies", "dependentRequired", "dependentSchemas", "unevaluatedItems", "unevaluatedProperties",
    "$dynamicRef", "$recursiveRef",
)  # fmt: skip
"""Keywords that it does not know; it refuses them without saying where."""
_NEUTRAL: dict[str, Any] = {"uniqueItems": False, "nullable": False, "minProperties": 0, "minItems": 0, "minLength": 0}
"""Values that ask for nothing."""
_ONE = ("additionalProperties", "additionalItems", "items")
_LISTS = ("allOf", "anyOf", "oneOf", "prefixItems", "items")
_NAMED = ("properties", "patternProperties", "$defs", "definitions")


def checked(schema: Any, field: str) -> Any:
    """The schema without what says nothing; `field` is where it stands in the request.

    Raises:
        InvalidArgumentError: naming the place and the keyword.

    """
    if not isinstance(schema, dict | bool):
        raise InvalidArgumentError(field, "must be a JSON schema: an object, or a boolean")
    _check_depth(schema, field)
    divisors: list[Fraction] = []
    found = _walk(schema, field, divisors)
    if sum(map(_scaled, divisors)) > limits.MAX_MULTIPLES_SUM or _common(divisors) > limits.MAX_MULTIPLE_OF:
        problem = f"multipleOf is kept to where all of them have a common multiple of {limits.MAX_MULTIPLE_OF}"
        raise InvalidArgumentError(field, f"{problem} in units of their last digit at most, and there are not too many")
    return found


def _check_depth(schema: Any, field: str) -> None:
    """No recursion here: this is what makes it safe elsewhere."""
    level: list[Any] = [schema]
    for _ in range(limits.MAX_SCHEMA_DEPTH):
        level = [child for value in level for child in _children(value)]
        if not level:
            return
    raise InvalidArgumentError(field, f"is nested more than {limits.MAX_SCHEMA_DEPTH} levels deep")


def _children(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        yield from (child for child in value.values() if isinstance(child, dict | list))
    elif isinstance(value, list):
        yield from (child for child in value if isinstance(child, dict | list))


def _walk(schema: Any, path: str, divisors: list[Fraction]) -> Any:
    if not isinstance(schema, dict):
        return schema
    found: dict[str, Any] = {}
    for key, value in schema.items():
        where = f"{path}.{key[:40]}"
        if key in _NEUTRAL and value == _NEUTRAL[key] and isinstance(value, type(_NEUTRAL[key])):
            continue
        if key == "format" and value not in FORMATS:
            continue
        if key in _PASSED_OVER or key in _UNKNOWN or (key == "nullable" and value is True):
            raise InvalidArgumentError(where, "is a keyword that answers cannot be kept to here")
        if key == "multipleOf":
            divisors.append(_divisor(value, where))
        if key in _NAMED and isinstance(value, dict):
            if len(value) > limits.MAX_SCHEMA_PROPERTIES:
                raise InvalidArgumentError(where, f"has {len(value)} names; at most {limits.MAX_SCHEMA_PROPERTIES}")
            found[key] = {name: _walk(inner, f"{where}.{name[:40]}", divisors) for name, inner in value.items()}
        elif key in _LISTS and isinstance(value, list):
            found[key] = [_walk(inner, f"{where}[{i}]", divisors) for i, inner in enumerate(value)]
        elif key in _ONE:
            found[key] = _walk(value, where, divisors)
        else:
            found[key] = value
    return found


def _divisor(value: Any, where: str) -> Fraction:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise InvalidArgumentError(where, "must be a number above 0")
    found = Fraction(repr(value))
    if _scaled(found) > limits.MAX_MULTIPLE_OF:
        problem = f"is {value:g}, which is more than {limits.MAX_MULTIPLE_OF} units of its last digit"
        raise InvalidArgumentError(where, problem)
    return found


def _digits(divisor: Fraction) -> int:
    """Digits after the decimal point."""
    digits = 0
    while (divisor * 10**digits).denominator != 1 and digits < limits.MAX_MULTIPLE_DIGITS:
        digits += 1
    return digits


def _scaled(divisor: Fraction) -> int:
    """In units of its last digit, but at least what its digits after the point alone make."""
    unit: int = 10 ** _digits(divisor)
    return max(math.ceil(divisor * unit), unit)


def _common(divisors: list[Fraction]) -> int:
    digits = max(map(_digits, divisors), default=0)
    return math.lcm(*(max(1, int(d * 10**digits)) for d in divisors), 1)
