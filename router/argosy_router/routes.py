"""What the router can reach, for `GET /routes` on the metrics port (inside the cluster only)."""

from argosy_api.membership import RoutingPolicy
from argosy_api.routes import DeploymentRoutes, IndexTruth, Routes, RouteState, WorkerLoad, WorkerRoute
from argosy_router.fleet.deployment import DeploymentState
from argosy_router.fleet.fleet import Fleet
from argosy_router.fleet.peer import Peer
from argosy_router.routing.policy import fill_rates


def routes(fleet: Fleet, time: float) -> Routes:
    """Every deployment with its workers and the state of each; `time` in monotonic seconds."""
    return Routes(tuple(_deployment(state, time) for state in fleet.deployments))


def _deployment(state: DeploymentState, time: float) -> DeploymentRoutes:
    spec = state.spec
    loads = _loads(state, time)
    return DeploymentRoutes(
        namespace=spec.namespace,
        name=spec.name,
        served_name=spec.served_name,
        name_taken_by=state.name_taken_by,
        policy=spec.policy.value,
        demand=state.demand.told(time),
        trial=state.trial,
        index=_index(state, time),
        workers=tuple(
            WorkerRoute(
                worker_id=worker.worker_id,
                revision=worker.spec.revision,
                state=state_of(worker, time),
                indexed_blocks=state.index.held(worker.worker_id),
                load=loads.get(worker.worker_id),
                index_age_s=worker.index_age(time) if state.indexed(worker) else None,
            )
            for worker in state.workers.values()
        ),
    )


def _index(state: DeploymentState, time: float) -> IndexTruth | None:
    if state.spec.policy is not RoutingPolicy.KV_AWARE:
        return None
    return state.truth.told(time)


def _loads(state: DeploymentState, time: float) -> dict[str, WorkerLoad]:
    """The recent reports, by worker; who has measured no speed yet is taken to be as fast as the others."""
    known = [(worker, load) for worker in state.workers.values() if (load := worker.fresh_load(time)) is not None]
    rates = fill_rates([load.prefill_tokens_per_second for _, load in known])
    return {
        worker.worker_id: WorkerLoad(
            age_s=max(0.0, time - worker.load_at),
            requests=load.running + load.waiting,
            queue_s=load.uncached_tokens / rate,
            kv_used=load.used_blocks / load.total_blocks if load.total_blocks else 0.0,
            prefill_rate=load.prefill_tokens_per_second,
            itl_s=load.inter_token_seconds,
            waiting=load.waiting,
            prompt_tokens=load.prompt_tokens,
            cached_tokens=load.cached_tokens,
            generated_tokens=load.generated_tokens,
        )
        for (worker, load), rate in zip(known, rates, strict=True)
    }


def state_of(worker: Peer, time: float) -> RouteState:
    """How a worker stands."""
    if worker.spec.terminating:
        return RouteState.TERMINATING
    if worker.facts is None:
        return RouteState.CONNECTING
    if not worker.spec.serving:
        return RouteState.STANDBY if worker.answers(time) else RouteState.EJECTED
    return RouteState.READY if worker.healthy(time) else RouteState.EJECTED
