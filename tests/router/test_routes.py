"""`/routes` on the metrics port: what the operator asks, to know which workers can be reached."""

from dataclasses import replace

from router_kit import eventually

from argosy_api.membership import Worker
from argosy_api.routes import Routes
from argosy_router.clock import now
from argosy_router.routes import routes


async def test_each_worker_has_the_state_that_requests_meet(rig):
    """Ready when it answered, connecting until then, ejected after a failure, terminating when membership says so."""
    first, second = (w.member() for w in rig.workers)
    silent = Worker(worker_id="silent", address="127.0.0.1:1", revision="r2")
    rig.cluster.announce(first, replace(second, serving=False), silent)

    def states():
        [deployment] = routes(rig.router.fleet, now()).deployments
        return {w.worker_id: w.state for w in deployment.workers}

    wanted = {"w0": "ready", "w1": "terminating", "silent": "connecting"}
    await eventually(lambda: states() == wanted, what=str(wanted))
    async with rig.http.get(f"http://127.0.0.1:{rig.router.metrics_port}/routes") as answer:
        [deployment] = Routes.parse(await answer.text()).deployments
    assert {w.worker_id: w.revision for w in deployment.workers}["silent"] == "r2"

    rig.state.workers["w0"].eject(now(), 30)
    assert states()["w0"] == "ejected"
