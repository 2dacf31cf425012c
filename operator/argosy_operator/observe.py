"""Small frozen views of what is in the cluster: all that the operator keeps of an object that it watches."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from argosy_api import labels
from argosy_operator import prefetch
from argosy_operator.group_manifests import STATEFUL_SET
from argosy_operator.plan import DEPLOYMENT, ChildRef
from argosy_operator.revisions import KIND, Revision

Body = Mapping[str, Any]
_WAITS_LONG_S = 15.0
DELETION_COST = "controller.kubernetes.io/pod-deletion-cost"
CREATING = ("ContainerCreating", "PodInitializing")
"""Reasons of a container that is on its way."""


@dataclass(frozen=True, slots=True)
class Termination:
    """How a container ended."""

    exit_code: int
    reason: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PodView:
    """A worker pod."""

    name: str
    uid: str = ""
    revision: str = ""
    role: str = ""
    ip: str = ""
    node: str = ""
    created_at: float = 0.0
    """Seconds since the epoch."""
    phase: str = "Pending"
    ready: bool = False
    ready_since: float = 0.0
    """Seconds since the epoch."""
    answering: bool = False
    """Its container is ready: the worker answers the kubelet."""
    gated: bool = False
    """It waits for somebody to say that routers reach it."""
    track: str = ""
    owner: str = ""
    """Uid of what made it."""
    terminating: bool = False
    scheduled: bool = False
    scheduling: str = ""
    """The scheduler's own words, when it found no place."""
    running: bool = False
    waiting: str = ""
    """Reason that the container waits for."""
    waiting_message: str = ""
    ended: Termination | None = None
    """How the container ended: now, or the time before it was restarted."""
    restarts: int = 0
    group: str = ""
    """Name of the group that it belongs to; empty: it is a worker by itself."""
    rank: int = 0
    """In its group: that of rank 0 is the worker, and the others help it."""
    told_to_end_at: float = 0.0
    """Seconds since the epoch; 0: it was not."""
    image_volumes: tuple[str, ...] = ()
    """Images that it has mounted as volumes."""
    adapters: str = ""
    """The list of adapters that its kubelet was told to show it, as a digest."""
    cost: int = 0
    """Deletion cost: of workers alike those with the least go first."""

    @property
    def active(self) -> bool:
        """Counts as a replica: exists, is not being deleted and has not ended for good."""
        return not self.terminating and self.phase not in ("Succeeded", "Failed")

    def is_waiting_long(self, now: float) -> bool:
        """Placed on a node, but its container is not made for longer than usual: volumes that do not mount."""
        return self.active and self.scheduled and self.waiting in CREATING and now - self.created_at > _WAITS_LONG_S

    @classmethod
    def from_body(cls, body: Body) -> "PodView":
        """Read a core/v1 Pod."""
        metadata, spec, status = body["metadata"], body.get("spec") or {}, body.get("status") or {}
        conditions = {c["type"]: c for c in status.get("conditions") or ()}
        scheduled = conditions.get("PodScheduled", {})
        container: Body = next((c for c in status.get("containerStatuses") or () if c.get("name") == labels.WORKER), {})
        state = container.get("state") or {}
        waiting = state.get("waiting") or {}
        ended = state.get("terminated") or (container.get("lastState") or {}).get("terminated")
        return cls(
            name=metadata["name"],
            uid=metadata.get("uid", ""),
            revision=(metadata.get("labels") or {}).get(labels.REVISION, ""),
            role=(metadata.get("labels") or {}).get(labels.ROLE, ""),
            ip=status.get("podIP", ""),
            node=spec.get("nodeName", ""),
            created_at=epoch_seconds(metadata.get("creationTimestamp")),
            phase=status.get("phase", "Pending"),
            ready=conditions.get("Ready", {}).get("status") == "True",
            ready_since=epoch_seconds(conditions.get("Ready", {}).get("lastTransitionTime")),
            answering=conditions.get("ContainersReady", {}).get("status") == "True",
            gated=any(gate["conditionType"] == labels.ROUTABLE for gate in spec.get("readinessGates") or ())
            and conditions.get(labels.ROUTABLE, {}).get("status") != "True",
            track=(metadata.get("labels") or {}).get(labels.TRACK, ""),
            owner=controller_of(body),
            terminating="deletionTimestamp" in metadata,
            scheduled=scheduled.get("status") == "True" or bool(spec.get("nodeName")),
            scheduling=scheduled.get("message", "") if scheduled.get("status") == "False" else "",
            running="running" in state,
            waiting=waiting.get("reason", ""),
            waiting_message=waiting.get("message", ""),
            ended=None
            if ended is None
            else Termination(int(ended.get("exitCode", 0)), ended.get("reason", ""), ended.get("message", "")),
            restarts=int(container.get("restartCount", 0)),
            group=(metadata.get("labels") or {}).get(labels.IN_GROUP, ""),
            rank=_number((metadata.get("labels") or {}).get(labels.RANK)),
            told_to_end_at=_told_to_end_at(metadata),
            image_volumes=tuple(v["image"].get("reference", "") for v in spec.get("volumes") or () if "image" in v),
            adapters=(metadata.get("annotations") or {}).get(labels.ADAPTERS, ""),
            cost=_number((metadata.get("annotations") or {}).get(DELETION_COST)),
        )


@dataclass(frozen=True, slots=True)
class ChildView:
    """A child that was applied: enough to see that it is no longer what it was."""

    ref: ChildRef
    fingerprint: str
    uid: str = ""
    owner: str = ""
    """uid of its controller: whose it is, whatever its labels say."""
    conditions: tuple[tuple[str, str, str, str], ...] = ()
    """type, status, reason, message; of a workload or a Job."""
    replicas: int | None = None
    """That a workload asks for."""
    made_of: str = ""
    """Revision of a workload's pods."""
    track: str = ""
    """Of a group."""
    created_at: float = 0.0
    """Seconds since the epoch; of a group."""
    revision: Revision | None = None
    """What a ControllerRevision is about."""

    @classmethod
    def from_body(cls, body: Body, api_version: str, kind: str) -> "ChildView":
        """Read any child."""
        conditions = (body.get("status") or {}).get("conditions") or () if kind in (DEPLOYMENT, prefetch.KIND) else ()
        return cls(
            ChildRef(api_version, kind, body["metadata"]["name"]),
            fingerprint(body),
            body["metadata"].get("uid", ""),
            controller_of(body),
            tuple((c["type"], c["status"], c.get("reason", ""), c.get("message", "")) for c in conditions),
            (body.get("spec") or {}).get("replicas") if kind == DEPLOYMENT else None,
            revision=Revision.from_body(body) if kind == KIND else None,
            **(_about_group(body) if kind == STATEFUL_SET else {}),
        )

    def condition(self, kind: str) -> tuple[str, str, str]:
        """status, reason and message of a condition; empty where there is none."""
        return next((c[1:] for c in self.conditions if c[0] == kind), ("", "", ""))


@dataclass(frozen=True, slots=True)
class Children:
    """All that is known about the children of one resource."""

    pods: tuple[PodView, ...] = ()
    """The workers."""
    children: Mapping[ChildRef, ChildView] = field(default_factory=dict)
    members: tuple[PodView, ...] = ()
    """Pods of groups that are not of rank 0."""

    @property
    def everybody(self) -> tuple[PodView, ...]:
        """All pods."""
        return self.pods + self.members

    @property
    def jobs(self) -> dict[str, str]:
        """Jobs by name, and how each has ended, if it has."""
        return {
            ref.name: next(
                (c[0] for c in child.conditions if c[0] in (prefetch.DONE, prefetch.FAILED) and c[1] == "True"), ""
            )
            for ref, child in self.children.items()
            if ref.kind == prefetch.KIND
        }

    @property
    def history(self) -> tuple[Revision, ...]:
        """The revisions, in no order."""
        return tuple(child.revision for child in self.children.values() if child.revision is not None)


def _about_group(body: Body) -> dict[str, Any]:
    metadata = body["metadata"]
    marks = metadata.get("labels") or {}
    return {
        "made_of": marks.get(labels.REVISION, ""),
        "track": marks.get(labels.TRACK, ""),
        "created_at": epoch_seconds(metadata.get("creationTimestamp")),
    }


def _told_to_end_at(metadata: Body) -> float:
    at = epoch_seconds(metadata.get("deletionTimestamp"))
    return at - float(metadata.get("deletionGracePeriodSeconds") or 0) if at else 0.0


def _number(text: Any) -> int:
    """A number that others have written; 0 where it is none."""
    return int(text) if isinstance(text, str) and re.fullmatch(r"-?[0-9]{1,15}", text) else 0


def controller_of(body: Body) -> str:
    """Uid of the object that this one belongs to; empty: to none."""
    owners = body["metadata"].get("ownerReferences") or ()
    return next((str(owner["uid"]) for owner in owners if owner.get("controller")), "")


def fingerprint(body: Body) -> str:
    """Hash of what somebody may have changed: everything but the status and what the API server itself counts up.

    Annotations are not in it: the Deployment controller writes some, and the plan sets none.
    """
    metadata = body["metadata"]
    content = {k: v for k, v in body.items() if k not in ("status", "metadata", "apiVersion", "kind")}
    about = [metadata.get("uid"), metadata.get("labels"), metadata.get("ownerReferences"), content]
    text = json.dumps(about, sort_keys=True, separators=(",", ":"), default=dict)
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()


def epoch_seconds(timestamp: str | None) -> float:
    """Seconds since the epoch of a Kubernetes timestamp; 0 where there is none."""
    if not timestamp:
        return 0.0
    return datetime.fromisoformat(timestamp).timestamp()
