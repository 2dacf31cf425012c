"""What the cluster must hold for a resource: a pure function of the resource, of what is there, and of settings."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from argosy_api import labels
from argosy_api.resource import InferenceDeployment
from argosy_operator import manifests
from argosy_operator.manifests import PlanSettings

Manifest = dict[str, Any]
DEPLOYMENT = "Deployment"
"""The kind of object that makes worker pods."""


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
class Workload:
    """Pods that are made and replaced together."""

    ref: ChildRef
    """The object that makes them."""
    role: str
    track: str
    replicas: int
    revision: str
    """Hash of what its pods are made of; a scale does not change it."""


@dataclass(frozen=True, slots=True)
class Observed:
    """What the plan must know about the cluster."""

    children: frozenset[ChildRef] = frozenset()
    """Children of this resource that exist, or that may exist because nobody has looked."""
    routable: Mapping[str, int] = field(default_factory=dict)
    """Workers that can be routed to, by revision."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do. Doing it twice is the same as doing it once."""

    apply: tuple[Manifest, ...]
    """Complete intents for server-side apply; each may need those before it."""
    delete: tuple[ChildRef, ...]
    """Children that must not exist."""
    workloads: tuple[Workload, ...]
    """What makes the worker pods."""

    @property
    def revision(self) -> str:
        """Of what the resource's spec says."""
        return next(w.revision for w in self.workloads if w.track == labels.STABLE)


def plan(resource: InferenceDeployment, observed: Observed, settings: PlanSettings) -> Plan:
    """Say what must be applied and deleted.

    Total: it raises for no resource that `argosy_api.resource.parse` accepts. The result depends on the arguments
    only, and a resource's whole intent is returned each time, so that any drift is put right by applying it.
    """
    workloads = _workloads(resource, settings)
    wanted = tuple(
        manifest
        for manifest in (
            manifests.service_account(resource),
            manifests.redis_secret(resource, settings),
            manifests.service(resource),
            manifests.disruption_budget(resource),
            manifests.network_policy(resource, settings),
            *(_manifest(resource, settings, workload) for workload in workloads),
        )
        if manifest is not None
    )
    surplus = observed.children - {child_ref(manifest) for manifest in wanted}
    wanted_of: Counter[str] = Counter()
    for workload in workloads:
        wanted_of[workload.revision] += workload.replicas
    if any(observed.routable.get(revision, 0) < replicas for revision, replicas in wanted_of.items()):
        # a workload that goes for another one's sake serves until that one can
        surplus = frozenset(ref for ref in surplus if ref.kind != DEPLOYMENT)
    return Plan(apply=wanted, delete=tuple(sorted(surplus)), workloads=workloads)


def _workloads(resource: InferenceDeployment, settings: PlanSettings) -> tuple[Workload, ...]:
    track, by_role = labels.STABLE, {role or labels.LEADER: n for role, n in resource.spec.by_role.items()}
    # one revision for all roles: a new one replaces them together
    revision = manifests.revision(resource, settings, roles=tuple(by_role), track=track)
    return tuple(
        Workload(
            ChildRef("apps/v1", DEPLOYMENT, manifests.workload_name(resource, role, track)),
            role,
            track,
            replicas,
            revision,
        )
        for role, replicas in by_role.items()
    )


def _manifest(resource: InferenceDeployment, settings: PlanSettings, workload: Workload) -> Manifest:
    return manifests.deployment(
        resource,
        settings,
        role=workload.role,
        track=workload.track,
        replicas=workload.replicas,
        revision_hash=workload.revision,
    )


def child_ref(manifest: Manifest) -> ChildRef:
    """Which object a manifest is about."""
    return ChildRef(manifest["apiVersion"], manifest["kind"], manifest["metadata"]["name"])
