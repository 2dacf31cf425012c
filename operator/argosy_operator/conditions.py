"""The status of a resource: a pure function of what was observed."""

from collections.abc import Mapping
from dataclasses import dataclass

from argosy_api import labels, limits
from argosy_api.status import Condition, InferenceDeploymentStatus, PrefetchStatus, RoleStatus
from argosy_operator import rollout_status, uniformity
from argosy_operator.adapters import judge, statuses
from argosy_operator.diagnose import Problem, Reason, diagnose, worst
from argosy_operator.facts import Facts, is_routable
from argosy_operator.observe import PodView
from argosy_operator.prefetch import Prefetched
from argosy_operator.words import clip, some_of

READY, PROGRESSING, DEGRADED, SCHEDULED, MODEL_LOADED, ROUTER_SYNCED, KV_INDEX, UNIFORM, NAME_TAKEN = TYPES = (
    "Ready",
    "Progressing",
    "Degraded",
    "Scheduled",
    "ModelLoaded",
    "RouterSynced",
    "KVIndexHealthy",
    "Uniform",
    "NameTaken",
)

AUTOSCALING = "AutoscalingActive"
"""Only where the resource has autoscaling."""

PREFETCHED = "Prefetched"
"""Only where the resource asks for it."""
ADAPTERS_LOADED = "AdaptersLoaded"
"""Only where it lists adapters."""


@dataclass(frozen=True, slots=True)
class _Verdict:
    status: str
    reason: str
    message: str


def status_of(facts: Facts, previous: tuple[Condition, ...], now: str) -> InferenceDeploymentStatus:
    """Say what is the case. `now` (RFC 3339) becomes the transition time of conditions whose status has changed."""
    alive = tuple(p for p in facts.children.pods if p.active)
    current = tuple(p for p in alive if p.revision == facts.revision)
    routable = tuple(p for p in alive if p.revision == facts.in_force and is_routable(p, facts.router))
    problems = {
        pod.name: problem
        for pod in (*current, *(p for p in facts.children.members if p.active and p.revision == facts.revision))
        if (problem := diagnose(pod, facts.workers.get(pod.name), facts.mount_problems.get(pod.name, ""))) is not None
    }
    synced = _router_synced(facts, current, len(routable))
    verdicts = {
        READY: _ready(facts, alive=alive, current=current, routable=len(routable), problems=problems, synced=synced),
        PROGRESSING: _progressing(facts, alive, current, len(routable)),
        DEGRADED: _Verdict(*rollout_status.degraded(facts.rollout)),
        SCHEDULED: _scheduled(facts, current, problems),
        MODEL_LOADED: _model_loaded(facts, current, problems),
        ROUTER_SYNCED: synced,
        KV_INDEX: _kv_index(facts, len(routable)),
        UNIFORM: _Verdict(*uniformity.judge(facts.served)),
        NAME_TAKEN: _name_taken(facts),
    }
    if facts.course is not None:
        verdicts[AUTOSCALING] = _Verdict(*facts.course.condition)
    if facts.prefetched is not None:
        verdicts[PREFETCHED] = _prefetched(facts.prefetched)
    adapted = statuses(facts.adapters, facts.adapters_said)
    if adapted:
        verdicts[ADAPTERS_LOADED] = _Verdict(*judge(adapted))
    before = {c.type: c for c in previous}
    conditions = [_condition(kind, said, before.get(kind), facts.generation, now) for kind, said in verdicts.items()]
    select = labels.leader_selector if facts.grouped else labels.worker_selector
    selector = ",".join(f"{k}={v}" for k, v in sorted(select(facts.name).items()))
    return InferenceDeploymentStatus(
        observed_generation=facts.generation,
        replicas=len(alive),
        ready_replicas=sum(p.ready for p in alive),
        updated_replicas=len(current),
        routable_replicas=len(routable),
        ready=f"{len(routable)}/{facts.replicas}",
        selector=selector,
        revision=facts.revision,
        current_revision=facts.rollout.current if facts.rollout is not None else facts.current_revision,
        failed_revision=facts.rollout.failed if facts.rollout is not None else "",
        canary=rollout_status.canary(facts.rollout),
        reason=verdicts[READY].reason,
        endpoint=facts.endpoint,
        roles=_roles(facts, alive, routable),
        autoscaling=None if facts.course is None else facts.course.status,
        adapters=adapted,
        model=facts.model,
        prefetch=_prefetch_status(facts.prefetched),
        plan=uniformity.memory_of(facts.served, facts.counted_for) or facts.plan,
        conditions=conditions,
    )


def _roles(facts: Facts, alive: tuple[PodView, ...], routable: tuple[PodView, ...]) -> list[RoleStatus]:
    return [
        RoleStatus(
            role=role,
            replicas=replicas,
            ready_replicas=sum(p.ready for p in alive if p.role == role),
            routable_replicas=sum(p.role == role for p in routable),
        )
        for role, replicas in facts.by_role.items()
        if role
    ]


def is_unsettled(status: InferenceDeploymentStatus) -> bool:
    """Pods are ready that no router knows yet: the routers are worth asking again soon."""
    return status.ready_replicas > status.routable_replicas


def _ready(
    facts: Facts,
    *,
    alive: tuple[PodView, ...],
    current: tuple[PodView, ...],
    routable: int,
    problems: Mapping[str, Problem],
    synced: _Verdict,
) -> _Verdict:
    failure = facts.failure
    if failure is not None and failure.reason != Reason.API_UNAVAILABLE:
        return _Verdict("False", failure.reason, failure.message)
    if (held := rollout_status.ready(facts.rollout, routable)) is not None:
        return _Verdict(*held)
    if routable >= facts.replicas:
        if facts.replicas == 0:
            return _Verdict("True", Reason.SCALED_TO_ZERO, _nobody(facts, "nobody serves this model."))
        how = "routable" if facts.router is not None else "ready"
        return _Verdict("True", Reason.READY, f"{routable} of {facts.replicas} workers are {how}.")
    if failure is not None:
        return _Verdict("False", failure.reason, failure.message)
    old = sum(p.ready for p in alive) - sum(p.ready for p in current)
    meanwhile = f" Meanwhile {_workers(old)} of an earlier revision can serve." if old else ""
    count = f"{routable} of {facts.replicas} workers serve."
    refused = _workload_says(facts, "ReplicaFailure", "True")
    if refused is not None and len(current) < facts.replicas:
        text = f"{count} Kubernetes refuses to create pods: {refused[1]}"
        return _Verdict("False", Reason.CREATE_FAILED, text + meanwhile)
    problem = worst(problems)
    if problem is not None and not problem.waits:
        return _Verdict("False", problem.reason, f"{count} {problem.message}{meanwhile}")
    if sum(p.ready for p in current) >= facts.replicas and synced.status != "True":
        return _Verdict("False", synced.reason, f"{count} {synced.message}{meanwhile}")
    if old:
        return _Verdict("False", Reason.ROLLING_OUT, count + meanwhile)
    if problem is not None:
        return _Verdict("False", problem.reason, f"{count} {problem.message}")
    return _Verdict("False", Reason.STARTING, f"{count} Pods are being created.")


def _progressing(facts: Facts, alive: tuple[PodView, ...], current: tuple[PodView, ...], routable: int) -> _Verdict:
    if facts.failure is not None:
        return _Verdict("False", facts.failure.reason, facts.failure.message)
    if (said := rollout_status.progressing(facts.rollout)) is not None:
        return _Verdict(*said)
    stuck = _workload_says(facts, "Progressing", "False")
    if stuck is not None and stuck[0] == "ProgressDeadlineExceeded":
        text = (
            f"No progress for spec.rollout.progressDeadlineSeconds: {stuck[1]} Other conditions say what holds it up."
        )
        return _Verdict("False", Reason.DEADLINE, text)
    if len(alive) == len(current) == facts.replicas == routable:
        return _Verdict("True", Reason.COMPLETE, "All workers are of the current revision and serve.")
    text = f"{len(current)} of {facts.replicas} workers are of revision {facts.revision}."
    return _Verdict("True", Reason.ROLLING_OUT, text)


def _scheduled(facts: Facts, current: tuple[PodView, ...], problems: Mapping[str, Problem]) -> _Verdict:
    problem = worst(problems, "Scheduled")
    if problem is not None:
        return _Verdict("Unknown" if problem.waits else "False", problem.reason, problem.message)
    if facts.replicas == 0:
        return _Verdict("True", Reason.SCALED_TO_ZERO, _nobody(facts, "there is nothing to place."))
    if len(current) < facts.replicas:
        return _Verdict("Unknown", Reason.NOT_STARTED, f"{len(current)} of {facts.replicas} pods exist.")
    return _Verdict("True", Reason.SCHEDULED, f"{_workers(len(current))} placed on nodes.")


def _model_loaded(facts: Facts, current: tuple[PodView, ...], problems: Mapping[str, Problem]) -> _Verdict:
    if facts.replicas == 0:
        return _Verdict("Unknown", Reason.SCALED_TO_ZERO, _nobody(facts, "no worker runs."))
    problem = worst(problems, "ModelLoaded")
    if problem is not None:
        return _Verdict("Unknown" if problem.reason == Reason.NOT_STARTED else "False", problem.reason, problem.message)
    loaded = sum(p.ready or p.answering for p in current)
    if loaded:
        return _Verdict("True", Reason.LOADED, f"Loaded by {_workers(loaded)}.")
    held = worst(problems)
    why = held.message if held is not None else "no pod of the current revision exists yet."
    return _Verdict("Unknown", Reason.NOT_STARTED, f"No worker has come to the model: {why}")


def _router_synced(facts: Facts, current: tuple[PodView, ...], routable: int) -> _Verdict:
    router = facts.router
    if router is None:
        text = "The operator was given no address to ask routers at: the readiness of pods counts."
        return _Verdict("Unknown", Reason.NOT_OBSERVED, text)
    if router.reachable == 0:
        text = f"None of {router.total} routers answers: {router.error or 'no address'}. Check the router's pods."
        return _Verdict("Unknown", Reason.ROUTER_UNREACHABLE, text)
    waiting = sorted(
        p.name
        for p in current
        if (p.ready and p.name not in router.ready) or (p.answering and p.gated and p.name not in router.reached)
    )
    if waiting:
        return _Verdict("False", Reason.SYNCING, f"Routers do not reach {some_of(waiting)} yet.")
    if facts.replicas and not routable:
        return _Verdict("False", Reason.SYNCING, "No worker is ready to be routed to.")
    text = f"{router.reachable} of {router.total} routers answer and reach every ready worker."
    return _Verdict("True", Reason.SYNCED, text)


def _kv_index(facts: Facts, routable: int) -> _Verdict:
    router = facts.router
    if router is None or not router.reachable or not routable:
        return _Verdict("Unknown", Reason.NOT_OBSERVED, "No router tells of a worker's prefix cache.")
    if router.behind:
        text = (
            f"Routers do not hear what {some_of(sorted(router.behind))} cache: requests are served, and prefixes that "
            "these hold are not found."
        )
        return _Verdict("False", Reason.INDEX_BEHIND, text)
    if router.index is not None and router.index[0] == "False":
        return _Verdict(*router.index)
    return _Verdict("True", Reason.INDEXED, "Routers hear what each worker caches.")


def _prefetched(found: Prefetched) -> _Verdict:
    if not found.known:
        text = (
            "The operator may not list nodes, as where it was installed for some namespaces only: nothing is fetched."
        )
        return _Verdict("Unknown", Reason.NOT_OBSERVED, text)
    count = f"{found.done} of {found.nodes} nodes have pulled what workers need."
    if found.failed:
        return _Verdict("False", Reason.PREFETCH_FAILED, f"{count} Not so {some_of(found.failed)}.")
    if found.done < found.nodes:
        return _Verdict("False", Reason.PREFETCHING, count)
    return _Verdict("True", Reason.PREFETCHED, count)


def _prefetch_status(found: Prefetched | None) -> PrefetchStatus | None:
    if found is None or not found.known:
        return None
    return PrefetchStatus(nodes=found.nodes, done=found.done, failed=len(found.failed))


def _name_taken(facts: Facts) -> _Verdict:
    if facts.name_holder is None:
        return _Verdict("Unknown", Reason.NOT_OBSERVED, "The resource says no name that it could be known by.")
    if not facts.name_holder:
        return _Verdict("False", Reason.NAME_FREE, "No older resource has the same served name.")
    text = (
        f"The older resource {facts.name_holder} has the same served name, so requests reach this one as "
        "namespace/name only. Choose another spec.model.servedName."
    )
    return _Verdict("True", Reason.NAME_TAKEN, text)


def _workload_says(facts: Facts, condition: str, status: str) -> tuple[str, str] | None:
    """Reason and message of the first workload's condition that has this status."""
    for ref in facts.workloads:
        child = facts.children.children.get(ref)
        said, *rest = ("", "", "") if child is None else child.condition(condition)
        if said == status:
            return rest[0], rest[1]
    return None


def _condition(kind: str, verdict: _Verdict, before: Condition | None, generation: int, now: str) -> Condition:
    since = before.last_transition_time if before is not None and before.status == verdict.status else now
    return Condition.model_validate(
        {
            "type": kind,
            "status": verdict.status,
            "reason": str(verdict.reason),
            "message": clip(verdict.message, limits.MAX_CONDITION_MESSAGE),
            "observedGeneration": generation,
            "lastTransitionTime": since,
        }
    )


def _workers(count: int) -> str:
    return f"{count} worker" if count == 1 else f"{count} workers"


def _nobody(facts: Facts, then: str) -> str:
    if facts.course is None:
        return f"spec.replicas is 0: {then}"
    return "No request came for a while, so no worker runs; the next request is held while one starts."
