"""From what pydantic finds wrong in a document to our one sentence: the field's path and what would be right."""

from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic.alias_generators import to_camel

from argosy_api.errors import InvalidArgumentError

QUIET = {"uri", "tokenSecretRef"}
"""Parts of paths whose values are not repeated: they may be a secret, or one that somebody wrote there by mistake."""
_SHOWN = 200
"""Characters of a wrong value that are repeated."""


def first_problem(error: ValidationError, root: type[BaseModel], what: str) -> InvalidArgumentError:
    """The first problem, unknown fields last (they often follow from another mistake).

    Args:
        error: what pydantic found.
        root: the type that was read.
        what: name of the whole document, for a problem that is not in a field.

    """
    return all_problems(error, root, what)[0]


def all_problems(error: ValidationError, root: type[BaseModel], what: str) -> list[InvalidArgumentError]:
    """One problem for each field, in the same order."""
    found: dict[str, InvalidArgumentError] = {}
    for problem in sorted(error.errors(include_url=False), key=lambda e: e["type"] == "extra_forbidden"):
        told = _problem(problem, root, what)
        found.setdefault(told.field, told)
    return list(found.values())


def _problem(problem: Any, root: type[BaseModel], what: str) -> InvalidArgumentError:
    parts = [p for p in problem["loc"] if p not in ("str", "int", "constrained-str", "constrained-int")]
    path = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in parts).lstrip(".")
    if problem["type"] == "extra_forbidden":
        return InvalidArgumentError(path, f"is not a field of this {what}" + _did_you_mean(parts, root))
    given = problem.get("input")
    tell = parts and QUIET.isdisjoint(parts) and isinstance(given, str | int | float | bool)
    text = problem["msg"].removeprefix("Value error, ")
    shown = f" (is {str(given)[:_SHOWN]!r})" if isinstance(given, str) else f" (is {given!r})"
    return InvalidArgumentError(path or what, text[0].lower() + text[1:] + (shown if tell else ""))


def _did_you_mean(parts: list[Any], root: type[BaseModel]) -> str:
    import difflib  # noqa: PLC0415 - only on the way to an error

    model: Any = root
    for part in parts[:-1]:
        field = next((f for n, f in model.model_fields.items() if part in (n, to_camel(n))), None) if model else None
        model = (
            next((t for t in _types(field.annotation) if isinstance(t, type) and issubclass(t, BaseModel)), None)
            if field
            else None
        )
    if model is None:
        return ""
    names = [to_camel(n) for n in model.model_fields]
    close = difflib.get_close_matches(str(parts[-1])[:64], names, n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else f"; fields here: {', '.join(names)}"


def _types(annotation: Any) -> tuple[Any, ...]:
    return getattr(annotation, "__args__", None) or (annotation,)
