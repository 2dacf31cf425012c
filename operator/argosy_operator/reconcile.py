"""One pass over one resource: observe, plan, apply, status. Level-triggered: nothing but the present counts."""

import logging
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from argosy_api import resource as resource_types
from argosy_api.backoff import Backoff
from argosy_api.errors import ArgosyError
from argosy_api.resource import InferenceDeployment
from argosy_api.status import Condition, InferenceDeploymentStatus
from argosy_operator import cluster_groups, conditions, fit, former, gate, manifests, nodes, prefetch
from argosy_operator.asking import Starting, Told, ask_again, ask_serving, ask_starting
from argosy_operator.autoscaling import pilot
from argosy_operator.autoscaling.edge import Autoscaler
from argosy_operator.autoscaling.pilot import ScalingMemory
from argosy_operator.carry_out import OWN_ECHO_S, Made, carry_out, may_exist
from argosy_operator.definition import Definition
from argosy_operator.diagnose import Reason, diagnose, hopeless_at
from argosy_operator.errors import ApiError
from argosy_operator.events import Announcer
from argosy_operator.facts import Facts, Failure, RouterFacts, is_routable
from argosy_operator.image_volumes import ImageVolumes
from argosy_operator.kube import KubeApi
from argosy_operator.nudge import nudge
from argosy_operator.observe import Children, PodView
from argosy_operator.plan import Observed, Owner, plan
from argosy_operator.refusals import failure_of
from argosy_operator.revisions import History
from argosy_operator.rollout import Worker
from argosy_operator.settings import Settings, image_allowed
from argosy_operator.words import redact
from argosy_operator.workers import WorkerProbe

log = logging.getLogger(__name__)

_CONFLICT = Backoff(first=0.1, cap=2.0)
"""After somebody else was faster: there is hardly a reason to wait."""
_REFUSED = Backoff(first=0.5, cap=30.0)


@dataclass(slots=True)
class Memory:
    """What one resource's control loop remembers. Losing it costs a few superfluous applies, nothing else."""

    made: Made = field(default_factory=Made)
    status: Mapping[str, Any] | None = None
    told_once: bool = False
    """A pass has come as far as the status."""
    told: Told = field(default_factory=Told)
    scaling: ScalingMemory = field(default_factory=ScalingMemory)
    failures: int = 0
    """Passes in a row that failed."""
    announcer: Announcer = field(default_factory=Announcer)
    history: History | None = None
    """Of revisions, as it should be: nobody else writes it, so after the first pass it is never behind, as watches
    are."""
    starting: Starting = field(default_factory=Starting)
    gates: set[str] = field(default_factory=set)
    """Uids of pods whose readiness gate was opened."""


class Reconciler:
    """Makes the cluster what the resource says, and the status what the cluster is."""

    def __init__(
        self,
        api: KubeApi,
        settings: Settings,
        *,
        children: Callable[[Owner], Children],
        routers: Callable[[str, str], RouterFacts | None],
        probe: WorkerProbe,
        autoscaler: Autoscaler,
        name_holder: Callable[[str, str, str], str],
        is_new: Callable[[str], bool],
        hurry: Callable[[], None],
    ) -> None:
        """`name_holder` says which older resource, if any, has a resource's served name.

        `is_new` says whether nobody can have made anything for the resource with a uid.
        """
        self._api, self._settings = api, settings
        self._children, self._routers, self._probe, self._hurry = children, routers, probe, hurry
        self._name_holder, self._is_new, self._autoscaler = name_holder, is_new, autoscaler
        self._image_volumes, self._nodes, self._definition = ImageVolumes(api), nodes.Nodes(api), Definition(api)

    async def run(self, body: Mapping[str, Any], memory: Memory) -> tuple[float, InferenceDeploymentStatus]:
        """One pass. Returns after how many seconds another one is due though nothing happens, and the status.

        What the API server refuses or does not answer is counted in `memory.failures`, and not raised.
        """
        metadata = body["metadata"]
        owner = Owner(metadata["namespace"], metadata["name"], metadata["uid"])
        try:
            wanted = await self._parsed(body)
        except ArgosyError as error:
            # an older or a newer CRD let it in
            failure = Failure(Reason.INVALID_SPEC, f"The resource is not valid: {error.message}")
            return await self._leave_as_it_is(owner, body, failure, memory)
        try:
            refused = await self._refusal(wanted, body)
        except ApiError as error:
            _, status = await self._leave_as_it_is(owner, body, failure_of(error), memory)
            memory.failures += 1
            return self._again(owner, error, memory), status
        if refused is not None:
            return await self._leave_as_it_is(owner, body, refused, memory)

        before, router = self._children(owner), self._routers(owner.namespace, owner.name)
        there = sum(p.active and is_routable(p, router) for p in before.pods)
        course = self._autoscaler.course(wanted, before, there, body, memory.scaling)
        if course is not None:
            wanted = pilot.with_replicas(wanted, course.replicas)
        going = await self._autoscaler.choose_who_goes(owner, before.pods, course)
        observed = Observed(
            may_exist(wanted, before, memory.made, lambda: self._is_new(owner.uid)),
            history=memory.history if memory.history is not None else before.history,
            workers=tuple(_worker(p, before, router, memory.starting) for p in before.pods if p.active),
            groups=cluster_groups.groups_of(before, lambda pod: is_routable(pod, router), going),
            ending=any(p.terminating for p in before.everybody),
            trial=router.trial if router is not None else None,
            now=time.time(),
            nodes=await self._nodes_for(wanted),
            jobs=before.jobs,
        )
        intent = plan(wanted, observed, self._settings.plan)
        memory.history = intent.rollout.history
        outcome = await carry_out(self._api, owner, intent, before, memory.made, resync_s=self._settings.resync_s)

        children = self._children(owner)
        left = await cluster_groups.restart(self._api, owner.namespace, children)
        shut = await gate.open_gates(self._api, owner.namespace, children.everybody, router, memory.gates)
        refusal = outcome.refusal or left or shut
        current = tuple(p for p in children.pods if p.revision == intent.revision)
        whole = tuple(p for p in children.everybody if p.revision == intent.revision)
        memory.starting = starting = await ask_starting(self._probe, self._api, owner.namespace, whole)
        # what passes by itself is not told at once
        told = refusal is not None and (not refusal.passing or memory.failures > 2)
        facts = Facts(
            name=owner.name,
            generation=wanted.metadata.generation,
            replicas=wanted.spec.workers,
            by_role=wanted.spec.by_role,
            grouped=manifests.is_grouped(wanted),
            revision=intent.revision,
            rollout=intent.rollout,
            workloads=tuple(workload.ref for workload in intent.workloads),
            children=children,
            workers=starting.workers,
            mount_problems=starting.mount_problems,
            router=router,
            endpoint=self._settings.router_endpoint,
            name_holder=self._name_holder(owner.namespace, owner.name, wanted.served_name),
            failure=failure_of(refusal) if refusal is not None and told else None,
            course=course,
            adapters=wanted.spec.adapters,
            adapters_said=memory.told.adapters_of(current),
            counted_for=fit.counted_for(wanted.spec),
            prefetched=intent.prefetched,
            **former.served(memory.told, current, body, intent.revision),
        )
        # what was made of a new resource shows in a moment: that brings a pass, whose status tells of both at once
        later = memory.made.progress and refusal is None and not (memory.told_once or body.get("status"))
        memory.told_once = True
        status, unwritten = await self._write_status(body, facts, memory, later=later)
        news, serving_due = await ask_serving(self._probe, current, memory.told, wanted.spec.adapters)
        said = memory.told.adapters_of(current)
        await nudge(self._api, owner.namespace, current, wanted.spec.adapters, said)
        if news:
            facts = replace(facts, adapters_said=said, **former.served(memory.told, current, body, intent.revision))
            status, unwritten = await self._write_status(body, facts, memory)
        if router is not None and (conditions.is_unsettled(status) or gate.is_waiting(children.pods)):
            self._hurry()
        if (failed := refusal or unwritten) is not None:
            # what gets on, if slowly, need not wait longer and longer
            memory.failures = 1 if memory.made.progress else memory.failures + 1
            return self._again(owner, failed, memory), status
        memory.failures = 0
        echo_due = OWN_ECHO_S if outcome.echo else float("inf")
        scaling_due = pilot.AGAIN_S if course is not None else float("inf")
        nodes_due = 2 * nodes.FRESH_S if wanted.spec.placement.prefetch else float("inf")
        dues = (
            self._resync(),
            nodes_due,
            serving_due,
            ask_again(whole, time.time()),
            echo_due,
            scaling_due,
            intent.rollout.due,
        )
        return max(0.0, min(dues)), status

    async def _parsed(self, body: Mapping[str, Any]) -> InferenceDeployment:
        try:
            return resource_types.parse(dict(body))
        except ArgosyError:
            return resource_types.parse(await self._definition.without_defaults(body))

    async def _refusal(self, wanted: InferenceDeployment, body: Mapping[str, Any]) -> Failure | None:
        """Why a resource that is valid is not carried out here, if it is not."""
        if not image_allowed(wanted.spec.image, self._settings.allowed_images):
            text = f"spec.image {wanted.spec.image} is none of those that this installation allows."
            return Failure(Reason.IMAGE_NOT_ALLOWED, text)
        if text := fit.refusal(wanted.spec, former.memory_plan(body)):
            return Failure(Reason.DOES_NOT_FIT, text)
        has_image = any(uri.scheme == "oci" for uri in wanted.model_uris)
        if has_image and (text := await self._image_volumes.refusal(wanted.metadata.namespace)):
            return Failure(Reason.NO_IMAGE_VOLUMES, text)
        return None

    async def _nodes_for(self, wanted: InferenceDeployment) -> tuple[str, ...] | None:
        """Nodes that are to pull what workers need; None: that is not known."""
        if not wanted.spec.placement.prefetch:
            return ()
        found = await self._nodes.all()
        return None if found is None else prefetch.fitting(wanted, found)

    async def _leave_as_it_is(
        self, owner: Owner, body: Mapping[str, Any], failure: Failure, memory: Memory
    ) -> tuple[float, InferenceDeploymentStatus]:
        """What the resource says can't be done: its children stay as they were when it was last right."""
        facts = Facts(
            name=owner.name,
            generation=int(body["metadata"].get("generation", 0)),
            children=self._children(owner),
            router=self._routers(owner.namespace, owner.name),
            endpoint=self._settings.router_endpoint,
            failure=failure,
            **former.as_before(body),
        )
        status, failed = await self._write_status(body, facts, memory)
        memory.failures = 0 if failed is None else memory.failures + 1
        return self._resync() if failed is None else self._again(owner, failed, memory), status

    def _resync(self) -> float:
        return self._settings.resync_s * random.uniform(0.8, 1.2)

    def _again(self, owner: Owner, error: ApiError, memory: Memory) -> float:
        """Seconds until the next try: at once after a conflict, else growing, with jitter."""
        if error.retry_after_s is not None:
            due = min(60.0, error.retry_after_s) + random.uniform(0, 0.5)
        else:
            due = (_CONFLICT if error.status == 409 and error.passing else _REFUSED).jittered(memory.failures)
        level = logging.WARNING if memory.failures == 3 else logging.INFO
        log.log(level, "%s/%s: %s; again in %.1f s", owner.namespace, owner.name, redact(error.message), due)
        return due

    async def _write_status(
        self, body: Mapping[str, Any], facts: Facts, memory: Memory, *, later: bool = False
    ) -> tuple[InferenceDeploymentStatus, ApiError | None]:
        """The status, and why it could not be written. `later`: the next pass is to write it."""
        metadata = body["metadata"]
        before = memory.status if memory.status is not None else body.get("status") or {}
        previous = tuple(Condition.model_validate(c) for c in before.get("conditions") or ())
        status = conditions.status_of(facts, previous, datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"))
        document = status.model_dump(by_alias=True, exclude_none=True, mode="json")
        if document != before and not later:
            try:
                await self._api.apply_status(metadata, document)
            except ApiError as error:
                memory.status = None  # whether it was written is not known
                return status, error
            memory.status = document
            for event in memory.announcer.announce(metadata, previous, status):
                try:
                    await self._api.create_event(metadata["namespace"], event)
                except ApiError as error:
                    log.debug("%s/%s: event not posted: %s", metadata["namespace"], metadata["name"], error.message)
        return status, None


def _worker(pod: PodView, children: Children, router: RouterFacts | None, starting: Starting) -> Worker:
    """As far as rollouts go, with the worst that is wrong with any pod of a group."""
    pods = (pod, *(other for other in children.members if pod.group and other.group == pod.group))
    found = (
        (problem, one)
        for one in pods
        if (problem := diagnose(one, starting.workers.get(one.name), starting.mount_problems.get(one.name, "")))
    )
    problem, sick = min(found, key=lambda pair: pair[0], default=(None, pod))
    return Worker(
        revision=pod.revision,
        track=pod.track,
        routable=is_routable(pod, router),
        routable_since=pod.ready_since,
        problem="" if problem is None else problem.message,
        hopeless_at=hopeless_at(sick, problem),
    )
