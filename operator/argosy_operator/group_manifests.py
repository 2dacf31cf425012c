"""Builders of what groups are made of: a StatefulSet for each, and two Services for all of a resource."""

from typing import Any

from argosy_api import labels, process
from argosy_api.resource import InferenceDeployment
from argosy_operator.heads import head

Manifest = dict[str, Any]
STATEFUL_SET = "StatefulSet"
_GROUP = "ARGOSY_GROUP"


def ranks_service_name(name: str) -> str:
    """Name of the Service by which the pods of a group find each other."""
    return f"{name}-{labels.GROUPED}"


def ranks_service(resource: InferenceDeployment) -> Manifest:
    """Gives each pod of a group a name, ready or not: they become ready only together. Routers find no port of theirs
    there.
    """
    return {
        **head("v1", "Service", resource, ranks_service_name(resource.metadata.name)),
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": labels.group_selector(resource.metadata.name),
            "ports": [_port("group", labels.GROUP_PORT)],
        },
    }


def leaders_service(resource: InferenceDeployment) -> Manifest:
    """Exists for its EndpointSlices, which routers watch: the pods of rank 0."""
    return {
        **head("v1", "Service", resource, f"{resource.metadata.name}-leaders"),
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": False,
            "selector": labels.leader_selector(resource.metadata.name),
            "ports": [_port("grpc", labels.GRPC_PORT), _port("metrics", labels.METRICS_PORT)],
        },
    }


def group(resource: InferenceDeployment, *, name: str, track: str, revision_hash: str, template: Manifest) -> Manifest:
    """The pods of one group, which start at once; `template` is that of the revision."""
    about = head("apps/v1", STATEFUL_SET, resource, name)
    about["metadata"]["labels"] |= {labels.REVISION: revision_hash, labels.TRACK: track}
    marked = {**template["metadata"]["labels"], labels.TRACK: track, labels.IN_GROUP: name}
    return {
        **about,
        "spec": {
            "replicas": int(marked[labels.GROUP_SIZE]),
            "serviceName": ranks_service_name(resource.metadata.name),
            "podManagementPolicy": "Parallel",
            # a group is replaced by another one, and restarted by deleting its pods: never one pod after another
            "updateStrategy": {"type": "OnDelete"},
            "selector": {"matchLabels": {labels.IN_GROUP: name, labels.NAME: resource.metadata.name}},
            "template": {**template, "metadata": {**template["metadata"], "labels": marked}},
        },
    }


def marks(resource: InferenceDeployment) -> dict[str, str]:
    """Labels by which a group's pods differ from workers that are one pod each."""
    name, size = resource.metadata.name, resource.spec.arrangement.pods
    return labels.group_selector(name) | {labels.GROUP_SIZE: str(size)}


def in_group(resource: InferenceDeployment, spec: Manifest) -> Manifest:
    """The spec of a worker's pod as that of a group's."""
    (worker,) = spec["containers"]
    leader = f"$({_GROUP})-0.{ranks_service_name(resource.metadata.name)}:{labels.GROUP_PORT}"
    place = [
        {"name": process.RANK, "valueFrom": _label(labels.RANK)},
        {"name": _GROUP, "valueFrom": _label(labels.IN_GROUP)},
        {"name": process.GROUP_LEADER, "value": leader},
    ]
    port = {"name": "group", "containerPort": labels.GROUP_PORT, "protocol": "TCP"}
    own = {process.RANK, process.GROUP_LEADER, _GROUP}
    env = [entry for entry in worker["env"] if entry["name"] not in own]
    (spread,) = spec["topologySpreadConstraints"]
    chosen = {"matchLabels": labels.group_selector(resource.metadata.name)}
    return {
        **spec,
        # the pods of a group apart from each other first of all
        "topologySpreadConstraints": [{**spread, "labelSelector": chosen, "matchLabelKeys": [labels.IN_GROUP]}],
        "containers": [{**worker, "env": [*env, *place], "ports": [*worker["ports"], port]}],
    }


def _label(name: str) -> Manifest:
    return {"fieldRef": {"fieldPath": f"metadata.labels['{name}']"}}


def _port(name: str, port: int) -> Manifest:
    return {"name": name, "port": port, "targetPort": name, "protocol": "TCP"}
