"""What the cluster must hold for a resource: a pure function of the resource, of what is there, and of settings."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from argosy_api.resource import InferenceDeployment
from argosy_operator import manifests
from argosy_operator.manifests import PlanSettings

Manifest = dict[str, Any]


class ChildRef(NamedTuple):
    """Which object, in the resource's namespace."""

    api_version: str
    kind: str
    name: str


class Owner(NamedTuple):
    """Whose children: a resource, and no other of the same name before or after it."""

    namespace: str
    name: str
    uid: str


@dataclass(frozen=True, slots=True)
class Observed:
    """What the plan must know about the cluster."""

    children: frozenset[ChildRef] = frozenset()
    """Children of this resource that exist, or that may exist because nobody has looked."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do. Doing it twice is the same as doing it once."""

    apply: tuple[Manifest, ...]
    """Complete intents for server-side apply; each may need those before it."""
    delete: tuple[ChildRef, ...] = ()
    """Children that must not exist."""
    revision: str = ""
    """Hash of what the worker pods are made of; a scale does not change it."""
    selector: dict[str, str] = field(default_factory=dict)
    """Labels of the worker pods."""


def plan(resource: InferenceDeployment, observed: Observed, settings: PlanSettings) -> Plan:
    """Say what must be applied and deleted.

    Total: it raises for no resource that `argosy_api.resource.parse` accepts. The result depends on the arguments
    only, and a resource's whole intent is returned each time, so that any drift is put right by applying it.
    """
    revision = manifests.revision(resource, settings)
    wanted = tuple(
        manifest
        for manifest in (
            manifests.service_account(resource),
            manifests.redis_secret(resource, settings),
            manifests.service(resource),
            manifests.disruption_budget(resource),
            manifests.network_policy(resource, settings),
            manifests.deployment(resource, settings, revision),
        )
        if manifest is not None
    )
    keep = {child_ref(manifest) for manifest in wanted}
    return Plan(
        apply=wanted,
        delete=tuple(sorted(observed.children - keep)),
        revision=revision,
        selector=manifests.selector(resource),
    )


def child_ref(manifest: Manifest) -> ChildRef:
    """Which object a manifest is about."""
    return ChildRef(manifest["apiVersion"], manifest["kind"], manifest["metadata"]["name"])
