"""The plan: pure, complete, convergent; a scale changes no pod; no field is ignored."""

import copy
from dataclasses import replace

import kube_models
import pytest
from engine_fields import single_fields
from hypothesis import given, settings
from hypothesis import strategies as st
from operator_kit import document, paths
from plan_kit import INSTALLED, make_resource, manifests_of, pod_of

from argosy_api import labels
from argosy_api.measures import Measures, Trial, bucket
from argosy_api.resource import InferenceDeploymentSpec, parse
from argosy_api.worker_spec import WorkerSpec
from argosy_operator.manifests import PlanSettings
from argosy_operator.network import Egress
from argosy_operator.plan import ChildRef, Observed, child_ref, plan
from argosy_operator.revisions import GOOD, Revision
from argosy_operator.rollout import Worker
from argosy_router.fleet.membership_kubernetes import DeploymentView

# ------------------------------------------------------------------ any resource that is accepted

_names = st.from_regex(r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?", fullmatch=True)
_maybe = lambda strategy: st.none() | strategy  # noqa: E731


@st.composite
def resources(draw):
    """Documents that `parse` accepts, over the whole of the spec."""
    scheme = draw(st.sampled_from(["hf", "pvc", "oci", "sim", "package", "file"]))
    uri = {
        "hf": "hf://org/repo@main",
        "pvc": "pvc://claim/a/b.gguf",
        "oci": "oci://registry.example:5000/models/a:v1/b.gguf",
        "sim": "sim://tiny",
        "package": "package://p/m.gguf",
        "file": "file:///m",
    }[scheme]
    model = {"uri": uri}
    if draw(st.booleans()):
        model["servedName"] = draw(st.sampled_from(["a", "org/Model-1", "x:y"]))
    if draw(st.booleans()):
        model["maxModelLen"] = draw(st.integers(16, 1 << 20))
    spec = {"model": model, "replicas": draw(st.integers(0, 1000))}
    if scheme == "hf" and draw(st.booleans()):
        model["tokenSecretRef"] = {"name": draw(_names), "key": "k"}
    if scheme == "hf" and draw(st.booleans()):
        spec["modelCache"] = draw(
            st.sampled_from(
                [{"type": "pvc", "claimName": "c"}, {"type": "emptyDir", "size": "5Gi"}, {"type": "emptyDir"}]
            )
        )
    running = draw(st.integers(1, 256))
    engine = {
        "blockSize": draw(st.sampled_from([8, 16, 32, 64, 128])),
        "maxRunning": running,
        "maxBatchTokens": draw(st.integers(max(8, running), 65536)),
        "prefixCaching": draw(st.booleans()),
        "queueOrder": draw(st.sampled_from(["leastWork", "fcfs"])),
        "queueAgeing": draw(st.floats(0, 100)),
    }
    if draw(st.booleans()):
        engine["kvCacheMemory"] = draw(st.sampled_from(["512Mi", "1G", 1000, "0.5Gi"]))
    if draw(st.booleans()):
        engine["threads"] = draw(st.integers(1, 512))
    drafts = [{"method": "off"}, {"model": "pvc://claim/d.gguf"}, {"model": "pvc://other/d"}, {"model": "hf://a/b"}]
    engine["speculative"] = draw(st.sampled_from(drafts))
    spec["engine"] = engine
    if draw(st.booleans()):
        spec["placement"] = {
            "nodeSelector": draw(st.dictionaries(_names, _names, max_size=3)),
            "tolerations": draw(
                st.lists(st.just({"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}), max_size=2)
            ),
        }
    if draw(st.booleans()):
        surge = draw(st.integers(0, 5))
        spec["rollout"] = {"maxSurge": surge, "maxUnavailable": draw(st.integers(0 if surge else 1, 5))}
    if draw(st.booleans()):
        spec["drain"] = {"timeoutSeconds": draw(st.integers(0, 3600))}
    made = document(draw(_names), uri=uri)
    made["spec"] = spec
    made["metadata"]["uid"] = "u"
    return made


class Model:
    """A cluster in which applying and deleting are what they say."""

    def __init__(self) -> None:
        self.objects = {}
        self.writes = 0

    def carry_out(self, made) -> None:
        for manifest in made.apply:
            if self.objects.get(child_ref(manifest)) != manifest:
                self.objects[child_ref(manifest)] = copy.deepcopy(manifest)
                self.writes += 1
        for ref in made.delete:
            if self.objects.pop(ref, None) is not None:
                self.writes += 1

    @property
    def observed(self):
        return Observed(frozenset(self.objects))


@settings(max_examples=150, deadline=None)
@given(resources(), resources(), st.booleans())
def test_pure_and_convergent(first, second, password):
    installed = INSTALLED if password else PlanSettings(redis_url="redis://valkey:6379", redis_access="shared")
    second["metadata"] = first["metadata"]
    before = copy.deepcopy(first)
    cluster = Model()
    for made in (first, second):
        resource = parse(made)
        assert plan(resource, cluster.observed, installed) == plan(resource, cluster.observed, installed)
        cluster.carry_out(plan(resource, cluster.observed, installed))
        writes = cluster.writes
        again = plan(resource, cluster.observed, installed)
        cluster.carry_out(again)
        assert cluster.writes == writes
        assert again.delete == ()
        assert set(cluster.objects) == {child_ref(m) for m in again.apply}
    assert first == before


@settings(max_examples=60, deadline=None)
@given(resources(), st.sampled_from([None, (), ({"ports": [{"port": "grpc"}]},)]))
def test_every_manifest_is_what_kubernetes_defines(made, ingress):
    egress = Egress(downloads=({"ipBlock": {"cidr": "0.0.0.0/0", "except": ["169.254.0.0/16"]}},))
    installed = replace(INSTALLED, worker_ingress=ingress, worker_egress=egress, image_pull_secrets=("login",))
    made["spec"].setdefault("placement", {})["prefetch"] = True
    for manifest in plan(parse(made), Observed(nodes=("n1", "n2")), installed).apply:
        kube_models.check(manifest)


@pytest.mark.parametrize(("path", "value"), [(("replica",), 1), (("replicas",), "two"), (("template", "spec", "x"), 1)])
def test_the_models_find_what_is_not_defined(path, value):
    manifest = copy.deepcopy(manifests_of(make_resource())["Deployment"])
    holder = manifest["spec"]
    for part in path[:-1]:
        holder = holder[part]
    holder[path[-1]] = value
    with pytest.raises(ValueError, match=path[-1]):
        kube_models.check(manifest)


@settings(max_examples=100, deadline=None)
@given(resources())
def test_names_labels_owner_and_selector(made):
    resource = parse(made)
    result = plan(resource, Observed(), INSTALLED)
    for manifest in result.apply:
        metadata = manifest["metadata"]
        assert len(metadata["name"]) <= 63
        assert metadata["namespace"] == resource.metadata.namespace
        assert all(len(value) <= 63 for value in metadata["labels"].values())
        assert metadata["labels"][labels.NAME] == resource.metadata.name
        (owner,) = metadata["ownerReferences"]
        assert (owner["uid"], owner["controller"], owner["blockOwnerDeletion"]) == ("u", True, True)
        assert "resourceVersion" not in metadata
        assert "status" not in manifest
    deployment = result.apply[-1]
    assert deployment["kind"] == "Deployment"
    template = deployment["spec"]["template"]
    (workload,) = result.workloads
    assert (workload.role, workload.track, workload.replicas) == ("leader", "stable", resource.spec.replicas)
    assert child_ref(deployment) == workload.ref
    selector = deployment["spec"]["selector"]["matchLabels"]
    assert (selector[labels.ROLE], selector[labels.TRACK]) == ("leader", "stable")
    assert selector.items() <= template["metadata"]["labels"].items()
    for kind in ("Service", "PodDisruptionBudget"):  # of all workloads, whatever their role and track
        chosen = next(m for m in result.apply if m["kind"] == kind)["spec"]["selector"]
        assert chosen.get("matchLabels", chosen) == labels.worker_selector(resource.metadata.name)
        assert labels.worker_selector(resource.metadata.name).items() <= selector.items()
    assert template["metadata"]["labels"][labels.REVISION] == result.revision == workload.revision
    [argument] = template["spec"]["containers"][0]["args"]
    assert WorkerSpec.parse(argument.removeprefix("--spec=")).revision == result.revision


def test_disaggregation_makes_a_workload_for_each_role():
    """One revision for both; each pod is told what it is for; Service, budget and policy are about all of them."""
    roles = {"prefill": {"replicas": 2}, "decode": {"replicas": 3}}
    result = plan(make_resource(disaggregation=roles), Observed(), replace(INSTALLED, worker_ingress=()))
    found = {m["metadata"]["name"]: m for m in result.apply if m["kind"] == "Deployment"}
    assert list(found) == ["m-prefill", "m-decode"]
    assert [(w.role, w.replicas, w.ref.name) for w in result.workloads] == [
        ("prefill", 2, "m-prefill"),
        ("decode", 3, "m-decode"),
    ]
    for role, manifest in zip(roles, found.values(), strict=True):
        kube_models.check(manifest)
        spec = manifest["spec"]
        assert spec["replicas"] == roles[role]["replicas"]
        assert spec["selector"]["matchLabels"][labels.ROLE] == role
        assert spec["template"]["metadata"]["labels"][labels.REVISION] == result.revision
        [argument] = spec["template"]["spec"]["containers"][0]["args"]
        told = WorkerSpec.parse(argument.removeprefix("--spec="))
        assert (told.role, told.revision) == (role, result.revision)
    kinds = [m["kind"] for m in result.apply]
    assert all(kinds.count(kind) == 1 for kind in ("Service", "PodDisruptionBudget", "NetworkPolicy"))
    scaled = {"prefill": {"replicas": 4}, "decode": {"replicas": 1}}
    assert plan(make_resource(disaggregation=scaled), Observed(), INSTALLED).revision == result.revision
    assert plan(make_resource(), Observed(), INSTALLED).revision != result.revision


def test_equal_workers_serve_until_those_with_roles_can():
    former = ChildRef("apps/v1", "Deployment", "m-leader")
    resource = make_resource(disaggregation={"prefill": {"replicas": 2}, "decode": {"replicas": 1}})
    revision = plan(resource, Observed(), INSTALLED).revision
    for routable, goes in ((2, False), (3, True)):
        workers = tuple(Worker(revision=revision, routable=n < routable) for n in range(3))
        made = plan(resource, Observed(frozenset({former}), workers=workers), INSTALLED)
        assert made.delete == ((former,) if goes else ())


@settings(max_examples=100, deadline=None)
@given(resources(), st.integers(0, 1000))
def test_a_scale_changes_no_pod(made, replicas):
    scaled = copy.deepcopy(made)
    scaled["spec"]["replicas"] = replicas
    one, other = (plan(parse(d), Observed(), INSTALLED) for d in (made, scaled))
    assert one.revision == other.revision
    assert one.apply[-1]["spec"]["template"] == other.apply[-1]["spec"]["template"]
    assert other.apply[-1]["spec"]["replicas"] == replicas


@settings(max_examples=100, deadline=None)
@given(resources(), resources())
def test_the_revision_says_whether_pods_differ(first, second):
    second["metadata"] = first["metadata"]
    one, other = (plan(parse(d), Observed(), INSTALLED) for d in (first, second))
    same = one.apply[-1]["spec"]["template"] == other.apply[-1]["spec"]["template"]
    assert (one.revision == other.revision) == same


@settings(max_examples=60, deadline=None)
@given(resources())
def test_pods_are_restricted(made):
    pod = pod_of(parse(made))
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
    (container,) = pod["containers"]
    security = container["securityContext"]
    assert security["allowPrivilegeEscalation"] is False
    assert security["readOnlyRootFilesystem"] is True
    assert security["capabilities"] == {"drop": ["ALL"]}
    assert {next(iter(v.keys() - {"name"})) for v in pod["volumes"]} <= {
        "emptyDir",
        "persistentVolumeClaim",
        "configMap",
        "image",
    }
    assert {m["name"] for m in container["volumeMounts"]} == {v["name"] for v in pod["volumes"]}


# ------------------------------------------------------------------ every field has an effect

_FULL = {
    "model": {"uri": "hf://org/repo", "servedName": "served", "maxModelLen": 100, "tokenSecretRef": {"name": "s", "key": "k"}},
    "adapters": [{"name": "a", "uri": "hf://org/a"}],
    "engine": {"batching": "dynamic"},
    "quantization": {"weights": "int8", "groupSize": 32},
    "resources": {"gpu": {"count": 1, "resourceName": "nvidia.com/gpu"}},
    "placement": {"tolerations": [{"key": "k", "operator": "Equal", "value": "v", "effect": "NoExecute", "tolerationSeconds": 5}]},
    "modelCache": {"type": "emptyDir", "size": "1Gi"},
    "rollout": {"maxSurge": 1, "maxUnavailable": 1},
}  # fmt: skip
_CHANGES = {
    "model.uri": "hf://org/other", "model.servedName": "another", "model.maxModelLen": 200,
    "model.tokenSecretRef.name": "t", "model.tokenSecretRef.key": "l",
    "adapters.0.name": "b", "adapters.0.uri": "hf://org/b",
    "replicas": 5,
    "disaggregation.prefill.replicas": 3, "disaggregation.decode.replicas": 3,
    **{f"engine.{name}": value for name, value in single_fields().items()},
    "quantization.weights": "int4", "quantization.groupSize": 64, "quantization.kvCache": "bf16",
    "parallelism.pipeline": 2, "parallelism.tensor": 2,
    "resources.cpu": "3", "resources.memory": "7Gi", "resources.gpu.count": 2, "resources.gpu.resourceName": "amd.com/gpu",
    "image": "mine:1",
    "placement.nodeSelector": {"a": "b"}, "placement.tolerations.0.key": "other", "placement.tolerations.0.value": "w",
    "placement.tolerations.0.effect": "NoSchedule", "placement.tolerations.0.tolerationSeconds": 6,
    "placement.tolerations.0.operator": "Exists",
    "placement.spreadOver": "topology.kubernetes.io/zone", "placement.priorityClassName": "high",
    "placement.runtimeClassName": "nvidia", "placement.prefetch": True,
    "modelCache.type": {"type": "pvc", "claimName": "c"}, "modelCache.size": "2Gi",
    "modelCache.claimName": {"type": "pvc", "claimName": "d"},
    "routing.policy": "roundRobin", "routing.fetchBlocks": False, "routing.cacheSharing": "all", "routing.holdSeconds": 30,
    "rollout.strategy": "Recreate", "rollout.maxSurge": 3, "rollout.maxUnavailable": 3,
    "rollout.progressDeadlineSeconds": 100, "rollout.restart": 1, "rollout.partition": 1,
    "rollout.revisionHistoryLimit": 2,
    "rollout.canary.steps.0.weight": 20, "rollout.canary.steps.0.pauseSeconds": 30,
    "rollout.canary.analysis.minRequests": 1000, "rollout.canary.analysis.maxErrorRate": 0.01,
    "rollout.canary.analysis.maxTtftRatio": 1.5, "rollout.canary.analysis.maxItlRatio": 1.5,
    "disruption.maxUnavailable": 3, "drain.timeoutSeconds": 3,
}  # fmt: skip
TEMPLATES = '{"leader":{"metadata":{"labels":{}},"spec":{}}}'
"""Pod templates of revisions before the one that is asked for."""
CANARY = {
    "strategy": "Canary",
    "canary": {
        "steps": [{"weight": 10}],
        "analysis": {"minRequests": 10, "maxErrorRate": 0.5, "maxTtftRatio": 3.0, "maxItlRatio": 3.0},
    },
}
_DECIDING = "autoscaling."
"""These decide a number before there is a plan: test_autoscaling.py."""


def _measured(seconds, errors=0):
    made = Measures(requests=100, errors=errors)
    made.ttft[bucket(seconds)] = made.itl[bucket(seconds)] = 100 - errors
    return made


def test_the_table_of_changes_is_complete():
    planned = {path for path in paths(InferenceDeploymentSpec) if not path.startswith(_DECIDING)}
    assert planned == set(_CHANGES)


@pytest.mark.parametrize("path", sorted(_CHANGES))
def test_no_field_is_ignored(path):
    base = copy.deepcopy(_FULL)
    if path == "modelCache.claimName":
        base["modelCache"] = {"type": "pvc", "claimName": "c"}
    if path.startswith("parallelism"):  # between CPUs
        del base["resources"], base["adapters"]
    if path == "resources.gpu.count":
        del base["adapters"]
        base["parallelism"] = {"tensor": 2}
    if path.startswith("rollout.canary"):
        base["rollout"] = CANARY
    if path.startswith("disaggregation"):
        base |= {"replicas": 1, "disaggregation": {}}
    changed = copy.deepcopy(base)
    if isinstance(_CHANGES[path], dict) and path.startswith("modelCache"):
        changed["modelCache"] = _CHANGES[path]
    else:
        *parents, last = path.split(".")
        at = changed
        for part in parents:
            at = at[int(part)] if isinstance(at, list) else at.setdefault(part, {})
        at[last] = _CHANGES[path]

    def effect(spec):
        made = document()
        made["spec"] = spec
        made["metadata"] |= {"uid": "u", "creationTimestamp": "2026-11-28T12:00:00Z"}
        revision = plan(parse(made), Observed(), INSTALLED).revision
        workers = (
            Worker(revision="r4", routable=True),
            *[Worker(revision=revision, track="canary", routable=True)] * 2,
        )
        trial = Trial(revision, _measured(0.2, errors=5), _measured(0.1))  # half as fast, and some fail
        observed = Observed(nodes=("n",), history=former, workers=workers if "canary" in str(spec) else (), trial=trial)
        planned = plan(parse(made), observed, INSTALLED)
        return planned.apply, planned.rollout, DeploymentView.from_body(made)

    former = tuple(Revision(hash=f"r{n}", number=n, templates=TEMPLATES, state=GOOD) for n in range(1, 5))

    assert effect(base) != effect(changed)
