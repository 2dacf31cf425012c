"""Steers the number of one resource's workers: from what is known to a course, which a pass then carries out."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from argosy_api import limits
from argosy_api.resource import InferenceDeployment
from argosy_api.status import AutoscalingStatus, ScalingDecision
from argosy_operator.autoscaling import schedule
from argosy_operator.autoscaling.decide import Decision, History, Standing, Why, decide_replicas
from argosy_operator.autoscaling.signals import Signals

AGAIN_S = 2.0
"""Between two decisions about a resource."""


@dataclass(slots=True)
class ScalingMemory:
    """What is remembered of one resource. Losing it costs a window of waiting before workers go, nothing else."""

    replicas: int | None = None
    """That were decided last; None: not by this process."""
    history: History = field(default_factory=History)
    status: AutoscalingStatus | None = None


@dataclass(frozen=True, slots=True)
class Course:
    """Where it goes: the number, the status to write, and a condition (status, reason, message) about it."""

    replicas: int
    fewer: int
    """So many less than before."""
    status: AutoscalingStatus
    condition: tuple[str, str, str]
    decision: Decision
    signals: Signals


@dataclass(frozen=True, slots=True)
class Found:
    """What a pass has found of a resource's workers."""

    replicas: int | None
    """That the workload in the cluster asks for; None: there is none."""
    serving: int
    written: AutoscalingStatus | None
    """The status that is written in the resource."""


def steer(
    resource: InferenceDeployment,
    found: Found,
    signals: Signals,
    memory: ScalingMemory,
    *,
    monotonic: Callable[[], float] = time.monotonic,
    wall: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> Course | None:
    """Decide, and remember it; None: this resource says itself how many workers it wants."""
    spec = resource.spec.autoscaling
    if spec is None:
        memory.replicas, memory.history, memory.status = None, History(), None
        return None
    present = wall()
    least = schedule.least(spec, present)
    before = _before(found, memory, least)
    decision = decide_replicas(signals, spec, Standing(before, found.serving, least), memory.history, monotonic())
    memory.replicas, memory.history = decision.replicas, decision.history
    memory.status = _status(memory.status or found.written, decision, before, present)
    return Course(
        replicas=decision.replicas,
        fewer=max(0, before - decision.replicas),
        status=memory.status,
        condition=_condition(decision),
        decision=decision,
        signals=signals,
    )


def with_replicas(resource: InferenceDeployment, replicas: int) -> InferenceDeployment:
    """The resource as if its user had written this number."""
    return resource.model_copy(update={"spec": resource.spec.model_copy(update={"replicas": replicas})})


def _before(found: Found, memory: ScalingMemory, least: int) -> int:
    """How many were asked for last: as this process knows, as the workload says, as a former operator wrote."""
    if memory.replicas is not None:
        return memory.replicas
    if found.replicas is not None:
        return found.replicas
    return found.written.desired_replicas if found.written is not None else least


def _status(former: AutoscalingStatus | None, decision: Decision, before: int, now: datetime) -> AutoscalingStatus:
    decisions = list(former.decisions) if former is not None else []
    if decision.replicas != before:
        made = ScalingDecision(
            time=now.strftime("%Y-%m-%dT%H:%M:%SZ"),
            before=before,
            after=decision.replicas,
            reason=decision.why,
            message=decision.text,
        )
        decisions = [made, *decisions][: limits.MAX_SCALING_DECISIONS]
    return AutoscalingStatus(desired_replicas=decision.replicas, decisions=decisions)


def _condition(decision: Decision) -> tuple[str, str, str]:
    """Without figures, which change all the time: those are metrics."""
    match decision.why:
        case Why.NO_SIGNALS:
            text = (
                f"No router tells what is asked of this resource, so the number of workers stays at "
                f"{decision.replicas}. Condition RouterSynced says more of the routers."
            )
            return "False", decision.why, text
        case Why.INCOMPLETE:
            text = "Not every router and worker tells how it is: workers may be added, and none is taken away."
            return "False", decision.why, text
        case Why.AT_MAXIMUM:
            return "True", decision.why, "More workers are wanted than spec.autoscaling.maxReplicas allows."
        case _:
            return "True", "Active", "The number of workers follows what is measured."
