"""A CustomResourceDefinition that is newer than the operator, as for a moment in every upgrade.

It fills fields in that this operator does not know. One that holds the definition's own default asks for nothing that
was not so before: it is left out, and the resource is what it was. One with another value was set by somebody, and is
refused like any unknown field.
"""

import functools
import logging
import time
from collections.abc import Mapping
from typing import Any

from argosy_api.crd import crd
from argosy_api.resource import GROUP, PLURAL, VERSION
from argosy_operator.errors import ApiError
from argosy_operator.kube import KubeApi

log = logging.getLogger(__name__)

Schema = Mapping[str, Any]
FRESH_S = 10.0


class Definition:
    """The definition as the API server has it, looked at where a resource has a field that is not known."""

    def __init__(self, api: KubeApi) -> None:
        self._api = api
        self._schema: Schema | None = None
        self._read_at = float("-inf")

    async def without_defaults(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """The resource without what only a newer definition has filled in; as it is where nobody can tell."""
        if time.monotonic() - self._read_at > FRESH_S:
            self._read_at = time.monotonic()
            try:
                self._schema = _spec_of(await self._api.definition(f"{PLURAL}.{GROUP}"))
            except ApiError as error:
                log.info("the CustomResourceDefinition cannot be read: %s", error.message)
        known = _known()
        if self._schema is None or known is None:
            return dict(body)
        return {**body, "spec": without_defaults(body["spec"], known, self._schema)}


def without_defaults(value: Any, known: Schema, newer: Schema) -> Any:
    """Leave out fields that only the newer schema has and that hold its default."""
    if isinstance(value, list) and "items" in known and "items" in newer:
        return [without_defaults(item, known["items"], newer["items"]) for item in value]
    if not isinstance(value, dict):
        return value
    ours, theirs = known.get("properties", {}), newer.get("properties", {})
    out = {}
    for name, inner in value.items():
        if name in ours and name in theirs:
            out[name] = without_defaults(inner, ours[name], theirs[name])
        elif name in ours or "default" not in theirs.get(name, {}) or inner != _filled(theirs[name]):
            out[name] = inner
    return out


def _filled(schema: Schema) -> Any:
    """A default, with those of the fields in it, as the API server fills them in."""
    return _fill(schema["default"], schema)


def _fill(value: Any, schema: Schema) -> Any:
    if not isinstance(value, dict):
        return value
    fields = schema.get("properties", {})
    missing = {name: _filled(field) for name, field in fields.items() if "default" in field and name not in value}
    return {**{name: _fill(inner, fields.get(name, {})) for name, inner in value.items()}, **missing}


@functools.cache
def _known() -> Schema | None:
    return _spec_of(crd())


def _spec_of(definition: Mapping[str, Any] | None) -> Schema | None:
    """Schema of `spec`, in the version that this operator reads."""
    versions = (definition or {}).get("spec", {}).get("versions", ())
    found = next((v for v in versions if v["name"] == VERSION), None)
    schema: Schema | None = None if found is None else found["schema"]["openAPIV3Schema"]["properties"]["spec"]
    return schema
