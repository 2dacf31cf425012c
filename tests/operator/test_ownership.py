"""What is not a resource's own is never changed, taken over or deleted, whatever its name and labels."""

import copy

import fakecluster
import pytest
from fakeapi import Key
from operator_kit import NAMESPACE, document
from waiting import eventually

from argosy_api.resource import parse
from argosy_operator.manifests import PlanSettings
from argosy_operator.plan import Observed, plan

ALL_KINDS = PlanSettings(redis_url="redis://:hunter2@127.0.0.1:1/0", worker_ingress=())
KINDS = {
    "ServiceAccount": fakecluster.ACCOUNTS, "Secret": fakecluster.SECRETS, "Service": fakecluster.SERVICES,
    "PodDisruptionBudget": fakecluster.BUDGETS, "NetworkPolicy": fakecluster.POLICIES,
    "Deployment": fakecluster.DEPLOYMENTS,
}  # fmt: skip


def wanted():
    """The children of `document()`, by kind."""
    return {m["kind"]: m for m in plan(parse(document()), Observed(), ALL_KINDS).apply}


def theirs(kind, *, name=None, labels=None, owner=None):
    """An object of somebody else, which looks as much like a child as it can."""
    made = copy.deepcopy(wanted()[kind])
    made["metadata"]["name"] = name or made["metadata"]["name"]
    if labels is not None:
        made["metadata"]["labels"] = labels
    if owner is not None:
        made["metadata"]["ownerReferences"] = [owner]
    if kind == "Secret":
        made["data"] = {"password": "dGhlaXJz"}
    if kind == "Deployment":
        made["spec"]["replicas"] = 0
    return Key(KINDS[kind], NAMESPACE, made["metadata"]["name"]), made


def put(world, kind, **about):
    """Create it; its key and what it is now."""
    key, made = theirs(kind, **about)
    made["spec"] = made.get("spec", {}) | {"theirs": True}
    return key, world.server.create(key, made)


def is_as_it_was(world, key, before) -> bool:
    """Nobody but the API server and its controllers has written to it."""
    found = world.server.objects.get(key)
    return found is not None and {k: v for k, v in found.items() if k != "status"} == before


@pytest.mark.parametrize("labels", [{}, None], ids=["its own labels", "our labels"])
@pytest.mark.parametrize("kind", list(KINDS))
async def test_an_object_with_a_childs_name_is_left_alone_and_named(world, kind, labels):
    world.plan = ALL_KINDS
    key, before = put(world, kind, labels=labels)
    await world.operator()
    world.apply(document())
    await eventually(lambda: world.condition("Ready")[1] == "NameConflict", what="the conflict")
    status, _, message = world.condition("Ready")
    assert status == "False"
    assert f"{kind} {key.name} exists already" in message
    assert "hunter2" not in message
    assert is_as_it_was(world, key, before)
    world.delete("m")
    await eventually(lambda: world.key("m") not in world.server.objects)
    assert is_as_it_was(world, key, before)


async def test_it_goes_on_when_the_object_is_gone(world):
    key, _ = put(world, "Service", labels={})
    await world.operator()
    world.apply(document())
    await eventually(lambda: world.condition("Ready")[1] == "NameConflict")
    world.server.delete(key)
    await eventually(world.is_ready)
    assert world.server.objects[key]["metadata"]["ownerReferences"]


async def test_several_conflicts_are_told_together(world):
    for kind in ("Service", "PodDisruptionBudget"):
        put(world, kind, labels={})
    await world.operator()
    world.apply(document())
    await eventually(lambda: world.condition("Ready")[1] == "NameConflict")
    message = world.condition("Ready")[2]
    assert "Service m-worker" in message
    assert "PodDisruptionBudget m-worker" in message


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "Secret"])
async def test_a_copy_with_our_labels_is_not_ours_to_delete(world, kind):
    await world.operator(resync_s=0.2)
    world.apply(document(replicas=0))
    await eventually(world.is_ready)
    key, before = put(world, kind, name="a-copy")
    passes = world._operators[0].metrics.pass_seconds
    count = next(s.value for m in passes.collect() for s in m.samples if s.name.endswith("_count"))
    await eventually(
        lambda: next(s.value for m in passes.collect() for s in m.samples if s.name.endswith("_count")) > count + 3
    )
    assert is_as_it_was(world, key, before)


async def test_a_secret_that_only_sounds_like_ours_is_not_deleted(world):
    world.plan = PlanSettings(redis_url="redis://valkey:6379/0")  # no password, so no Secret is wanted
    names = {theirs("Secret")[0].name, "m-redis"}
    there = [put(world, "Secret", name=name, labels={}) for name in names]
    await world.operator()
    world.apply(document())
    await eventually(world.is_ready)
    assert all(is_as_it_was(world, key, before) for key, before in there)


async def test_without_our_owner_reference_a_child_is_no_longer_ours(world):
    await world.operator()
    world.apply(document())
    await eventually(world.is_ready)
    key = Key(fakecluster.SERVICES, NAMESPACE, "m-worker")
    let_go = copy.deepcopy(world.server.objects[key])
    del let_go["metadata"]["ownerReferences"]
    let_go = world.server.update(key, let_go)
    await eventually(lambda: world.condition("Ready")[1] == "NameConflict")
    assert is_as_it_was(world, key, let_go)


async def test_what_comes_between_looking_and_creating_is_not_taken_over(world):
    made = []

    async def between(request, phase):
        if phase == "before" and request.method == "PATCH" and request.path.endswith("services/m-worker") and not made:
            made.append(put(world, "Service", labels={}))

    world.server.hooks.append(between)
    await world.operator()
    world.apply(document())
    await eventually(lambda: world.condition("Ready")[1] == "NameConflict")
    ((key, before),) = made
    assert is_as_it_was(world, key, before)


async def test_what_takes_a_childs_place_is_not_changed(world):
    await world.operator()
    world.apply(document())
    await eventually(world.is_ready)
    key = Key(fakecluster.SERVICES, NAMESPACE, "m-worker")
    made = []

    async def between(request, phase):
        if phase == "before" and request.method == "PATCH" and request.path.endswith("services/m-worker") and not made:
            world.server.delete(key)
            made.append(put(world, "Service", labels={}))

    world.server.hooks.append(between)
    drifted = copy.deepcopy(world.server.objects[key])
    drifted["spec"]["publishNotReadyAddresses"] = True
    world.server.update(key, drifted)  # so that the operator puts it right
    await eventually(lambda: made and world.condition("Ready")[1] == "NameConflict")
    ((_, before),) = made
    assert is_as_it_was(world, key, before)


async def test_what_takes_a_childs_place_is_not_deleted(world):
    world.plan = ALL_KINDS
    first = await world.operator()
    world.apply(document())
    await eventually(world.is_ready)
    await world.stop(first)
    (key,) = [k for k in world.server.objects if k.gvr == fakecluster.SECRETS]
    made = []

    async def between(request, phase):
        if phase == "before" and request.method == "DELETE" and "/secrets/" in request.path and not made:
            world.server.delete(key)
            made.append(put(world, "Secret", labels={}))

    world.server.hooks.append(between)
    world.plan = PlanSettings()
    await world.operator()
    await eventually(lambda: made and world.is_ready())
    ((_, before),) = made
    assert is_as_it_was(world, key, before)


async def test_children_of_a_former_resource_of_this_name_are_waited_for(world):
    former = {
        "apiVersion": "serving.argosy.dev/v1alpha1", "kind": "InferenceDeployment", "name": "m", "uid": "former",
        "controller": True,
    }  # fmt: skip
    key, made = theirs("Service", owner=former)
    made["metadata"]["finalizers"] = ["somebody/slow"]  # it is collected, and takes its time
    world.server.create(key, made)
    await world.operator()
    world.apply(document())
    await eventually(lambda: "former resource" in world.condition("Ready")[2])
    assert world.condition("Ready")[:2] == ("False", "ApiServerUnavailable")
    going = copy.deepcopy(world.server.objects[key])
    del going["metadata"]["finalizers"]
    world.server.update(key, going)
    await eventually(world.is_ready)
    assert world.server.objects[key]["metadata"]["uid"] != going["metadata"]["uid"]
