"""What the router can reach, as JSON for the operator (`GET /routes` on the metrics port, inside the cluster only)."""

from typing import Any

from argosy_router.fleet.fleet import DeploymentState, Fleet
from argosy_router.fleet.peer import Peer


def routes(fleet: Fleet, time: float) -> dict[str, Any]:
    """Every deployment with its workers and the state of each; `time` in monotonic seconds."""
    return {"deployments": [_deployment(state, time) for state in fleet.deployments]}


def _deployment(state: DeploymentState, time: float) -> dict[str, Any]:
    spec = state.spec
    return {
        "namespace": spec.namespace,
        "name": spec.name,
        "served_name": spec.served_name,
        "policy": spec.policy.value,
        "workers": [
            {
                "worker_id": worker.worker_id,
                "revision": worker.spec.revision,
                "state": state_of(worker, time),
                "indexed_blocks": state.index.held(worker.worker_id),
            }
            for worker in state.workers.values()
        ],
    }


def state_of(worker: Peer, time: float) -> str:
    """`ready` (takes requests), `connecting` (not known yet), `ejected` (failed a moment ago) or `terminating`."""
    if not worker.spec.serving:
        return "terminating"
    if worker.facts is None:
        return "connecting"
    return "ready" if worker.healthy(time) else "ejected"
