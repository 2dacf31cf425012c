"""`/routes` on the metrics port: what the operator asks, to know which workers can be reached."""

import asyncio
import json
from dataclasses import replace

from router_kit import FakeWorker
from waiting import eventually

from argosy_api.membership import Deployment, Worker
from argosy_api.routes import DeploymentRoutes, Routes, RouteState, WorkerLoad, WorkerRoute
from argosy_api.v1 import worker_pb2 as pb
from argosy_router.clock import now
from argosy_router.fleet.demand import DemandBooks
from argosy_router.routes import routes

LOAD = WorkerLoad(age_s=1.0, requests=3, queue_s=1.5, kv_used=0.25, prefill_rate=1000.0, itl_s=0.02)
WORKER = WorkerRoute(worker_id="w", revision="r", state=RouteState.READY, indexed_blocks=0, load=LOAD)
DEPLOYMENT = DeploymentRoutes(namespace="n", name="m", served_name="m", policy="kvAware", workers=(WORKER,))


async def test_each_worker_has_the_state_that_requests_meet(rig):
    """Ready when it answered, connecting until then, ejected after a failure, terminating when membership says so."""
    first, second = (w.member() for w in rig.workers)
    silent = Worker(worker_id="silent", address="127.0.0.1:1", revision="r2")
    rig.cluster.announce(first, replace(second, serving=False, terminating=True), silent)

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


async def test_a_worker_whose_pod_is_not_ready_stands_by(rig):
    """It is known and reached, which opens its pod's gate; it gets no request while another one can."""
    first, second = (w.member() for w in rig.workers)
    rig.cluster.announce(first, replace(second, serving=False))

    def routed():
        [deployment] = routes(rig.router.fleet, now()).deployments
        return deployment

    await eventually(lambda: {w.worker_id: w.state for w in routed().workers} == {"w0": "ready", "w1": "standby"})
    assert (routed().ready, routed().reached) == ({"w0"}, {"w0", "w1"})

    async def workers():
        answers = [await rig.post("/v1/completions", {"model": "m", "prompt": f"{i}"}) for i in range(8)]
        assert [response.status for response, _ in answers] == [200] * 8
        return {response.headers["x-argosy-worker"] for response, _ in answers}

    assert await workers() == {"w0"}
    rig.cluster.announce(replace(first, serving=False, terminating=True), replace(second, serving=False))
    await eventually(lambda: routed().ready == set())
    assert await workers() == {"w1"}  # with nobody else: whoever declares pods ready may be away


async def test_it_is_told_whether_the_index_follows_a_worker(rig):
    """Of a worker that the index covers: within a moment after it was met, and no longer when nothing is heard."""

    def ages():
        [deployment] = routes(rig.router.fleet, now()).deployments
        return [w.index_age_s for w in deployment.workers]

    await eventually(lambda: all(age is not None for age in ages()))
    assert routes(rig.router.fleet, now()).deployments[0].behind(15.0) == set()
    worker = rig.state.workers["w0"]
    assert worker.index_age(max(worker.index_heard_at, worker.met_at) + 20.0) == 20.0
    late = replace(WORKER, index_age_s=16.0)
    assert replace(DEPLOYMENT, workers=(late, replace(WORKER, worker_id="v", index_age_s=14.0))).behind(15.0) == {"w"}
    assert replace(DEPLOYMENT, workers=(replace(late, state=RouteState.EJECTED),)).behind(15.0) == set()
    assert DEPLOYMENT.behind(15.0) == set()  # an older router


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


async def test_what_is_asked_of_a_deployment_is_told(rig):
    """Requests on their way, the prompts that came, how long first tokens took, and each worker's report."""

    def demand():
        [deployment] = routes(rig.router.fleet, now()).deployments
        return deployment.demand

    before = demand()
    assert (before.in_flight, before.held, before.prompt_rate, before.ttft) == (0, 0, 0.0, {})
    first = rig.workers[0].script, rig.workers[1].script
    for script in first:
        script.hang_accepted = True
    asked = asyncio.create_task(rig.post("/v1/completions", {"model": "m", "prompt": "x" * 200, "max_tokens": 1}))
    await eventually(lambda: demand().in_flight == 1)
    assert demand().idle_s == 0.0
    for script in first:
        script.release.set()
    response, _ = await asked
    assert response.status == 200
    await eventually(lambda: demand().in_flight == 0)
    after = demand()
    assert after.prompt_rate > 0
    assert sum(after.ttft.values()) == 1
    assert after.idle_s < now()

    def loads():
        [deployment] = routes(rig.router.fleet, now()).deployments
        return [w.load for w in deployment.workers]

    await eventually(lambda: all(load is not None and load.prefill_rate == 1000.0 for load in loads()))
    async with rig.http.get(f"http://127.0.0.1:{rig.router.metrics_port}/routes") as answer:
        [deployment] = Routes.parse(await answer.text()).deployments
    assert deployment.demand.ttft == after.ttft


async def test_what_a_worker_counts_is_told(rig):
    rig.cluster.announce(rig.workers[0].member())
    await eventually(lambda: rig.state.workers["w0"].facts is not None)
    worker = rig.state.workers["w0"]
    counts = {"prompt_tokens": 100, "cached_tokens": 60, "generated_tokens": 7}
    report = pb.Load(epoch=worker.facts.epoch, sequence=2**40, running=2, waiting=1, **counts)
    worker.take_load(report, now())
    [deployment] = Routes.parse(routes(rig.router.fleet, now()).to_json()).deployments
    load = deployment.workers[0].load
    assert (load.requests, load.waiting) == (3, 1)
    assert (load.prompt_tokens, load.cached_tokens, load.generated_tokens) == (100, 60, 7)


def test_an_older_router_tells_no_counts():
    body = json.loads(Routes((DEPLOYMENT,)).to_json())
    load = body["deployments"][0]["workers"][0]["load"]
    for name in ("waiting", "prompt_tokens", "cached_tokens", "generated_tokens"):
        del load[name]
    [deployment] = Routes.of(body).deployments
    assert deployment.workers[0].load.generated_tokens == 0


def test_the_books_of_demand_forget_what_is_older_than_a_minute():
    books = DemandBooks()
    books.prompt(600, 1000.0)
    books.first_token(0.3, 1000.0)
    assert books.told(1001.0).prompt_rate == 120.0  # of a window that has only begun, five seconds count
    assert books.told(1030.0).prompt_rate == 20.0
    books.prompt(60, 1031.0)
    told = books.told(1062.0)
    assert (told.prompt_rate, told.ttft) == (1.0, {})
    assert books.told(1200.0).prompt_rate == 0.0
