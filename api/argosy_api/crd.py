"""The CustomResourceDefinition, generated from `argosy_api.resource`, `argosy_api.status` and `argosy_api.rules`."""

import ast
import inspect
import textwrap
from itertools import pairwise
from typing import Any

import yaml
from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import core_schema

from argosy_api import resource, rules
from argosy_api.status import InferenceDeploymentStatus

Schema = dict[str, Any]
_KEPT = (
    "type", "format", "description", "enum", "pattern", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum",
    "minLength", "maxLength", "minItems", "maxItems", "maxProperties", "default", "anyOf", "x-kubernetes-int-or-string",
)  # fmt: skip


def crd() -> dict[str, Any]:
    """The whole definition, as a document for the API server."""
    spec = _structural(resource.InferenceDeploymentSpec)
    root: Schema = {
        "type": "object",
        "description": resource.InferenceDeployment.__doc__,
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            "spec": spec,
            "status": _status(),
        },
    }
    for rule in rules.RULES:
        at = root
        for key in filter(None, rule.at.split(".")):
            at = at["properties"][key]
        # fieldPath would be neater, but it may not point below metadata or at a field that is absent
        at.setdefault("x-kubernetes-validations", []).append(
            {"rule": rule.cel, "message": f"{rule.at}.{rule.field}".lstrip(".") + f": {rule.message}"}
        )
    version = {
        "name": resource.VERSION,
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": root},
        "subresources": {
            "status": {},
            "scale": {
                "specReplicasPath": ".spec.replicas",
                "statusReplicasPath": ".status.replicas",
                "labelSelectorPath": ".status.selector",
            },
        },
        "additionalPrinterColumns": [
            _column("Model", ".spec.model.uri"),
            _column("Ready", ".status.ready"),
            _column("Reason", ".status.reason"),
            _column("Quantization", ".status.model.quantization", priority=1),
            _column("Endpoint", ".status.endpoint", priority=1),
            {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
        ],
    }
    names = {
        "kind": resource.KIND,
        "listKind": f"{resource.KIND}List",
        "plural": resource.PLURAL,
        "singular": resource.KIND.lower(),
        "shortNames": [resource.SHORT_NAME],
        "categories": ["argosy"],
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{resource.PLURAL}.{resource.GROUP}"},
        "spec": {"group": resource.GROUP, "scope": "Namespaced", "names": names, "versions": [version]},
    }


def crd_yaml() -> str:
    """The definition as it is committed in the chart."""
    head = "# Generated from api/argosy_api/resource.py, status.py and rules.py by `make generate`; do not edit.\n"
    return head + yaml.safe_dump(crd(), sort_keys=False, width=120, allow_unicode=True)


def _column(name: str, path: str, priority: int = 0) -> dict[str, Any]:
    column: dict[str, Any] = {"name": name, "type": "string", "jsonPath": path}
    return {**column, "priority": priority} if priority else column


def _status() -> Schema:
    status = _structural(InferenceDeploymentStatus)
    conditions = status["properties"]["conditions"]
    conditions |= {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]}
    conditions["items"]["required"] = ["type", "status", "reason", "lastTransitionTime"]
    for field in status["properties"].values():
        field.pop("default", None)  # a status that was never written shows nothing, rather than zeros
    return status


class _Described(GenerateJsonSchema):
    """Each field is described by the text below it.

    pydantic can do so itself, but then reads the source of every type in every process that imports it: a tenth of
    what a worker takes to start.
    """

    def model_schema(self, schema: core_schema.ModelSchema) -> Schema:
        found = super().model_schema(schema)
        fields, texts = schema["cls"].model_fields, _texts(schema["cls"])
        for name in fields.keys() & texts.keys():
            found["properties"][fields[name].alias or name].setdefault("description", texts[name])
        return found


def _texts(model: type[BaseModel]) -> dict[str, str]:
    """By field: the string that stands below it."""
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(model))).body
    body = definition.body if isinstance(definition, ast.ClassDef) else []
    return {
        field.target.id: inspect.cleandoc(below.value.value)
        for field, below in pairwise(body)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant) and isinstance(below.value.value, str)
    }


def _structural(model: type[BaseModel]) -> Schema:
    """A model's JSON schema in the form that the API server wants: no $ref, no null unions, no titles."""
    document = model.model_json_schema(by_alias=True, mode="validation", schema_generator=_Described)
    return _convert(document, document.get("$defs", {}))


def _convert(node: Schema, definitions: dict[str, Schema]) -> Schema:
    if "$ref" in node:
        target = definitions[node["$ref"].rsplit("/", 1)[-1]]
        node = {**target, **{k: v for k, v in node.items() if k != "$ref"}}
    options = [o for o in node.get("anyOf", ()) if o.get("type") != "null"]
    if len(options) < len(node.get("anyOf", ())):  # Optional[...]: unset is absent, never null
        rest = {k: v for k, v in node.items() if k not in ("anyOf", "default")}
        merged = {**options[0], **rest} if len(options) == 1 else {**rest, "anyOf": options}
        return _convert(merged, definitions)
    out: Schema = {k: node[k] for k in _KEPT if k in node}
    if "const" in node:
        out["enum"] = [node["const"]]
    if "description" in out:
        out["description"] = " ".join(str(out["description"]).split())
    if "properties" in node:
        out["properties"] = {name: _convert(child, definitions) for name, child in node["properties"].items()}
        if node.get("required"):
            out["required"] = node["required"]
    if isinstance(node.get("additionalProperties"), dict):
        out["additionalProperties"] = _convert(node["additionalProperties"], definitions)
    if "items" in node:
        out["items"] = _convert(node["items"], definitions)
    if out.get("type") == "integer":
        out["format"] = "int64"
    if "default" in out and out.get("type") == "object":
        # Complete, not {}: the API server holds a default against the rules before it fills in the defaults inside.
        inside = out.get("properties", {})
        out["default"] = {name: child["default"] for name, child in inside.items() if "default" in child}
    return out
