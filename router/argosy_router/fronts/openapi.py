"""The OpenAPI document, made of the routes, of their handlers' words, and of what the parsers look for in bodies."""

import re
from collections.abc import Sequence
from typing import Any

from argosy_api.errors import InvalidArgumentError
from argosy_router.fronts.bodies import PARSERS
from argosy_router.fronts.examples import EXAMPLES
from argosy_router.fronts.fields import recorded
from argosy_router.fronts.routes import Route
from argosy_router.fronts.versions import installed_version

_STEP = re.compile(r"([^.\[\]]+)|\[(\d+)\]")


def describe(routes: Sequence[Route]) -> dict[str, Any]:
    """The document."""
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        path = re.sub(r"\{(\w+):[^}]*\}", r"{\1}", route.path)
        paths.setdefault(path, {})[route.method.lower()] = _operation(route, path)
    schemes = {
        "bearer": {"type": "http", "scheme": "bearer"},
        "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
    }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Argosy",
            "version": installed_version(),
            "description": "Fields, ranges and errors: docs/requests.md. What is not listed is refused by name.",
        },
        "paths": paths,
        "components": {"securitySchemes": schemes},
        "security": [{}, {"bearer": []}, {"key": []}],
    }


def _operation(route: Route, path: str) -> dict[str, Any]:
    said = (route.handler.__doc__ or "").strip().partition("\n")[0]
    name = re.sub(r"\W+", "_", f"{route.method.lower()}{path}").strip("_")
    operation: dict[str, Any] = {
        "summary": said,
        "operationId": name,
        "responses": {
            "200": {"description": said},
            "default": {"description": "An error, as this API's clients know it."},
        },
    }
    if "{" in path:
        parameters = [{"name": n, "in": "path", "required": True, "schema": {"type": "string"}} for n in _names(path)]
        operation["parameters"] = parameters
    if route.kind:
        content = {"application/json": {"schema": schema(route.kind), "example": EXAMPLES[route.kind]}}
        operation["requestBody"] = {"required": True, "content": content}
    return operation


def _names(path: str) -> list[str]:
    return re.findall(r"\{(\w+)\}", path)


def schema(kind: str) -> dict[str, Any]:
    """Of a body of this kind: each field that its parser asks for, where that has an example of what it stands in."""
    example = EXAMPLES[kind]
    with recorded() as found:
        try:
            PARSERS[kind](example)
        except InvalidArgumentError as error:
            raise ValueError(f"the example of {kind} is refused: {error}") from error
    top: dict[str, Any] = {"type": "object"}
    # what only some entries of an array may have, as messages of one role, comes first
    for path, told in sorted(found.items(), key=lambda pair: "enum" in pair[1]):
        if "enum" not in told:
            _at(top, path).update(told)
        elif told["enum"] != [None]:  # what must be absent is no field
            place = _at(top, path)
            place.update({} if place else told)
    top["required"] = [name for name in example if _refused_without(kind, example, name)]
    top["additionalProperties"] = False
    return top


def _refused_without(kind: str, example: dict[str, Any], name: str) -> bool:
    try:
        PARSERS[kind]({key: value for key, value in example.items() if key != name})
    except InvalidArgumentError as error:
        return error.field == name
    return False


def _at(schema: dict[str, Any], path: str) -> dict[str, Any]:
    """The schema of what stands at a path, made on the way. All entries of an array are of one schema."""
    for name, index in _STEP.findall(path):
        schema = schema.setdefault("items", {}) if index else schema.setdefault("properties", {}).setdefault(name, {})
    return schema
