"""For every field of the spec a value, and the place in a child, at a worker or at a router where it is seen.

The fields are those of the CRD's schema: one without a row fails `test_every_field_has_a_row`.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from engine_fields import companions, single_fields

from argosy_api.crd import crd
from argosy_api.resource import parse
from argosy_api.worker_spec import WorkerSpec
from argosy_operator.manifests import PlanSettings
from argosy_operator.plan import Observed, plan
from argosy_router.fleet.membership_kubernetes import DeploymentView

INSTALLED = PlanSettings(worker_image="argosy-worker:test")
SPEC = crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
SINGLE_VALUED = {"parallelism.tensor"}
"""1 is all that this version accepts."""
ANOTHER = object()
"""Whatever is seen there, with the field it is something else."""
HUB = {"model.uri": "hf://org/repo@main"}
TOLERATION = {"placement.tolerations": [{"key": "k", "effect": "NoExecute"}]}
CANARY = {"rollout.strategy": "Canary", "rollout.canary": {"steps": [{"weight": 10}]}}
SCALED = {"autoscaling": {"maxReplicas": 9}}
NIGHT = {"start": "22:00", "end": "06:00", "minReplicas": 2}
POD = ("Deployment/m-leader", "spec", "template", "spec")
LISTED = ("ConfigMap/m-argosy-adapters", "data", "adapters.json")
CONTAINER = (*POD, "containers", "worker")


@dataclass(frozen=True)
class Field:
    """A field of the spec that is set to something else than its default."""

    value: Any
    place: tuple[str, ...] = ()
    """First a child, as the beginning of Kind/name, `worker` (its command line) or `router`. Empty: a decision is
    another one."""
    seen: Any = None
    """What is there then. None: the value itself."""
    beside: dict[str, Any] = field(default_factory=dict)
    """Other fields that it needs."""


FIELDS = {
    "model.uri": Field("sim://other", ("worker", "model", "uri")),
    "model.servedName": Field("another", ("router", "served_name")),
    "model.maxModelLen": Field(200, ("worker", "model", "maxModelLen")),
    "model.tokenSecretRef.name": Field("t", (*CONTAINER, "env", "HF_TOKEN", "valueFrom", "secretKeyRef", "name"), beside=HUB),
    "model.tokenSecretRef.key": Field(
        "k", (*CONTAINER, "env", "HF_TOKEN", "valueFrom", "secretKeyRef", "key"), beside=HUB | {"model.tokenSecretRef.name": "t"}
    ),
    "replicas": Field(5, ("Deployment/m-leader", "spec", "replicas")),
    "disaggregation.prefill.replicas": Field(3, ("Deployment/m-prefill", "spec", "replicas")),
    "disaggregation.decode.replicas": Field(3, ("Deployment/m-decode", "spec", "replicas")),
    **{
        f"engine.{name}": Field(
            value, ("worker", "engine", *name.split(".")), beside={f"engine.{k}": v for k, v in companions(name).items()}
        )
        for name, value in single_fields().items()
    },
    "quantization.weights": Field("int8", ("worker", "quantization", "weights"), beside=HUB),
    "quantization.groupSize": Field(64, ("worker", "quantization", "groupSize"), beside=HUB | {"quantization.weights": "int8"}),
    "quantization.kvCache": Field("bf16", ("worker", "quantization", "kvCache"), beside=HUB),
    "parallelism.tensor": Field(2, ("StatefulSet/m-", "spec", "replicas"), beside={"model.uri": "pvc://models/m.gguf"}),
    "parallelism.pipeline": Field(2, ("StatefulSet/m-", "spec", "replicas"), beside={"model.uri": "pvc://models/m.gguf"}),
    "resources.cpu": Field("3", (*CONTAINER, "resources", "requests", "cpu")),
    "resources.memory": Field("7Gi", (*CONTAINER, "resources", "limits", "memory")),
    "resources.gpu.count": Field(
        2, (*CONTAINER, "resources", "limits", "nvidia.com/gpu"), seen="2", beside=HUB | {"parallelism.tensor": 2}
    ),
    "resources.gpu.resourceName": Field("amd.com/gpu", (*CONTAINER, "resources", "limits", "amd.com/gpu"), seen="1", beside=HUB),
    "adapters.0.name": Field("b", ("router", "adapters"), seen=("b",), beside={"adapters": [{"name": "a", "uri": "sim://a"}]}),
    "adapters.0.uri": Field("sim://b", LISTED, seen=ANOTHER, beside={"adapters": [{"name": "a", "uri": "sim://a"}]}),
    "image": Field("mine:1", (*CONTAINER, "image")),
    "placement.nodeSelector": Field({"disk": "fast"}, (*POD, "nodeSelector")),
    "placement.tolerations.0.key": Field("gpu", (*POD, "tolerations", "0", "key"), beside={"placement.tolerations": [{"operator": "Exists"}]}),
    "placement.tolerations.0.operator": Field("Exists", (*POD, "tolerations", "0", "operator"), beside=TOLERATION),
    "placement.tolerations.0.value": Field("v", (*POD, "tolerations", "0", "value"), beside=TOLERATION),
    "placement.tolerations.0.effect": Field("NoSchedule", (*POD, "tolerations", "0", "effect"), beside=TOLERATION),
    "placement.tolerations.0.tolerationSeconds": Field(6, (*POD, "tolerations", "0", "tolerationSeconds"), beside=TOLERATION),
    "placement.prefetch": Field(True, ("Job/m-prefetch-", "kind"), seen="Job"),
    "placement.spreadOver": Field("topology.kubernetes.io/zone", (*POD, "topologySpreadConstraints", "0", "topologyKey")),
    "placement.priorityClassName": Field("high", (*POD, "priorityClassName")),
    "placement.runtimeClassName": Field("nvidia", (*POD, "runtimeClassName")),
    "modelCache.type": Field(
        "pvc", (*POD, "volumes", "cache", "persistentVolumeClaim", "claimName"), seen="c", beside=HUB | {"modelCache.claimName": "c"}
    ),
    "modelCache.size": Field("2Gi", (*POD, "volumes", "cache", "emptyDir", "sizeLimit"), beside=HUB),
    "modelCache.claimName": Field(
        "d", (*POD, "volumes", "cache", "persistentVolumeClaim", "claimName"), beside=HUB | {"modelCache.type": "pvc"}
    ),
    "routing.policy": Field("roundRobin", ("router", "policy")),
    "routing.fetchBlocks": Field(False, ("router", "fetch_blocks")),
    "routing.cacheSharing": Field("all", ("router", "share_cache"), seen=True),
    "routing.holdSeconds": Field(30, ("router", "hold_s")),
    "rollout.strategy": Field("Recreate", ("Deployment/m-leader", "spec", "strategy", "type")),
    "rollout.maxSurge": Field(3, ("Deployment/m-leader", "spec", "strategy", "rollingUpdate", "maxSurge")),
    "rollout.maxUnavailable": Field(3, ("Deployment/m-leader", "spec", "strategy", "rollingUpdate", "maxUnavailable")),
    "rollout.progressDeadlineSeconds": Field(100, ("Deployment/m-leader", "spec", "progressDeadlineSeconds")),
    "rollout.restart": Field(
        1, ("Deployment/m-leader", "spec", "template", "metadata", "labels", "serving.argosy.dev/revision"), seen=ANOTHER
    ),
    "rollout.partition": Field(1),
    "rollout.revisionHistoryLimit": Field(2),
    "rollout.canary.steps.0.weight": Field(20, beside=CANARY),
    "rollout.canary.steps.0.pauseSeconds": Field(30, beside=CANARY),
    "rollout.canary.analysis.minRequests": Field(1000, beside=CANARY),
    "rollout.canary.analysis.maxErrorRate": Field(0.25, beside=CANARY),
    "rollout.canary.analysis.maxTtftRatio": Field(2.5, beside=CANARY),
    "rollout.canary.analysis.maxItlRatio": Field(2.5, beside=CANARY),
    "disruption.maxUnavailable": Field(3, ("PodDisruptionBudget/m-worker", "spec", "maxUnavailable")),
    "drain.timeoutSeconds": Field(3, (*POD, "terminationGracePeriodSeconds"), seen=15),
    "autoscaling.maxReplicas": Field(5),
    "autoscaling.minReplicas": Field(2, beside=SCALED),
    "autoscaling.metrics.0.type": Field("ttft", beside={"autoscaling": {"maxReplicas": 9, "metrics": [{"type": "itl", "target": 1}]}}),
    "autoscaling.metrics.0.target": Field(2.5, beside={"autoscaling": {"maxReplicas": 9, "metrics": [{"type": "itl", "target": 1}]}}),
    **{f"autoscaling.scaleUp.{name}": Field(7, beside=SCALED) for name in ("stabilizationSeconds", "maxStep", "maxPercent")},
    **{f"autoscaling.scaleDown.{name}": Field(7, beside=SCALED) for name in ("stabilizationSeconds", "maxStep", "periodSeconds")},
    "autoscaling.scaleToZero.idleSeconds": Field(70, beside={"autoscaling": {"maxReplicas": 9, "minReplicas": 0}}),
    "autoscaling.scaleToZero.holdSeconds": Field(70, ("router", "hold_s"), beside={"autoscaling": {"maxReplicas": 9, "minReplicas": 0}}),
    **{
        f"autoscaling.schedule.0.{name}": Field(value, beside={"autoscaling": {"maxReplicas": 9, "schedule": [NIGHT]}})
        for name, value in {"days": ["Sun"], "start": "11:00", "end": "09:00", "utcOffset": "+09:00", "minReplicas": 4}.items()
    },
}  # fmt: skip


def leaves(node: dict[str, Any] = SPEC, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Path and schema of every field that holds a value; 0 stands for the items of a list."""
    for name, child in node.get("properties", {}).items():
        at = f"{path}.{name}".lstrip(".")
        if child.get("properties"):
            yield from leaves(child, at)
        elif child.get("items", {}).get("properties"):
            yield from leaves(child["items"], f"{at}.0")
        else:
            yield at, child


def sound(path: str = "", *, without: bool = False) -> dict[str, Any]:
    """A valid resource with a field set to its row's value; `without`: only with what the field needs beside it."""
    made = {
        "apiVersion": "serving.argosy.dev/v1alpha1", "kind": "InferenceDeployment",
        "metadata": {"name": "m", "namespace": "default", "uid": "u", "creationTimestamp": "2026-11-28T12:00:00Z"},
        "spec": {"model": {"uri": "sim://tiny"}},
    }  # fmt: skip
    if path:
        row = FIELDS[path]
        for other, value in row.beside.items():
            put(made["spec"], other, value)
        if not without:
            put(made["spec"], path, row.value)
    return made


def put(spec: dict[str, Any], path: str, value: Any) -> None:
    """Set a field."""
    *parents, last = path.split(".")
    at: Any = spec
    for part in parents:
        at = at[int(part)] if isinstance(at, list) else at.setdefault(part, {})
    if isinstance(at, list):
        at[int(last)] = copy.deepcopy(value)
    else:
        at[last] = copy.deepcopy(value)


def seen(document: dict[str, Any], place: tuple[str, ...]) -> Any:
    """What is at a place, of a resource that was made so; None where there is nothing."""
    first, *rest = place
    if first == "router":
        return getattr(DeploymentView.from_body(document), rest[0])
    made = children(document)
    if first == "worker":
        container = look(made["Deployment/m-leader"], list(CONTAINER[1:]))
        text = container["args"][0].removeprefix("--spec=").replace("$$", "$")
        return look(WorkerSpec.parse(text).model_dump(by_alias=True, mode="json"), rest)
    return look(child(made, first), rest)


def children(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The manifests of a new resource, by Kind/name."""
    return {
        f"{m['kind']}/{m['metadata']['name']}": m
        for m in plan(parse(document), Observed(nodes=("node-1",)), INSTALLED).apply
    }


def child(made: dict[str, dict[str, Any]], name: str) -> dict[str, Any] | None:
    """The one whose Kind/name begins so; None where there is none."""
    return next((manifest for key, manifest in made.items() if key.startswith(name)), None)


def look(at: Any, path: list[str]) -> Any:
    """Follow keys, places and the names of a list's items."""
    for part in path:
        if isinstance(at, list):
            named = next((item for item in at if item.get("name") == part), None)
            at = at[int(part)] if part.isdigit() and int(part) < len(at) else named
        else:
            at = None if at is None else at.get(part)
    return at
