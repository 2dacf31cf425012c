"""What the router can reach, for `GET /routes` on the metrics port (inside the cluster only)."""

from argosy_api.routes import DeploymentRoutes, Routes, RouteState, WorkerRoute
from argosy_router.fleet.fleet import DeploymentState, Fleet
from argosy_router.fleet.peer import Peer


def routes(fleet: Fleet, time: float) -> Routes:
    """Every deployment with its workers and the state of each; `time` in monotonic seconds."""
    return Routes(tuple(_deployment(state, time) for state in fleet.deployments))


def _deployment(state: DeploymentState, time: float) -> DeploymentRoutes:
    spec = state.spec
    return DeploymentRoutes(
        namespace=spec.namespace,
        name=spec.name,
        served_name=spec.served_name,
        name_taken_by=state.name_taken_by,
        policy=spec.policy.value,
        workers=tuple(
            WorkerRoute(
                worker_id=worker.worker_id,
                revision=worker.spec.revision,
                state=state_of(worker, time),
                indexed_blocks=state.index.held(worker.worker_id),
            )
            for worker in state.workers.values()
        ),
    )


def state_of(worker: Peer, time: float) -> RouteState:
    """How a worker stands."""
    if not worker.spec.serving:
        return RouteState.TERMINATING
    if worker.facts is None:
        return RouteState.CONNECTING
    return RouteState.READY if worker.healthy(time) else RouteState.EJECTED
