"""Kubernetes Events about a resource: what a person wants to read in `kubectl describe`, and not more."""

import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from argosy_api import limits
from argosy_api.resource import API_VERSION, KIND
from argosy_api.status import Condition, InferenceDeploymentStatus
from argosy_operator.conditions import READY
from argosy_operator.diagnose import Reason
from argosy_operator.words import clip

COMPONENT = "serving.argosy.dev/operator"
AGAIN_S = 300.0
"""The same news is told once in this time."""
_TAKES_TIME = {
    Reason.STARTING, Reason.NOT_STARTED, Reason.DOWNLOADING, Reason.LOADING, Reason.SYNCING, Reason.UNHEALTHY,
    Reason.NOT_OBSERVED, Reason.API_UNAVAILABLE,
}  # fmt: skip


class Announcer:
    """Decides what is news about one resource."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._told: dict[str, float] = {}

    def announce(
        self, metadata: Mapping[str, Any], previous: tuple[Condition, ...], status: InferenceDeploymentStatus
    ) -> list[dict[str, Any]]:
        """Events (core/v1) to post for a change of status: changes of the Ready condition's reason."""
        before = next((c for c in previous if c.type == READY), None)
        after = next((c for c in status.conditions if c.type == READY), None)
        if after is None or after.reason in _TAKES_TIME:
            return []
        if before is not None and (before.status, before.reason) == (after.status, after.reason):
            return []
        now = self._clock()
        if now - self._told.get(after.reason, float("-inf")) < AGAIN_S:
            return []
        self._told[after.reason] = now
        good = after.status == "True" or after.reason == Reason.ROLLING_OUT
        return [_event(metadata, "Normal" if good else "Warning", after.reason, after.message)]


def _event(metadata: Mapping[str, Any], kind: str, reason: str, message: str) -> dict[str, Any]:
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"generateName": f"{metadata['name']}.", "namespace": metadata["namespace"]},
        "involvedObject": {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "name": metadata["name"],
            "namespace": metadata["namespace"],
            "uid": metadata.get("uid", ""),
            "resourceVersion": metadata.get("resourceVersion", ""),
        },
        "type": kind,
        "reason": reason,
        "message": clip(message, limits.MAX_EVENT_MESSAGE),
        "source": {"component": COMPONENT},
        "reportingComponent": COMPONENT,
        "reportingInstance": "argosy-operator",
        "firstTimestamp": now,
        "lastTimestamp": now,
        "count": 1,
    }
