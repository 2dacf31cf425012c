"""Jobs that have nodes pull what workers need before one comes there: one Job for each node. Pure.

That is the workers' image, and the model's where it is in one (oci://): the kubelet keeps images on the node, so no
folder of a node is opened to anybody, and no DaemonSet stays behind.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from argosy_api.resource import InferenceDeployment
from argosy_api.spec.pods import Toleration
from argosy_operator.heads import head

Manifest = dict[str, Any]
API_VERSION, KIND = "batch/v1", "Job"
AT_ONCE = 4
"""Nodes that pull at the same time for one resource: the registry has others to serve."""
DEADLINE_S = 3600
DONE, FAILED = "Complete", "Failed"
"""Conditions of a Job that has ended."""
_FROM_WORKERS = (
    "serviceAccountName",
    "automountServiceAccountToken",
    "enableServiceLinks",
    "securityContext",
    "nodeSelector",
    "tolerations",
    "priorityClassName",
    "runtimeClassName",
    "imagePullSecrets",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeView:
    """A node, as far as it matters whether a worker may come there."""

    name: str
    labels: Mapping[str, str]
    taints: tuple[tuple[str, str, str], ...] = ()
    """key, value, effect."""
    ready: bool = True

    @classmethod
    def from_body(cls, body: Mapping[str, Any]) -> "NodeView":
        """Read a core/v1 Node."""
        spec, status = body.get("spec") or {}, body.get("status") or {}
        ready = any(c["type"] == "Ready" and c["status"] == "True" for c in status.get("conditions") or ())
        return cls(
            name=body["metadata"]["name"],
            labels=body["metadata"].get("labels") or {},
            taints=tuple((t["key"], t.get("value", ""), t["effect"]) for t in spec.get("taints") or ()),
            ready=ready and not spec.get("unschedulable"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Prefetched:
    """How far it is."""

    nodes: int = 0
    done: int = 0
    failed: tuple[str, ...] = ()
    """Names of nodes."""
    known: bool = True
    """Which nodes there are is known."""


def fitting(resource: InferenceDeployment, nodes: Iterable[NodeView]) -> tuple[str, ...]:
    """Names of the nodes where the resource's workers may run."""
    placement = resource.spec.placement
    return tuple(
        sorted(
            node.name
            for node in nodes
            if node.ready
            and placement.node_selector.items() <= node.labels.items()
            and all(effect == "PreferNoSchedule" or _tolerated(placement.tolerations, key, value, effect)
                    for key, value, effect in node.taints)
        )
    )  # fmt: skip


def _tolerated(tolerations: Iterable[Toleration], key: str, value: str, effect: str) -> bool:
    return any(
        (not one.key or one.key == key)
        and (one.operator == "Exists" or (one.value or "") == value)
        and one.effect in (None, effect)
        for one in tolerations
    )


def jobs(
    resource: InferenceDeployment, pod: Manifest, nodes: Iterable[str], there: Mapping[str, str]
) -> tuple[Manifest, ...]:
    """The Jobs that there are to be now, for pods like `pod` (a worker's spec) on these nodes.

    `there` has those that exist, by name: DONE, FAILED, or empty while one is under way.
    """
    spec = _pod(pod)
    wanted = {_name(resource, spec, node): node for node in nodes}
    under_way = sum(not there[name] for name in wanted if name in there)
    new = [name for name in wanted if name not in there][: max(0, AT_ONCE - under_way)]
    return tuple(_job(resource, name, spec, node) for name, node in wanted.items() if name in there or name in new)


def progress(
    resource: InferenceDeployment, pod: Manifest, nodes: Iterable[str] | None, there: Mapping[str, str]
) -> Prefetched:
    """How many of the nodes have what they need."""
    if nodes is None:
        return Prefetched(known=False)
    spec = _pod(pod)
    states = {node: there.get(_name(resource, spec, node), "") for node in nodes}
    failed = tuple(node for node, state in states.items() if state == FAILED)
    return Prefetched(nodes=len(states), done=sum(state == DONE for state in states.values()), failed=failed)


def _name(resource: InferenceDeployment, spec: Manifest, node: str) -> str:
    """One for each node and what it is to pull: a Job cannot be changed."""
    text = json.dumps([spec, node], sort_keys=True, separators=(",", ":"))
    return f"{resource.metadata.name}-prefetch-{hashlib.blake2b(text.encode(), digest_size=5).hexdigest()}"


def _pod(worker: Manifest) -> Manifest:
    """A pod that has the kubelet pull what that of a worker needs, and ends."""
    (container,) = worker["containers"]
    volumes = [volume for volume in worker["volumes"] if "image" in volume]
    named = {volume["name"] for volume in volumes}
    puller = {
        "name": "prefetch",
        "image": container["image"],
        "imagePullPolicy": container["imagePullPolicy"],
        "command": ["python", "-c", ""],
        "resources": {"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"memory": "64Mi"}},
        "securityContext": container["securityContext"],
        "volumeMounts": [mount for mount in container["volumeMounts"] if mount["name"] in named],
    }
    kept = {name: worker[name] for name in _FROM_WORKERS if name in worker}
    return {**kept, "restartPolicy": "OnFailure", "containers": [puller], "volumes": volumes}


def _job(resource: InferenceDeployment, name: str, spec: Manifest, node: str) -> Manifest:
    only = {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]}
    affinity = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [only]}}}
    # not the labels of workers: nothing that selects those may find this
    marks = {"app.kubernetes.io/name": "argosy", "app.kubernetes.io/component": "prefetch"}
    return {
        **head(API_VERSION, KIND, resource, name),
        "spec": {
            "backoffLimit": 3,
            "activeDeadlineSeconds": DEADLINE_S,
            "template": {"metadata": {"labels": marks}, "spec": {**spec, "affinity": affinity}},
        },
    }
