"""Autoscaling as a pass uses it: asks what is known, has it decided, and names the workers that are to go."""

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from argosy_api.resource import InferenceDeployment
from argosy_api.status import AutoscalingStatus
from argosy_operator.autoscaling import pilot
from argosy_operator.autoscaling.pilot import Course, Found, ScalingMemory
from argosy_operator.autoscaling.signals import Told, freshest, signals
from argosy_operator.autoscaling.victims import Worth, victims
from argosy_operator.errors import ApiError
from argosy_operator.group_manifests import STATEFUL_SET
from argosy_operator.observe import Children, PodView
from argosy_operator.plan import DEPLOYMENT, Owner

log = logging.getLogger(__name__)


class PodMarker(Protocol):
    """What is asked of the API server here."""

    async def set_deletion_cost(self, namespace: str, name: str, uid: str, cost: int) -> None:
        """Say how much would be lost with a pod. Raises ApiError."""
        ...


class Autoscaler:
    """One for the operator; what it remembers of a resource is the caller's."""

    def __init__(
        self,
        api: PodMarker,
        told: Callable[[str, str], Told | None],
        report: Callable[[str, str, Course | None], None],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`told` says what routers tell of a resource; `report` hears where each one goes."""
        self._api, self._told, self._report, self._clock = api, told, report, clock

    def course(
        self,
        resource: InferenceDeployment,
        children: Children,
        serving: int,
        body: Mapping[str, Any],
        memory: ScalingMemory,
    ) -> Course | None:
        """Where it goes; None: the resource says itself how many workers it wants."""
        namespace, name = resource.metadata.namespace, resource.metadata.name
        told = None if resource.spec.autoscaling is None else self._told(namespace, name)
        written = (body.get("status") or {}).get("autoscaling")
        numbers = [c.replicas for ref, c in children.children.items() if ref.kind == DEPLOYMENT]
        groups = [c.made_of for ref, c in children.children.items() if ref.kind == STATEFUL_SET]
        if groups and not numbers and len(set(groups)) == 1:
            numbers = [len(groups)]
        found = Found(
            # during a rollout with two workloads none of them has the whole number; the status has it
            replicas=numbers[0] if len(numbers) == 1 else None,
            serving=serving,
            written=None if written is None else AutoscalingStatus.model_validate(written),
        )
        now = self._clock()
        course = pilot.steer(resource, found, signals(told, now), memory, monotonic=lambda: now)
        self._report(namespace, name, course)
        return course

    async def choose_who_goes(self, owner: Owner, pods: tuple[PodView, ...], course: Course | None) -> frozenset[str]:
        """Before there are to be fewer: tell Kubernetes which workers have the least to lose; their names.

        It goes on without an answer: then Kubernetes chooses.
        """
        if course is None or not course.fewer:
            return frozenset()
        told = self._told(owner.namespace, owner.name)
        losses = {} if told is None else worth(told, self._clock())
        chosen = victims(pods, losses, course.fewer)
        for pod in chosen:
            try:
                # a later choice counts more than an earlier one that came to nothing
                await self._api.set_deletion_cost(owner.namespace, pod.name, pod.uid, -int(time.time()))
            except ApiError as error:
                log.info("%s/%s: %s could not be marked: %s", *owner[:2], pod.name, error.message)
        return frozenset(pod.name for pod in chosen)


def worth(told: Told, now: float) -> dict[str, Worth]:
    """What would be lost with each worker, as the routers tell it."""
    known = [answer for answer in told.answers if answer is not None]
    loads = freshest(known, now - told.at)
    blocks: dict[str, int] = {}
    for answer in known:
        for worker in answer.workers:
            blocks[worker.worker_id] = max(blocks.get(worker.worker_id, 0), worker.indexed_blocks)
    return {
        name: Worth(loads[name].requests if name in loads else 0, blocks.get(name, 0))
        for name in blocks.keys() | loads.keys()
    }
