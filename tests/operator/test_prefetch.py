"""Nodes that pull what workers need before one comes: which, by what Jobs, and what the status says of it."""

import fakecluster
import pytest
from fakeapi import ApiError, Key
from operator_kit import NAMESPACE, document
from waiting import eventually

from argosy_api.resource import parse
from argosy_operator import nodes, prefetch
from argosy_operator.manifests import PlanSettings
from argosy_operator.plan import ChildRef, Observed, plan
from argosy_operator.prefetch import NodeView, fitting

GPU = [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}]
INSTALLED = PlanSettings(image_pull_secrets=("login",))
URI = "oci://registry.example/m:v1/m.gguf"


def resource(**placement):
    return parse(document(uri=URI, placement={"prefetch": True, **placement}))


def made(observed, **placement):
    return [m for m in plan(resource(**placement), observed, INSTALLED).apply if m["kind"] == "Job"]


def node_of(job):
    affinity = job["spec"]["template"]["spec"]["affinity"]["nodeAffinity"]
    (term,) = affinity["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    return term["matchFields"][0]["values"][0]


@pytest.mark.parametrize(
    ("node", "placement", "fits"),
    [
        ({}, {}, True),
        ({"ready": False}, {}, False),
        ({"labels": {"disk": "fast"}}, {"nodeSelector": {"disk": "fast"}}, True),
        ({"labels": {"disk": "slow"}}, {"nodeSelector": {"disk": "fast"}}, False),
        ({"taints": (("gpu", "", "NoSchedule"),)}, {}, False),
        ({"taints": (("gpu", "", "PreferNoSchedule"),)}, {}, True),
        ({"taints": (("gpu", "", "NoSchedule"),)}, {"tolerations": GPU}, True),
        ({"taints": (("gpu", "", "NoExecute"),)}, {"tolerations": GPU}, False),
        ({"taints": (("gpu", "a", "NoSchedule"),)}, {"tolerations": [{"key": "gpu", "value": "b"}]}, False),
        ({"taints": (("gpu", "a", "NoSchedule"),)}, {"tolerations": [{"key": "gpu", "value": "a"}]}, True),
        ({"taints": (("any", "", "NoExecute"),)}, {"tolerations": [{"operator": "Exists"}]}, True),
    ],
)
def test_which_nodes_are_meant(node, placement, fits):
    view = NodeView(**{"name": "n", "labels": {}, **node})
    assert fitting(resource(**placement), [view]) == (("n",) if fits else ())


def test_a_cordoned_node_is_not_ready():
    body = {"metadata": {"name": "n"}, "status": {"conditions": [{"type": "Ready", "status": "True"}]}}
    assert NodeView.from_body(body).ready
    assert not NodeView.from_body({**body, "spec": {"unschedulable": True}}).ready
    assert not NodeView.from_body({"metadata": {"name": "n"}}).ready


def test_a_job_pulls_what_a_worker_needs_on_its_node_and_has_no_more_rights():
    (job,) = made(Observed(nodes=("n1",)), tolerations=GPU)
    worker = next(m for m in plan(resource(), Observed(), INSTALLED).apply if m["kind"] == "Deployment")["spec"][
        "template"
    ]
    pod = job["spec"]["template"]["spec"]
    (container,), (theirs,) = pod["containers"], worker["spec"]["containers"]
    assert node_of(job) == "n1"
    assert container["image"] == theirs["image"]
    assert pod["volumes"] == [{"name": "model-image", "image": {"reference": "registry.example/m:v1"}}]
    assert [mount["name"] for mount in container["volumeMounts"]] == ["model-image"]
    assert pod["imagePullSecrets"] == [{"name": "login"}]
    assert pod["tolerations"] == [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}]
    assert pod["securityContext"] == worker["spec"]["securityContext"]
    assert container["securityContext"] == theirs["securityContext"]
    assert pod["automountServiceAccountToken"] is False
    assert "env" not in container
    # what selects workers does not find it
    assert not job["spec"]["template"]["metadata"]["labels"].keys() & {"serving.argosy.dev/name"}


def test_some_nodes_at_a_time():
    names = tuple(f"n{i}" for i in range(10))
    first = made(Observed(nodes=names))
    assert len(first) == prefetch.AT_ONCE
    there = {job["metadata"]["name"]: prefetch.DONE for job in first[:3]} | {first[3]["metadata"]["name"]: ""}
    then = made(Observed(nodes=names, jobs=there))
    assert {m["metadata"]["name"] for m in then} >= set(there)
    assert len(then) == 3 + prefetch.AT_ONCE


def test_other_content_is_another_job_and_the_former_goes():
    (old,) = made(Observed(nodes=("n1",)))
    ref = ChildRef("batch/v1", "Job", old["metadata"]["name"])
    changed = parse(document(uri="oci://registry.example/m:v2/m.gguf", placement={"prefetch": True}))
    planned = plan(changed, Observed(frozenset({ref}), nodes=("n1",), jobs={ref.name: prefetch.DONE}), INSTALLED)
    assert ref in planned.delete
    assert planned.prefetched == prefetch.Prefetched(nodes=1, done=0)


@pytest.mark.parametrize(("found", "stays"), [((), False), (None, True), (("n1",), True)])
def test_the_job_of_a_node_that_went_goes(found, stays):
    (job,) = made(Observed(nodes=("n1",)))
    ref = ChildRef("batch/v1", "Job", job["metadata"]["name"])
    planned = plan(resource(), Observed(frozenset({ref}), nodes=found, jobs={ref.name: prefetch.DONE}), INSTALLED)
    assert (ref not in planned.delete) == stays


def test_it_replaces_no_pod():
    with_it, without = resource(), parse(document(uri=URI))
    assert plan(with_it, Observed(nodes=("n1",)), INSTALLED).revision == plan(without, Observed(), INSTALLED).revision


# ------------------------------------------------------------------ on a fake cluster


def add_node(world, name, **spec):
    body = {"metadata": {"name": name}, "spec": spec, "status": {"conditions": [{"type": "Ready", "status": "True"}]}}
    world.server.create(Key(fakecluster.NODES, None, name), body)
    key = Key(fakecluster.NODES, None, name)
    world.server.update(key, {**world.server.objects[key], "status": body["status"]}, "status")


def jobs(world):
    return {key.name: job for key, job in world.server.objects.items() if key.gvr == fakecluster.JOBS}


def end(world, name, how=prefetch.DONE):
    key = Key(fakecluster.JOBS, NAMESPACE, name)
    status = {"conditions": [{"type": how, "status": "True"}]}
    world.server.update(key, {**world.server.objects[key], "status": status}, "status")


async def test_progress_is_in_the_status(world, monkeypatch):
    monkeypatch.setattr(nodes, "FRESH_S", 0.2)
    add_node(world, "n1")
    add_node(world, "n2")
    await world.operator()
    world.apply(document(placement={"prefetch": True}))
    await eventually(lambda: len(jobs(world)) == 2)
    await eventually(lambda: world.condition("Prefetched")[:2] == ("False", "Prefetching"))
    first, second = sorted(jobs(world), key=lambda name: node_of(jobs(world)[name]))
    end(world, first)
    await eventually(lambda: world.status()["prefetch"] == {"nodes": 2, "done": 1, "failed": 0})
    end(world, second, prefetch.FAILED)
    await eventually(lambda: world.condition("Prefetched")[:2] == ("False", "PrefetchFailed"))
    assert "n2" in world.condition("Prefetched")[2]
    assert world.condition("Ready")[0] == "True"  # who serves does not wait for it
    world.server.delete(Key(fakecluster.JOBS, NAMESPACE, second))
    await eventually(lambda: second in jobs(world), "a Job that was deleted is made anew")
    end(world, second)
    await eventually(lambda: world.condition("Prefetched")[:2] == ("True", "Prefetched"))
    add_node(world, "n3")
    await eventually(lambda: len(jobs(world)) == 3, "a new node is noticed")
    world.apply(document())
    await eventually(lambda: not jobs(world))
    await eventually(lambda: "prefetch" not in world.status() and not world.condition("Prefetched")[0])


async def test_who_may_not_list_nodes_says_so(world):
    async def forbid(request, phase):
        if phase == "before" and request.path == "/api/v1/nodes":
            raise ApiError(403, "Forbidden", "nodes is forbidden")

    world.server.hooks.append(forbid)
    await world.operator()
    world.apply(document(placement={"prefetch": True}))
    await eventually(world.is_ready)
    assert world.condition("Prefetched")[:2] == ("Unknown", "NotObserved")
    assert not jobs(world)
