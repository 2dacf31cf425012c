"""`/routes` on the metrics port: what the operator asks, to know which workers can be reached."""

from dataclasses import replace

from router_kit import FakeWorker
from waiting import eventually

from argosy_api.membership import Deployment, Worker
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


def named(namespace: str, name: str, served: str, created_at: float, *, worker: Worker) -> Deployment:
    return Deployment(
        namespace=namespace, name=name, served_name=served, created_at=created_at, workers=(worker,), uid=f"u-{name}"
    )


async def test_of_equal_names_the_older_resource_has_it(make_rig):
    """And goes on to have it, whoever comes later or has ready workers; the younger is reached by its full name."""
    rig = await make_rig()
    await rig.add(FakeWorker(worker_id="mine"), FakeWorker(worker_id="theirs"))
    mine, theirs = (w.member() for w in rig.workers)
    old = named("team-a", "llama", "llama", 100.0, worker=mine)
    young = named("team-b", "other", "llama", 200.0, worker=theirs)

    async def worker_of(model: str) -> str:
        response, body = await rig.post("/v1/completions", {"model": model, "prompt": "x", "max_tokens": 1})
        return response.headers["x-argosy-worker"] if response.status == 200 else body.decode()

    fleet = rig.router.fleet
    for others in ((old, young), (young, old)):
        rig.cluster.announce(others=others)
        await eventually(lambda: {d.name for d in fleet.deployments} == {"m", "llama", "team-b/other"})
        await eventually(lambda: sum(w.facts is not None for d in fleet.deployments for w in d.workers.values()) == 2)
        assert await worker_of("llama") == "mine"
        assert await worker_of("team-a/llama") == "mine"
        assert await worker_of("team-b/other") == "theirs"
        async with rig.http.get(f"{rig.base}/v1/models") as answer:
            assert {m["id"] for m in (await answer.json())["data"]} == {"m", "llama", "team-b/other"}
        taken = {d.name: d.name_taken_by for d in routes(fleet, now()).deployments}
        assert taken == {"m": "", "llama": "", "other": "team-a/llama"}
    rig.cluster.announce(others=(young,))  # the older one is deleted: then the name is free
    await eventually(lambda: {d.name for d in fleet.deployments} == {"m", "llama"})
    await eventually(lambda: all(w.facts is not None for w in fleet.resolve("llama").workers.values()))
    assert await worker_of("llama") == "theirs"


async def test_a_full_name_is_nobody_elses(make_rig):
    """Whoever is served as `namespace/name` of another resource gets none of its requests, however old he is."""
    rig = await make_rig()
    await rig.add(FakeWorker(worker_id="mine"), FakeWorker(worker_id="theirs"))
    mine, theirs = (w.member() for w in rig.workers)
    thief = named("team-b", "thief", "team-a/llama", 1.0, worker=theirs)
    rig.cluster.announce(others=(named("team-a", "llama", "llama", 100.0, worker=mine), thief))
    fleet = rig.router.fleet
    await eventually(lambda: len(fleet.deployments) == 3)
    assert fleet.resolve("team-a/llama").spec.name == "llama"
    assert fleet.resolve("llama").spec.name == "llama"
    assert fleet.resolve("team-b/thief").spec.name == "thief"


async def test_gauges_of_equal_names_do_not_meet(make_rig):
    """Each deployment is counted under the name that it has."""
    rig = await make_rig()
    await rig.add(FakeWorker(worker_id="w0"))
    [worker] = (w.member() for w in rig.workers)
    young = [named("x", f"d{i}", "m", 10.0 + i, worker=worker) for i in range(2)]
    rig.cluster.announce(worker, others=tuple(young))
    await eventually(lambda: len(rig.router.fleet.deployments) == 3)
    gauge = rig.router.metrics.workers

    def models():
        return {
            s.labels["model"] for m in gauge.collect() for s in m.samples if s.value and s.labels["state"] == "ready"
        }

    await eventually(lambda: models() == {"m", "x/d0", "x/d1"}, what="a gauge for each")


async def test_whether_news_would_come_is_told(rig):
    """The last view stays, and the metrics say that it may be old."""
    up = rig.router.metrics.membership_up
    await eventually(lambda: up.collect()[0].samples[0].value == 1)
    rig.cluster.problem = "the API server is away"
    await eventually(lambda: up.collect()[0].samples[0].value == 0)
    response, _ = await rig.post("/v1/completions", {"model": "m", "prompt": "x", "max_tokens": 1})
    assert response.status == 200
