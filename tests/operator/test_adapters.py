"""A resource's adapters: a ConfigMap that workers follow, no rollout, and a status by what they say."""

import json

import pytest
from fakecluster import CONFIGS, DEPLOYMENTS, PODS
from operator_kit import NAMESPACE
from waiting import eventually

from argosy_api import adapters as lists
from argosy_api import labels
from argosy_api.resource import AdapterSpec
from argosy_api.worker_status import AdapterState, Phase, ServedModel, WorkerStatus
from argosy_operator.adapters import digest_of, follows, is_settled, judge, statuses

A, B = AdapterSpec(name="a", uri="sim://a"), AdapterSpec(name="b", uri="sim://b")


def state(adapter, phase="Ready", **more):
    return AdapterState(name=adapter.name, uri=adapter.uri, phase=phase, **more)


# --- pure


def test_a_worker_follows_the_list_it_has_seen():
    assert follows([], [])
    assert is_settled([], [])
    assert follows([state(A, "Failed")], [A])
    assert not is_settled([state(A, "Failed")], [A])
    assert is_settled([state(A), state(B)], [A, B])
    assert not follows([state(B), state(A)], [A, B])
    assert not follows([state(A)], [AdapterSpec(name="a", uri="sim://other")])


def test_ready_is_what_all_workers_serve():
    ready, loading = statuses([A, B], {"p": [state(A), state(B)], "q": [state(A)]})
    assert (ready.state, ready.ready_replicas) == ("Ready", 2)
    assert (loading.state, loading.ready_replicas) == ("Loading", 1)
    assert judge([ready])[:2] == ("True", "AdaptersLoaded")
    assert judge([ready, loading])[:2] == ("Unknown", "AdaptersLoading")
    assert statuses([A], {})[0].state == "Loading"


def test_one_that_fails_says_where_and_why():
    said = {"p": [state(A)], "q": [state(A, "Failed", reason="ModelInvalid", message="tensor 'x' has shape (1, 2)")]}
    (failed,) = statuses([A], said)
    assert (failed.state, failed.ready_replicas, failed.reason) == ("Failed", 1, "ModelInvalid")
    assert failed.message == "q says: tensor 'x' has shape (1, 2)."
    status, reason, message = judge([failed, *statuses([B], {"p": [state(B)]})])
    assert (status, reason) == ("False", "AdapterFailed")
    assert "a: q says" in message
    assert "the others are" in message


def test_the_digest_is_of_the_list():
    assert digest_of([]) == ""
    assert len({digest_of([A]), digest_of([A, B]), digest_of([B, A])}) == 3


# --- with an operator


@pytest.fixture
async def workers(monkeypatch, serve):
    """What every worker says of its adapters: a list that the test changes."""
    said: list = []

    def answer(path):
        if path != "/state":
            return None
        status = WorkerStatus(phase=Phase.READY, model=ServedModel(fingerprint="f"), adapters=tuple(said))
        return json.loads(status.to_json())

    monkeypatch.setattr(labels, "METRICS_PORT", await serve(answer))
    return said


def listed(world):
    found = world.child(CONFIGS, "m-argosy-adapters")
    return None if found is None else found["data"][lists.FILE]


def told(world):
    return {one["name"]: one["state"] for one in world.status().get("adapters", ())}


def document_of(document, *adapters):
    return document(adapters=[adapter.model_dump() for adapter in adapters])


async def test_a_change_of_the_list_reaches_workers_without_a_rollout(world, document, workers):
    await world.operator()
    world.apply(document_of(document))
    await eventually(world.is_ready)
    assert listed(world) is None
    assert world.condition("AdaptersLoaded") == ("", "", "")
    before = world.child(DEPLOYMENTS)["spec"]
    pods = {name for (gvr, _, name) in world.server.objects if gvr == PODS}

    world.apply(document_of(document, A, B))
    await eventually(lambda: listed(world) == lists.to_json([A, B]))
    await eventually(lambda: told(world) == {"a": "Loading", "b": "Loading"})
    (pod,) = [o for k, o in world.server.objects.items() if k.gvr == PODS]
    await eventually(lambda: annotation(world, pod) == digest_of([A, B]))  # so that the kubelet shows it at once
    workers[:] = [state(A), state(B, "Failed", reason="ModelInvalid", message="is none")]
    await eventually(lambda: told(world) == {"a": "Ready", "b": "Failed"})
    assert world.condition("AdaptersLoaded")[:2] == ("False", "AdapterFailed")
    assert "is none" in world.condition("AdaptersLoaded")[2]
    assert world.is_ready()  # the model is served all the same

    world.apply(document_of(document, A))
    await eventually(lambda: listed(world) == lists.to_json([A]))
    workers[:] = [state(A)]
    await eventually(lambda: world.condition("AdaptersLoaded")[0] == "True")
    world.apply(document_of(document))
    workers.clear()
    await eventually(lambda: listed(world) is None)
    await eventually(lambda: told(world) == {} and world.condition("AdaptersLoaded") == ("", "", ""))
    assert world.child(DEPLOYMENTS)["spec"] == before
    assert {name for (gvr, _, name) in world.server.objects if gvr == PODS} == pods


def annotation(world, pod):
    now = next(o for k, o in world.server.objects.items() if k.name == pod["metadata"]["name"] and k.gvr == PODS)
    return now["metadata"].get("annotations", {}).get(labels.ADAPTERS, "")


async def test_an_operator_that_begins_anew_removes_an_old_list(world, document, workers):
    first = await world.operator()
    workers[:] = [state(A)]
    world.apply(document_of(document, A))
    await eventually(lambda: told(world) == {"a": "Ready"})
    await world.stop(first)
    world.apply(document_of(document))
    workers.clear()
    await world.operator()
    await eventually(lambda: listed(world) is None)


async def test_a_foreign_config_map_of_that_name_is_left_alone(world, document, workers):
    world.server.create(
        world.key("m")._replace(gvr=CONFIGS, name="m-argosy-adapters"),
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m-argosy-adapters", "namespace": NAMESPACE}, "data": {"x": "y"}},
    )  # fmt: skip
    await world.operator()
    world.apply(document_of(document, A))
    await eventually(lambda: world.condition("Ready")[1] == "NameConflict")
    assert world.child(CONFIGS, "m-argosy-adapters")["data"] == {"x": "y"}
