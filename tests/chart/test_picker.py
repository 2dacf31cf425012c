"""What the chart makes for gateways that ask the routers where to send: exactly that, and only when it is asked for."""

import jsonschema
import pytest
from rendered import one

from argosy_router.settings import parse

POOL = {
    "type": "object",
    "additionalProperties": False,
    "required": ["selector", "targetPorts", "endpointPickerRef"],
    "properties": {
        "selector": {
            "type": "object",
            "additionalProperties": False,
            "required": ["matchLabels"],
            "properties": {"matchLabels": {"type": "object", "additionalProperties": {"type": "string"}}},
        },
        "targetPorts": {
            "type": "array",
            "minItems": 1,
            "maxItems": 8,
            "items": {
                "type": "object",
                "additionalProperties": False,
                "required": ["number"],
                "properties": {"number": {"type": "integer", "minimum": 1, "maximum": 65535}},
            },
        },
        "endpointPickerRef": {
            "type": "object",
            "additionalProperties": False,
            "required": ["name", "port"],
            "properties": {
                "group": {"type": "string"},
                "kind": {"const": "Service"},
                "name": {"type": "string", "minLength": 1},
                "port": {"type": "object", "required": ["number"], "properties": {"number": {"type": "integer"}}},
                "failureMode": {"enum": ["FailOpen", "FailClose"]},
            },
        },
    },
}
"""spec of inference.networking.k8s.io/v1 InferencePool, in our words."""


def router(objects):
    (container,) = one(objects, "Deployment", "argosy-router")["spec"]["template"]["spec"]["containers"]
    return parse([str(a) for a in container["args"]], {}), {p["name"]: p["containerPort"] for p in container["ports"]}


def test_by_default_there_is_nothing_of_it(render):
    objects = render()
    settings, ports = router(objects)
    assert (settings.picker_port, settings.picker_routers) == (None, ())
    assert "picker" not in ports
    assert not [i for i in objects if i["kind"] == "InferencePool" or "picker" in i["metadata"]["name"]]


def test_a_gateway_finds_the_picker_and_the_picker_the_routers(render):
    objects = render("router.picker.enabled=true")
    settings, ports = router(objects)
    assert settings.picker_port == ports["picker"] == 9002
    assert settings.picker_routers == (("argosy-router-headless.argosy-system.svc", ports["http"]),)
    headless = one(objects, "Service", "argosy-router-headless")["spec"]
    service = one(objects, "Service", "argosy-router-picker")["spec"]
    labels = one(objects, "Deployment", "argosy-router")["spec"]["template"]["metadata"]["labels"]
    for spec in (headless, service):
        assert spec["selector"].items() <= labels.items()
        assert not spec.get("publishNotReadyAddresses")
    assert [(p["port"], p["targetPort"]) for p in service["ports"]] == [(9002, "picker")]
    assert not [i for i in objects if i["kind"] == "InferencePool"]


@pytest.mark.parametrize("mode", ["FailOpen", "FailClose"])
def test_the_pool_is_of_routers_and_names_their_picker(render, mode):
    more = () if mode == "FailOpen" else ("router.picker.inferencePool.failureMode=FailClose",)
    objects = render("router.picker.enabled=true", "router.picker.inferencePool.enabled=true", *more)
    pool = one(objects, "InferencePool", "argosy-router")
    assert pool["apiVersion"] == "inference.networking.k8s.io/v1"
    jsonschema.validate(pool["spec"], POOL)
    assert pool["spec"]["endpointPickerRef"]["failureMode"] == mode
    picker = pool["spec"]["endpointPickerRef"]
    service = one(objects, "Service", picker["name"])["spec"]
    assert picker["port"]["number"] in [p["port"] for p in service["ports"]]
    template = one(objects, "Deployment", "argosy-router")["spec"]["template"]
    assert pool["spec"]["selector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
    _, ports = router(objects)
    assert [p["number"] for p in pool["spec"]["targetPorts"]] == [ports["http"]]


def test_policies_let_gateways_in(render):
    policy = one(render("gateway-values.yaml"), "NetworkPolicy", "argosy-router")["spec"]
    assert [p["port"] for p in policy["ingress"][0]["ports"]] == [8000, 8001, 9002]
    policy = one(render("networkPolicy.enabled=true"), "NetworkPolicy", "argosy-router")["spec"]
    assert [p["port"] for p in policy["ingress"][0]["ports"]] == [8000, 8001]
