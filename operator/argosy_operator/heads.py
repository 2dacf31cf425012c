"""What all children of a resource have in common."""

from typing import Any

from argosy_api import labels
from argosy_api.resource import API_VERSION, KIND, InferenceDeployment

Manifest = dict[str, Any]


def selector(resource: InferenceDeployment) -> dict[str, str]:
    """Labels of the worker pods, of any workload and revision."""
    return labels.worker_selector(resource.metadata.name)


def common_labels(resource: InferenceDeployment) -> dict[str, str]:
    """Labels of every child and of the worker pods."""
    return {
        "app.kubernetes.io/name": "argosy",
        "app.kubernetes.io/instance": resource.metadata.name,
        "app.kubernetes.io/part-of": "argosy",
        "app.kubernetes.io/managed-by": "argosy-operator",
        **selector(resource),
    }


def adapters_name(resource: InferenceDeployment) -> str:
    """Name of the child ConfigMap with the list of adapters. Long, so that it meets nobody else's by accident."""
    return f"{resource.metadata.name}-argosy-adapters"


def head(api_version: str, kind: str, resource: InferenceDeployment, name: str) -> Manifest:
    """What a child begins with: its name, labels and owner."""
    metadata: Manifest = {
        "name": name,
        "namespace": resource.metadata.namespace,
        "labels": common_labels(resource),
    }
    if resource.metadata.uid:  # without an API server (embedded mode) there is nobody to own it
        metadata["ownerReferences"] = [
            {
                "apiVersion": API_VERSION,
                "kind": KIND,
                "name": resource.metadata.name,
                "uid": resource.metadata.uid,
                "controller": True,
                "blockOwnerDeletion": True,
            }
        ]
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata}
