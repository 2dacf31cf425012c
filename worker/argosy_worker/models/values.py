"""Typed values of a `config.json`. All raise ModelInvalidError, naming the key; null counts as missing."""

from typing import Any

from argosy_api.errors import ModelInvalidError


def integer(raw: dict[str, Any], key: str, default: int | None = None) -> int:
    """An integer; the default where the key is missing, an error where there is none either."""
    value = raw.get(key)
    if value is None:
        value = default
    if isinstance(value, bool) or not isinstance(value, int):
        raise ModelInvalidError(f"config.json: {key} is {value!r}; must be an integer")
    return value


def number(raw: dict[str, Any], key: str, default: float | None = None) -> float:
    """A number."""
    value = raw.get(key)
    if value is None:
        value = default
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ModelInvalidError(f"config.json: {key} is {value!r}; must be a number")
    return float(value)


def flag(raw: dict[str, Any], key: str, *, default: bool) -> bool:
    """A boolean."""
    value = raw.get(key)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise ModelInvalidError(f"config.json: {key} is {value!r}; must be a boolean")
    return value
