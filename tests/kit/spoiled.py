"""Invalid resources, made from the CRD's schema: every field wrong in every way that its schema names."""

import copy
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from spec_fields import FIELDS, SPEC, leaves, put, sound


class Spoiled(NamedTuple):
    """A resource with one thing wrong."""

    path: str
    """Of the field that a refusal must name, as spec.placement.tolerations[0].key."""
    why: str
    document: dict[str, Any]


def spoiled() -> Iterator[Spoiled]:
    """All of them."""
    for path, schema in leaves():
        for why, value in wrong_values(schema, FIELDS[path].value):
            document = sound(path)
            put(document["spec"], path, value)
            yield Spoiled(shown(path), why, document)
    for path, schema in sections():
        base = next(sound(p) for p in FIELDS if p == path or p.startswith(f"{path}.") or not path)
        for why, at, value in wrong_sections(path, schema, base["spec"]):
            document = copy.deepcopy(base)
            put(document["spec"], at, value)
            yield Spoiled(shown(at), why, document)
        for name in schema.get("required", ()):
            document = copy.deepcopy(base)
            section = look(document["spec"], path)
            section.pop(name, None)
            yield Spoiled(shown(f"{path}.{name}".lstrip(".")), f"without {name}", document)


def shown(path: str) -> str:
    """As refusals write it."""
    return "spec." + re.sub(r"\.(\d+)", r"[\1]", path)


def wrong_values(schema: dict[str, Any], good: Any) -> Iterator[tuple[str, Any]]:
    """What a field may not be, by its schema, and why."""
    kind = schema.get("type")
    anything = schema.get("x-kubernetes-int-or-string") or "anyOf" in schema
    if "enum" in schema:
        yield "none of the choices", "no-such-choice" if kind == "string" else max(schema["enum"]) + 1
    if kind == "string" or anything:
        yield "a truth value", True
        yield "a list", [good]
        if schema.get("minLength"):
            yield "empty", ""
        if "maxLength" in schema:
            yield "too long", (str(good) + "x" * schema["maxLength"])[: schema["maxLength"] + 1]
        if "pattern" in schema and not re.search(schema["pattern"], "!"):
            yield "against its pattern", "!"
    if kind == "string":
        yield "a number", 7
    if kind in ("integer", "number"):
        yield "a text", "many"
        yield "a truth value", True
        if kind == "integer":
            yield "half a number", 1.5
        if "minimum" in schema:
            yield "too small", schema["minimum"] - 1
        if "maximum" in schema:
            yield "too large", schema["maximum"] + 1
    if kind == "boolean":
        yield "a text", "yes"
        yield "a number", 1
    if kind == "array":
        yield "a text", "one"
        if "maxItems" in schema:
            yield "too many", good * (schema["maxItems"] + 1)
    if kind == "object":
        yield "a list", []
        yield "a number inside", {"key": 7}
        if "maxProperties" in schema:
            yield "too many", {f"k{n}": "v" for n in range(schema["maxProperties"] + 1)}


def sections(node: dict[str, Any] = SPEC, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Path and schema of everything that has fields."""
    yield path, node
    for name, child in node.get("properties", {}).items():
        at = f"{path}.{name}".lstrip(".")
        if child.get("properties"):
            yield from sections(child, at)
        elif child.get("items", {}).get("properties"):
            yield from sections(child["items"], f"{at}.0")


def wrong_sections(path: str, schema: dict[str, Any], spec: dict[str, Any]) -> Iterator[tuple[str, str, Any]]:
    """What may not be where fields are expected: why, where and what."""
    yield "a field that there is none of", f"{path}.noSuchField".lstrip("."), 1
    if not path:
        return
    yield "a text", path, "text"
    *_, last = path.split(".")
    if last == "0":
        parent = path.removesuffix(".0")
        yield "no list", parent, {"a": 1}
        whole = look(spec, parent)
        for limit, count in (("too many", 101), ("none", 0)):
            bounds = schema_of(parent)
            if (limit == "too many" and "maxItems" in bounds) or (limit == "none" and bounds.get("minItems")):
                yield limit, parent, [whole[0]] * count


def schema_of(path: str) -> dict[str, Any]:
    """Of a field."""
    at = SPEC
    for part in path.split("."):
        at = at["items"] if part == "0" else at["properties"][part]
    return at


def look(spec: Any, path: str) -> Any:
    """What is there."""
    for part in filter(None, path.split(".")):
        spec = spec[int(part)] if isinstance(spec, list) else spec[part]
    return spec
