"""Manifests held against the official typed models of Kubernetes: a field that no kind has, or of a wrong type, fails."""

from typing import Any

from kubernetes import client

_BUILT_IN = {
    "v1",
    "apps/v1",
    "policy/v1",
    "networking.k8s.io/v1",
    "rbac.authorization.k8s.io/v1",
    "apiextensions.k8s.io/v1",
    "autoscaling/v2",
    "batch/v1",
    "apiregistration.k8s.io/v1",
}


def is_built_in(manifest: dict[str, Any]) -> bool:
    """Whether Kubernetes itself knows this kind."""
    return manifest["apiVersion"] in _BUILT_IN


def check(manifest: dict[str, Any]) -> None:
    """Raise a ValueError that names the field where the manifest is not what Kubernetes defines."""
    version = manifest["apiVersion"].rpartition("/")[2].capitalize()
    made = getattr(client, version + manifest["kind"]).from_dict(manifest)
    back = client.ApiClient().sanitize_for_serialization(made)
    if back != manifest:
        raise ValueError(f"{manifest['kind']}: read as {back}, not as {manifest}")
