"""What a former pass, or a former operator, wrote into a resource's status, where it is needed again."""

from collections.abc import Mapping
from typing import Any

from argosy_api import labels
from argosy_api.status import MemoryStatus, ModelStatus
from argosy_operator import uniformity
from argosy_operator.asking import Told
from argosy_operator.observe import PodView


def as_before(body: Mapping[str, Any]) -> dict[str, Any]:
    """Revision and replicas that the children were last made for."""
    written, spec = body.get("status") or {}, body.get("spec") or {}
    replicas = spec.get("replicas", 1) if isinstance(spec, Mapping) else 1
    replicas = (written.get("autoscaling") or {}).get("desiredReplicas", replicas)
    known = isinstance(replicas, int) and replicas >= 0
    return {
        "revision": str(written.get("revision") or ""),
        "current_revision": str(written.get("currentRevision") or ""),
        "grouped": labels.GROUPED in str(written.get("selector")),
        "replicas": replicas if known else 1,
    }


def memory_plan(body: Mapping[str, Any]) -> MemoryStatus | None:
    """What workers said of their memory, as it was written down."""
    written = (body.get("status") or {}).get("plan")
    return None if written is None else MemoryStatus.model_validate(written)


def served(told: Told, current: tuple[PodView, ...], body: Mapping[str, Any], revision: str) -> dict[str, Any]:
    """What the workers of this revision serve: as they say, or as a former operator wrote down."""
    found = told.by_pod(current)
    written = body.get("status") or {}
    if found or written.get("revision") != revision or not written.get("model"):
        return {"served": found, "model": uniformity.model_of(found), "plan": memory_plan(body)}
    return {"served": found, "model": ModelStatus.model_validate(written["model"]), "plan": memory_plan(body)}
