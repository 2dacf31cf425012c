"""A definition newer than the operator: what it fills in changes nothing, what somebody has set is refused."""

import copy

import pytest
from fakeapi import ApiError, Key
from operator_kit import document
from waiting import eventually

from argosy_api.crd import crd
from argosy_operator import definition
from argosy_operator.definition import without_defaults

KNOWN = {
    "properties": {
        "a": {"type": "integer", "default": 1},
        "part": {"properties": {"b": {"type": "string"}}},
        "list": {"type": "array", "items": {"properties": {"c": {"type": "integer"}}}},
    }
}
NEWER = {
    "properties": {
        **KNOWN["properties"],
        "new": {"type": "integer", "default": 7},
        "bare": {"type": "integer"},
        "section": {"default": {}, "properties": {"x": {"default": 2}, "y": {"type": "string"}}},
        "part": {"properties": {"b": {"type": "string"}, "fresh": {"type": "boolean", "default": False}}},
        "list": {"type": "array", "items": {"properties": {"c": {"type": "integer"}, "d": {"default": "d"}}}},
    }
}


@pytest.mark.parametrize(
    ("spec", "left"),
    [
        ({"a": 5, "new": 7}, {"a": 5}),
        ({"a": 5, "new": 8}, {"a": 5, "new": 8}),
        ({"bare": 0}, {"bare": 0}),
        ({"unheard": 7}, {"unheard": 7}),
        ({"section": {"x": 2}}, {}),
        ({"section": {}}, {"section": {}}),
        ({"section": {"x": 3}}, {"section": {"x": 3}}),
        ({"section": {"x": 2, "y": "set"}}, {"section": {"x": 2, "y": "set"}}),
        ({"part": {"b": "b", "fresh": False}}, {"part": {"b": "b"}}),
        ({"part": {"b": "b", "fresh": True}}, {"part": {"b": "b", "fresh": True}}),
        ({"list": [{"c": 1, "d": "d"}, {"c": 2, "d": "e"}]}, {"list": [{"c": 1}, {"c": 2, "d": "e"}]}),
        ({"part": "no mapping"}, {"part": "no mapping"}),
    ],
)
def test_only_what_holds_a_default_is_left_out(spec, left):
    before = copy.deepcopy(spec)
    assert without_defaults(spec, KNOWN, NEWER) == left
    assert spec == before


def newer():
    made = crd()
    spec = made["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    spec["properties"]["engine"]["properties"]["fromTheFuture"] = {"type": "integer", "default": 3}
    return made


def publish(world, made):
    key = Key(definition_kind(world), None, made["metadata"]["name"])
    world.server.create(key, made)


def definition_kind(world):
    return next(gvr for gvr in world.server.resources if gvr.plural == "customresourcedefinitions")


async def test_a_resource_with_a_newer_definition_s_default_is_served(world):
    publish(world, newer())
    await world.operator()
    world.apply(document(engine={"fromTheFuture": 3}))
    await eventually(world.is_ready)


async def test_a_field_that_somebody_has_set_is_refused_by_its_path(world):
    publish(world, newer())
    await world.operator()
    world.apply(document(engine={"fromTheFuture": 4}))
    await eventually(lambda: world.condition("Ready")[1] == "InvalidSpec")
    assert "spec.engine.fromTheFuture" in world.condition("Ready")[2]


async def test_where_definitions_may_not_be_read_unknown_fields_are_refused(world, monkeypatch):
    monkeypatch.setattr(definition, "FRESH_S", 0.0)

    async def forbid(request, phase):
        if (
            phase == "before"
            and request.path.endswith("/customresourcedefinitions")
            and "fieldSelector" in request.query
        ):
            raise ApiError(403, "Forbidden", "no")

    world.server.hooks.append(forbid)
    publish(world, newer())
    await world.operator()
    world.apply(document(engine={"fromTheFuture": 3}))
    await eventually(lambda: world.condition("Ready")[1] == "InvalidSpec")
