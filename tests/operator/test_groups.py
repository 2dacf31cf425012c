"""Groups of pods that share a model: which there are, how they are replaced, and restarted as a whole."""

import re
from dataclasses import dataclass, replace

import fakecluster
import pytest
from fakeapi import Key
from hypothesis import given
from hypothesis import strategies as st
from operator_kit import NAMESPACE, document
from waiting import eventually

from argosy_api import labels
from argosy_api.resource import parse
from argosy_api.spec.change import RolloutSpec
from argosy_api.worker_spec import WorkerSpec
from argosy_operator.groups import Aim, Group, choose, torn
from argosy_operator.manifests import PlanSettings
from argosy_operator.observe import PodView
from argosy_operator.plan import Observed, plan
from argosy_router.fleet.membership_kubernetes import SliceView

GGUF = "pvc://models/m.gguf"
INSTALLED = PlanSettings(worker_ingress=())


def shared(pipeline=2, **spec):
    return document(uri=GGUF, parallelism={"pipeline": pipeline}, **spec)


def planned(made):
    made["metadata"]["uid"] = "u"
    return plan(parse(made), Observed(), INSTALLED)


def by_name(result, kind):
    return {m["metadata"]["name"]: m for m in result.apply if m["kind"] == kind}


# ------------------------------------------------------------------ what a group is made of


def test_each_group_is_a_stateful_set_whose_pods_find_each_other():
    result = planned(shared(3, replicas=2))
    made = by_name(result, "StatefulSet")
    names = [f"m-{result.revision[:6]}-{i}" for i in range(2)]
    assert [(w.ref.kind, w.ref.name, w.replicas) for w in result.workloads] == [("StatefulSet", n, 1) for n in names]
    assert not [m for m in result.apply if m["kind"] == "Deployment"]
    spec = made[names[0]]["spec"]
    assert (spec["replicas"], spec["podManagementPolicy"], spec["updateStrategy"]) == (
        3,
        "Parallel",
        {"type": "OnDelete"},
    )
    marks = spec["template"]["metadata"]["labels"]
    assert spec["selector"]["matchLabels"].items() <= marks.items()
    assert spec["selector"] != made[names[1]]["spec"]["selector"]
    (container,) = spec["template"]["spec"]["containers"]
    env = {e["name"]: e.get("value", e.get("valueFrom")) for e in container["env"]}
    assert env["ARGOSY_RANK"]["fieldRef"]["fieldPath"] == "metadata.labels['apps.kubernetes.io/pod-index']"
    assert env["ARGOSY_GROUP"]["fieldRef"]["fieldPath"] == f"metadata.labels['{labels.IN_GROUP}']"
    assert env["ARGOSY_GROUP_LEADER"] == "$(ARGOSY_GROUP)-0.m-group:9002"
    names_in_order = [e["name"] for e in container["env"]]
    assert names_in_order.index("ARGOSY_GROUP") < names_in_order.index("ARGOSY_GROUP_LEADER")
    told = WorkerSpec.parse(container["args"][0].removeprefix("--spec="))
    assert (told.parallelism.pipeline, told.revision) == (3, result.revision)


@pytest.mark.parametrize("name", ["nvidia.com/gpu", "amd.com/gpu"])
def test_each_pod_of_a_group_on_gpus_has_one(name):
    result = planned(shared(3, resources={"gpu": {"resourceName": name}}, engine={"device": "cuda"}))
    ((_, made),) = by_name(result, "StatefulSet").items()
    (container,) = made["spec"]["template"]["spec"]["containers"]
    assert made["spec"]["replicas"] == 3
    assert [container["resources"][part][name] for part in ("requests", "limits")] == ["1", "1"]
    told = WorkerSpec.parse(container["args"][0].removeprefix("--spec="))
    assert (told.parallelism.pipeline, told.engine.device) == (3, "cuda")


def test_a_group_has_a_pod_for_each_part_of_each_stage():
    result = planned(document(uri=GGUF, parallelism={"pipeline": 2, "tensor": 3}))
    ((_, made),) = by_name(result, "StatefulSet").items()
    (container,) = made["spec"]["template"]["spec"]["containers"]
    told = WorkerSpec.parse(container["args"][0].removeprefix("--spec=")).parallelism
    assert (made["spec"]["replicas"], told.tensor, told.pipeline) == (6, 3, 2)


def on_gpus(count, **parallelism):
    return planned(document(uri=GGUF, parallelism=parallelism, resources={"gpu": {"count": count}}))


@pytest.mark.parametrize("parallelism", [{"tensor": 2}, {"pipeline": 2}])
def test_a_pod_with_a_gpu_for_each_part_is_a_worker_like_any_other(parallelism):
    result = on_gpus(2, **parallelism)
    (made,) = by_name(result, "Deployment").values()
    assert [(w.ref.kind, w.replicas) for w in result.workloads] == [("Deployment", 1)]
    assert not by_name(result, "StatefulSet")
    spec = made["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    env = {entry["name"]: entry.get("value") for entry in container["env"]}
    assert env["ARGOSY_LOCAL_RANKS"] == "2"
    assert not env.keys() & {"ARGOSY_RANK", "ARGOSY_GROUP_LEADER"}
    assert [container["resources"][part]["nvidia.com/gpu"] for part in ("requests", "limits")] == ["2", "2"]
    told = WorkerSpec.parse(container["args"][0].removeprefix("--spec="))
    assert told.parallelism.model_dump(exclude_defaults=True) == parallelism
    # a container's own has 64 MiB
    assert {"name": "shared", "mountPath": "/dev/shm"} in container["volumeMounts"]
    assert {"name": "shared", "emptyDir": {"medium": "Memory"}} in spec["volumes"]
    (budget,) = by_name(result, "PodDisruptionBudget").values()
    chosen = budget["spec"]["selector"]["matchLabels"]
    assert chosen.items() <= made["spec"]["template"]["metadata"]["labels"].items()


@pytest.mark.parametrize(("tensor", "pipeline", "count", "pods"), [(4, 1, 2, 2), (2, 3, 2, 3), (2, 4, 4, 2)])
def test_pods_of_a_group_may_have_several_gpus_each(tensor, pipeline, count, pods):
    ((_, made),) = by_name(on_gpus(count, tensor=tensor, pipeline=pipeline), "StatefulSet").items()
    template = made["spec"]["template"]
    (container,) = template["spec"]["containers"]
    env = {e["name"]: e.get("value", e.get("valueFrom")) for e in container["env"]}
    assert (made["spec"]["replicas"], template["metadata"]["labels"][labels.GROUP_SIZE]) == (pods, str(pods))
    assert (env["ARGOSY_LOCAL_RANKS"], container["resources"]["limits"]["nvidia.com/gpu"]) == (str(count), str(count))
    assert env["ARGOSY_RANK"]["fieldRef"]["fieldPath"] == "metadata.labels['apps.kubernetes.io/pod-index']"


def test_pods_with_a_part_each_are_told_of_no_others():
    for result in (planned(shared(2)), on_gpus(1, tensor=2), on_gpus(1)):
        (made,) = [*by_name(result, "StatefulSet").values(), *by_name(result, "Deployment").values()]
        spec = made["spec"]["template"]["spec"]
        assert "ARGOSY_LOCAL_RANKS" not in {entry["name"] for entry in spec["containers"][0]["env"]}
        assert "shared" not in {volume["name"] for volume in spec["volumes"]}


def test_routers_see_the_pods_of_rank_0_alone():
    result = planned(shared())
    (made,) = by_name(result, "StatefulSet").values()
    marks, services = made["spec"]["template"]["metadata"]["labels"], by_name(result, "Service")
    ranks, leaders, workers = (services[name]["spec"] for name in ("m-group", "m-leaders", "m-worker"))
    first, second = marks | {labels.RANK: "0"}, marks | {labels.RANK: "1"}
    assert all(ranks["selector"].items() <= pod.items() for pod in (first, second))
    assert [leaders["selector"].items() <= pod.items() for pod in (first, second)] == [True, False]
    assert not any(workers["selector"].items() <= pod.items() for pod in (first, second))
    assert (ranks["publishNotReadyAddresses"], leaders["publishNotReadyAddresses"]) == (True, False)
    slice_of_ranks = {
        "metadata": {"labels": {labels.NAME: "m"}},
        "ports": ranks["ports"],
        "endpoints": [{"addresses": ["10.0.0.1"], "targetRef": {"kind": "Pod", "name": "p"}}],
    }
    assert SliceView.from_body(slice_of_ranks).workers == ()


def test_policy_and_budget_are_about_all_pods_of_a_group():
    made = planned(shared()).apply
    policy = next(m["spec"] for m in made if m["kind"] == "NetworkPolicy")
    assert policy["podSelector"] == {"matchLabels": {labels.NAME: "m"}}
    assert policy["ingress"] == [{"from": [{"podSelector": policy["podSelector"]}]}]  # any port
    budget = next(m["spec"] for m in made if m["kind"] == "PodDisruptionBudget")
    assert budget["selector"]["matchLabels"] == labels.group_selector("m")


def test_names_leave_room_for_those_of_pods():
    made = shared(replicas=1000)
    made["metadata"]["name"] = "x" * 40
    result = planned(made)
    assert len(result.workloads) == len({w.ref for w in result.workloads}) == 1000
    # a StatefulSet's pods carry its name and a hash of ten characters in a label
    assert all(len(w.ref.name) <= 52 for w in result.workloads)


# ------------------------------------------------------------------ which groups there are


def group(name="g", revision="new", **more):
    return Group(name=name, revision=revision, **more)


ROLLING = RolloutSpec()


def step(there, wanted, rollout=ROLLING, ending=False):
    return choose(Aim("m", labels.STABLE, "new", wanted), there, rollout, ending=ending)


OLD = [group(f"m-old-{i}", "old", routable=True) for i in range(2)]


def test_a_former_group_goes_for_each_new_one_that_serves():
    first = step(OLD, 2)
    assert (first.new, first.stay) == (("m-new-0",), {"m-old-0", "m-old-1"})
    assert step([*OLD, group("m-new-0")], 2) == first
    second = step([*OLD, group("m-new-0", routable=True)], 2)
    assert (second.new, len(second.stay)) == (("m-new-0", "m-new-1"), 1)
    both = [group(name, routable=True) for name in second.new]
    assert step([*OLD[:1], *both], 2) == (second.new, frozenset())


def test_without_room_for_both_former_groups_go_first():
    tight = RolloutSpec(max_surge=0, max_unavailable=1)
    assert step(OLD, 2, tight) == (("m-new-0",), {"m-old-1"})
    recreate = RolloutSpec(strategy="Recreate")
    assert step(OLD, 2, recreate) == ((), frozenset())
    assert step([], 2, recreate, ending=True) == ((), frozenset())
    assert step([], 2, recreate) == (("m-new-0", "m-new-1"), frozenset())


def test_those_with_the_least_to_lose_go():
    there = [group("a", routable=True, cost=5), group("b", routable=True, cost=-9), group("c", cost=99)]
    assert step(there, 2).new == ("a", "b")
    assert step(there, 1).new == ("a",)
    assert step(there, 0).new == ()


@given(
    st.lists(st.tuples(st.sampled_from(["old", "older", "new"]), st.booleans()), max_size=8),
    st.integers(0, 4), st.integers(0, 2), st.integers(0, 2), st.booleans(),
)  # fmt: skip
def test_groups_converge_and_keep_to_what_the_rollout_allows(there, wanted, surge, missing, recreate):
    if not surge and not missing:
        surge = 1
    rollout = RolloutSpec(
        strategy="Recreate" if recreate else "RollingUpdate", max_surge=surge, max_unavailable=missing
    )
    now = [group(f"m-{r}-{i}", r, routable=ok) for i, (r, ok) in enumerate(there)]
    for _ in range(40):
        found = step(now, wanted, rollout)
        able = sum(g.routable for g in now)
        kept = [g for g in now if g.name in {*found.new, *found.stay}]
        assert recreate or sum(g.routable for g in kept) >= min(able, wanted - missing)
        made = [group(name) for name in found.new if name not in {g.name for g in now}]
        assert not made or len(kept) + len(made) <= wanted + surge
        if not made and kept == now and all(g.routable for g in now):
            break
        # of those that start one comes to serve
        now = kept + made
        late = next((g for g in now if not g.routable and g.revision == "new"), None)
        now = [replace(g, routable=True) if g is late else g for g in now]
    assert [g.revision for g in now] == ["new"] * wanted


@dataclass(frozen=True)
class Pod:
    group: str
    created_at: float = 1.0
    told_to_end_at: float = 0.0


def test_a_group_that_loses_a_pod_is_restarted_whole_and_once():
    lost, other, elsewhere = Pod("a", told_to_end_at=5.0), Pod("a"), Pod("b")
    assert torn([lost, other, elsewhere, Pod("")]) == [other]
    assert torn([lost, Pod("a", created_at=5.0)]) == []  # it has begun anew: times are of whole seconds
    assert torn([lost, Pod("a", told_to_end_at=6.0)]) == []
    assert torn([Pod("", told_to_end_at=5.0), Pod("")]) == []


def test_when_a_pod_was_told_to_end_is_not_when_it_must_have_ended():
    body = {
        "metadata": {
            "name": "p", "labels": {labels.IN_GROUP: "g", labels.RANK: "1"}, "deletionGracePeriodSeconds": 42,
            "deletionTimestamp": "2026-11-28T12:00:42Z", "creationTimestamp": "2026-11-28T12:00:00Z",
        }
    }  # fmt: skip
    pod = PodView.from_body(body)
    assert (pod.group, pod.rank, pod.told_to_end_at) == ("g", 1, pod.created_at)


# ------------------------------------------------------------------ in a cluster


def sets(world):
    return sorted(key.name for key in world.server.objects if key.gvr == fakecluster.SETS)


async def test_groups_are_made_scaled_and_counted_as_workers(world):
    await world.operator()
    world.apply(shared(replicas=2))
    await eventually(world.is_ready)
    assert len(world.controllers.pods("m")) == 4
    status = world.status()
    assert (status["replicas"], status["readyReplicas"], status["ready"]) == (2, 2, "2/2")
    assert status["selector"] == (
        "app.kubernetes.io/component=group,apps.kubernetes.io/pod-index=0,serving.argosy.dev/name=m"
    )
    world.scale("m", 3)
    await eventually(lambda: world.status().get("ready") == "3/3")
    assert len(sets(world)) == 3
    world.scale("m", 1)
    await eventually(lambda: len(sets(world)) == 1)
    world.delete("m")
    await eventually(lambda: world.key("m") not in world.server.objects and not sets(world))


async def test_a_change_replaces_groups_one_after_another(world):
    await world.operator()
    world.apply(shared(replicas=2))
    await eventually(world.is_ready)
    before = sets(world)
    world.apply(shared(replicas=2, engine={"maxRunning": 9}))
    await eventually(lambda: world.is_ready() and world.condition("Progressing")[1] == "Complete")
    await eventually(lambda: len(sets(world)) == 2)
    assert not set(before) & set(sets(world))


@pytest.mark.parametrize("back", [False, True])
async def test_from_single_pods_to_groups_and_back_somebody_always_serves(world, back):
    kinds = [document(uri=GGUF, replicas=2), shared(replicas=2)]
    one, other = reversed(kinds) if back else kinds
    await world.operator()
    world.apply(one)
    await eventually(world.is_ready)
    former = {k.name for k in world.server.objects if k.gvr in (fakecluster.SETS, fakecluster.DEPLOYMENTS)}
    world.controllers.fate = lambda pod: (
        fakecluster.ready(pod) if pod["metadata"].get("name", "").startswith(tuple(former)) else NOT_YET
    )
    world.apply(other)
    await eventually(lambda: len(world.controllers.pods("m")) == 6)
    assert former <= {k.name for k in world.server.objects}
    assert {"m-leaders", "m-worker"} <= {k.name for k in world.server.objects if k.gvr == fakecluster.SERVICES}
    world.controllers.fate = fakecluster.ready
    world.controllers.settle()
    await eventually(world.is_ready)
    await eventually(lambda: not former & {k.name for k in world.server.objects})


NOT_YET = {"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "True"}]}


async def test_when_one_pod_ends_all_of_its_group_and_no_other_are_made_anew(world):
    await world.operator()
    world.apply(shared(3, replicas=2))
    await eventually(world.is_ready)
    one, other = sets(world)
    for pod in world.controllers.pods("m").values():
        pod["metadata"]["creationTimestamp"] = "2026-01-01T00:00:00Z"
    world.controllers.fate = lambda pod: fakecluster.ready(pod) | {"message": "so that watches show it"}
    world.controllers.settle()
    await eventually(world.is_ready)
    uids = {name: pod["metadata"]["uid"] for name, pod in world.controllers.pods("m").items()}
    key = Key(fakecluster.PODS, NAMESPACE, f"{one}-1")
    pod = world.server.objects[key]
    pod["metadata"]["finalizers"] = ["test/grace"]  # a kubelet takes its time
    world.server.delete(key)

    def replaced():
        now = {name: pod["metadata"]["uid"] for name, pod in world.controllers.pods("m").items()}
        return {name for name in uids if now.get(name) not in (None, uids[name])}

    await eventually(lambda: replaced() == {f"{one}-0", f"{one}-2"})
    held = world.server.objects[key]
    del held["metadata"]["finalizers"]
    world.server.delete(key)
    await eventually(lambda: replaced() == {f"{one}-0", f"{one}-1", f"{one}-2"})
    await eventually(world.is_ready)
    assert {n: u for n, u in uids.items() if n.startswith(other)}.items() <= {
        name: pod["metadata"]["uid"] for name, pod in world.controllers.pods("m").items()
    }.items()


async def test_what_is_wrong_with_any_pod_of_a_group_is_told(world):
    world.controllers.fate = lambda pod: (
        fakecluster.unschedulable("0/2 nodes are available: 2 Insufficient memory.")
        if re.search(r"-1$", pod["metadata"].get("name", "-1"))
        else NOT_YET
    )
    await world.operator()
    world.apply(shared())
    await eventually(lambda: world.condition("Scheduled")[0] == "False")
    assert "Insufficient memory" in world.condition("Ready")[2]
