"""What the cluster must hold for a resource: a pure function of the resource, of what is there, and of settings."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from argosy_api import labels
from argosy_api.measures import Trial
from argosy_api.resource import InferenceDeployment
from argosy_operator import group_manifests, groups, manifests, prefetch, revisions, rollout
from argosy_operator.groups import Aim, Group
from argosy_operator.manifests import PlanSettings
from argosy_operator.prefetch import Prefetched
from argosy_operator.revisions import History
from argosy_operator.rollout import Decision, Wanted, Worker

Manifest = dict[str, Any]
DEPLOYMENT = "Deployment"
WORKLOADS = (DEPLOYMENT, group_manifests.STATEFUL_SET)
"""The kinds of objects that make worker pods: one for many workers, or one for each that is a group of pods."""


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
    history: History = ()
    """Of the resource's revisions."""
    workers: tuple[Worker, ...] = ()
    """Worker pods that are there; of a group that of rank 0."""
    groups: tuple[Group, ...] = ()
    """Groups that are there."""
    ending: bool = False
    """Pods are there that have been told to end."""
    trial: Trial | None = None
    """What routers measured, where there is a canary."""
    now: float = 0.0
    """Seconds since the epoch."""
    nodes: tuple[str, ...] | None = None
    """That are to have what workers need before one comes there, where the resource asks for it; None: not known."""
    jobs: Mapping[str, str] = field(default_factory=dict)
    """Jobs by name, and how each has ended, if it has."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do. Doing it twice is the same as doing it once."""

    apply: tuple[Manifest, ...]
    """Complete intents for server-side apply; each may need those before it."""
    delete: tuple[ChildRef, ...]
    """Children that must not exist."""
    workloads: tuple[Workload, ...]
    """What makes the worker pods."""
    rollout: Decision
    """Which revisions they are of, and why."""
    prefetched: Prefetched | None = None
    """How many nodes have what workers need, where the resource asks for it."""

    @property
    def revision(self) -> str:
        """Of what the resource's spec says."""
        return self.rollout.history[-1].hash


def plan(resource: InferenceDeployment, observed: Observed, settings: PlanSettings) -> Plan:
    """Say what must be applied and deleted.

    Total: it raises for no resource that `argosy_api.resource.parse` accepts. The result depends on the arguments
    only, and a resource's whole intent is returned each time, so that any drift is put right by applying it.
    """
    roles = {role or labels.LEADER: replicas for role, replicas in resource.spec.by_role.items()}
    # one revision for all roles: a new one replaces them together
    name = manifests.revision(resource, settings, roles=tuple(roles))
    templates = {role: manifests.pod_template(resource, settings, role=role, revision_hash=name) for role in roles}
    text = revisions.text_of(templates)
    wanted = Wanted(
        revision=name,
        templates=text,
        replicas=resource.spec.workers,
        rollout=resource.spec.rollout,
        trial=observed.trial if observed.trial is not None and observed.trial.revision == name else None,
    )
    decision = rollout.plan_rollout(observed.history, wanted, observed.workers, observed.now)
    used = {decision.stable, decision.canary} - {name}
    made_of = {r.hash: r.by_role for r in decision.history if r.hash in used}
    made_of[name] = templates
    latest = decision.history[-1]
    workloads, stay = _workloads(resource, made_of, roles, decision, observed)
    grouped = observed.groups or any(w.ref.kind != DEPLOYMENT for w in workloads)
    puller = next(iter(templates.values()))["spec"]
    prefetches = resource.spec.placement.prefetch
    pulling = prefetch.jobs(resource, puller, observed.nodes or (), observed.jobs) if prefetches else ()
    intents = tuple(
        manifest
        for manifest in (
            manifests.service_account(resource),
            manifests.redis_secret(resource, settings),
            manifests.adapters(resource),
            manifests.service(resource),
            group_manifests.ranks_service(resource) if grouped else None,
            group_manifests.leaders_service(resource) if grouped else None,
            manifests.disruption_budget(resource),
            manifests.network_policy(resource, settings),
            latest.manifest(manifests.revision_head(resource, name), templates if latest.templates == text else None),
            *pulling,
            *(_manifest(resource, workload, made_of[workload.revision][workload.role]) for workload in workloads),
        )
        if manifest is not None
    )
    kept = {
        ChildRef(revisions.API_VERSION, revisions.KIND, f"{resource.metadata.name}-{r.hash}") for r in decision.history
    }
    if prefetches and observed.nodes is None:
        kept |= {ref for ref in observed.children if ref.kind == prefetch.KIND}
    surplus = observed.children - kept - stay - {child_ref(manifest) for manifest in intents}
    if _are_awaited(workloads, observed.workers):
        # a workload that goes for another one's sake serves until that one can
        surplus -= _serving_meanwhile(resource, observed, surplus, workloads)
    done = prefetch.progress(resource, puller, observed.nodes, observed.jobs) if prefetches else None
    return Plan(apply=intents, delete=tuple(sorted(surplus)), workloads=workloads, rollout=decision, prefetched=done)


def _are_awaited(workloads: tuple[Workload, ...], workers: tuple[Worker, ...]) -> bool:
    """Whether some of the wanted workers can't be routed to yet."""
    wanted: Counter[str] = Counter()
    for workload in workloads:
        wanted[workload.revision] += workload.replicas
    there = Counter(worker.revision for worker in workers if worker.routable)
    return any(there[revision] < replicas for revision, replicas in wanted.items())


def _serving_meanwhile(
    resource: InferenceDeployment, observed: Observed, surplus: frozenset[ChildRef], workloads: tuple[Workload, ...]
) -> set[ChildRef]:
    """Of the workloads that are too many: those of another kind than is wanted, which nothing else replaces."""
    canary = manifests.workload_name(resource, labels.LEADER, labels.CANARY)
    found = {ref for ref in surplus if ref.kind == DEPLOYMENT and ref.name != canary}
    if any(workload.ref.kind == DEPLOYMENT for workload in workloads):
        stable = {group.name for group in observed.groups if group.track == labels.STABLE}
        found |= {ref for ref in surplus if ref.kind == group_manifests.STATEFUL_SET and ref.name in stable}
    return found


def _workloads(
    resource: InferenceDeployment,
    made_of: Mapping[str, Mapping[str, Manifest]],
    roles: Mapping[str, int],
    decision: Decision,
    observed: Observed,
) -> tuple[tuple[Workload, ...], frozenset[ChildRef]]:
    """What makes the worker pods; and what is left alone for now, as it serves until others can."""
    made, stay = list[Workload](), set[ChildRef]()
    for role, replicas in roles.items():
        tracks = {labels.STABLE: (replicas, decision.stable)}
        if decision.canary_replicas:  # there is one role then
            tracks = {
                labels.STABLE: (decision.stable_replicas, decision.stable),
                labels.CANARY: (decision.canary_replicas, decision.canary),
            }
        for track, (count, revision) in tracks.items():
            if not groups.size_of(made_of[revision][role]):
                ref = ChildRef("apps/v1", DEPLOYMENT, manifests.workload_name(resource, role, track))
                made.append(Workload(ref, role, track, count, revision))
                continue
            chosen = groups.choose(
                Aim(resource.metadata.name, track, revision, count), observed.groups, resource.spec.rollout,
                ending=observed.ending,
            )  # fmt: skip
            made += (Workload(_group_ref(name), role, track, 1, revision) for name in chosen.new)
            stay |= {_group_ref(name) for name in chosen.stay}
    return tuple(made), frozenset(stay)


def _group_ref(name: str) -> ChildRef:
    return ChildRef("apps/v1", group_manifests.STATEFUL_SET, name)


def _manifest(resource: InferenceDeployment, workload: Workload, template: Manifest) -> Manifest:
    if workload.ref.kind != DEPLOYMENT:
        return group_manifests.group(
            resource,
            name=workload.ref.name,
            track=workload.track,
            revision_hash=workload.revision,
            template=template,
        )
    return manifests.deployment(
        resource,
        role=workload.role,
        track=workload.track,
        replicas=workload.replicas,
        revision_hash=workload.revision,
        template=template,
    )


def child_ref(manifest: Manifest) -> ChildRef:
    """Which object a manifest is about."""
    return ChildRef(manifest["apiVersion"], manifest["kind"], manifest["metadata"]["name"])
