"""Who is there, from the API server: reflectors that survive what API servers do, and the router's view on them."""

import asyncio
import contextlib
import copy

import fakecluster
import pytest
from fakeapi import ApiError, Key
from operator_kit import document
from waiting import eventually

from argosy_api.membership import Deployment, Membership, RoutingPolicy, Worker
from argosy_kube import reflector
from argosy_kube.access import Access
from argosy_kube.http import HttpTransport, session
from argosy_kube.reflector import Key as ObjectKey
from argosy_kube.reflector import Reflector
from argosy_router import tasks
from argosy_router.fleet.membership_kubernetes import DeploymentView, KubernetesSource, SliceView, merge

PODS = "/api/v1/pods"


def endpoint(name, *, ip="10.0.0.1", **conditions):
    return {"addresses": [ip], "conditions": conditions, "targetRef": {"kind": "Pod", "name": name}}


def endpoint_slice(*endpoints, name="m-worker-x", owner="m", port=9000):
    return {
        "metadata": {"name": name, "namespace": "default", "labels": {"serving.argosy.dev/name": owner}},
        "addressType": "IPv4",
        "endpoints": list(endpoints),
        "ports": [{"name": "metrics", "port": 9001}, {"name": "grpc", "port": port}],
    }


@contextlib.asynccontextmanager
async def reflecting(world, path=PODS, **options):
    """A reflector of names and versions, and what it told."""
    told = []
    async with session(Access(server=world.url)) as http:
        transport = HttpTransport(http, Access(server=world.url))
        made = Reflector(
            transport,
            path,
            lambda body: body["metadata"]["labels"]["v"],
            lambda *change: told.append(change),
            **options,
        )
        task = asyncio.create_task(made.run())
        try:
            await asyncio.wait_for(made.synced.wait(), 10)
            yield made, told
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


def put(world, name, value="1"):
    key = Key(fakecluster.PODS, "default", name)
    # no Deployment owns these, and the labels are all that the kubelet of the fake looks at
    body = {"metadata": {"labels": {"v": value, "serving.argosy.dev/name": "x"}}, "status": fakecluster.ready({})}
    if key in world.server.objects:
        world.server.update(
            key,
            {
                **copy.deepcopy(world.server.objects[key]),
                "metadata": {**world.server.objects[key]["metadata"], "labels": body["metadata"]["labels"]},
            },
        )
    else:
        world.server.create(key, body)


def drop(world, name):
    world.server.delete(Key(fakecluster.PODS, "default", name))


def at(name):
    return ObjectKey("default", name)


async def test_a_reflector_follows(world):
    put(world, "a")
    async with reflecting(world) as (made, told):
        assert made.objects == {at("a"): "1"}
        put(world, "b")
        put(world, "a", "2")
        await eventually(lambda: made.objects == {at("a"): "2", at("b"): "1"})
        drop(world, "a")
        await eventually(lambda: made.objects == {at("b"): "1"})
        assert told == [(at("a"), None, "1"), (at("b"), None, "1"), (at("a"), "1", "2"), (at("a"), "2", None)]


async def test_lists_come_in_pages(world):
    for index in range(1203):
        put(world, f"p{index}")
    async with reflecting(world) as (made, _):
        assert len(made.objects) == 1203


async def test_what_vanished_while_nobody_could_watch_is_told(world):
    put(world, "a")
    put(world, "b")
    away = {"now": False}

    async def hook(request, phase):
        if away["now"] and phase == "before":
            raise ApiError(503, "ServiceUnavailable")

    world.server.hooks.append(hook)
    async with reflecting(world) as (made, told):
        away["now"] = True
        world.server.drop_watches()
        drop(world, "a")
        put(world, "c")
        world.server.compact()
        refused = len(world.server.requests)
        await eventually(lambda: len(world.server.requests) > refused + 1)
        assert made.objects == {at("a"): "1", at("b"): "1"}  # the last view stays
        away["now"] = False
        await eventually(lambda: made.objects == {at("b"): "1", at("c"): "1"})
        assert told[2:] == [(at("a"), "1", None), (at("c"), None, "1")]


async def test_a_watch_that_says_nothing_is_taken_for_dead(world):
    async with reflecting(world, inactivity_s=0.3) as (made, _):
        world.server.deaf = True
        put(world, "a")
        watches = sum("watch" in path for _, path in world.server.requests)
        await eventually(lambda: sum("watch" in path for _, path in world.server.requests) > watches)
        world.server.deaf = False
        await eventually(lambda: made.objects == {at("a"): "1"})


async def test_an_api_server_that_refuses_is_not_hammered(world):
    async def hook(request, phase):
        if phase == "before" and "watch" in request.path_qs:
            raise ApiError(403, "Forbidden")

    world.server.hooks.append(hook)
    async with reflecting(world):
        before = len(world.server.requests)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(2):
                while True:
                    await asyncio.sleep(0.05)
        assert len(world.server.requests) - before < 10


async def test_an_object_that_cannot_be_read_stops_nobody(world):
    """It is left out, or keeps its last view; the others are followed as before."""
    put(world, "a")
    broken = Key(fakecluster.PODS, "default", "broken")
    world.server.create(broken, {"metadata": {"labels": {"serving.argosy.dev/name": "x"}}, "status": {}})
    async with reflecting(world) as (made, _):
        assert made.objects == {at("a"): "1"}
        world.server.update(
            Key(fakecluster.PODS, "default", "a"),
            {**(old := world.server.objects[Key(fakecluster.PODS, "default", "a")]), "metadata": unlabelled(old)},
        )
        put(world, "b")
        await eventually(lambda: made.objects == {at("a"): "1", at("b"): "1"})
        assert made.problem == ""


def unlabelled(body):
    labels = {k: v for k, v in body["metadata"]["labels"].items() if k != "v"}
    return {**copy.deepcopy(body["metadata"]), "labels": labels}


class Strange:
    """A server whose first answers nobody foresaw."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.asked = 0

    async def get(self, path, params):
        self.asked += 1
        answer = self.answers.pop(0) if self.answers else {"items": [], "metadata": {"resourceVersion": "1"}}
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def stream(self, path, params):
        yield b'{"type": "ADDED", "object": {"metadata": {"name": "a", "resourceVersion": "2"}}}\n'
        await asyncio.Event().wait()


async def test_an_answer_that_nobody_foresaw_is_asked_for_again(monkeypatch):
    """No metadata, items that are none, a fault of the library: told, and begun anew."""
    monkeypatch.setattr(reflector, "BACKOFF", reflector.Backoff(first=0.001, cap=0.01))
    server = Strange({}, {"items": [3], "metadata": {}}, {"items": 5}, RuntimeError("a fault of the library"))
    problems = []
    changes = []

    def on_change(key, before, after):
        changes.append(key.name)
        if len(changes) == 1:
            raise LookupError("a fault of whoever listens")

    made = Reflector(server, PODS, lambda body: body["metadata"]["name"], on_change)
    task = asyncio.create_task(made.run())
    while not made.synced.is_set():
        problems.append(made.problem)
        await asyncio.sleep(0)
    await eventually(lambda: made.objects == {at_none("a"): "a"} and server.asked >= 6)
    await eventually(lambda: made.problem == "")
    assert {p.partition("(")[0] for p in problems} >= {"KeyError", "TypeError", "RuntimeError"}
    task.cancel()


def at_none(name):
    return ObjectKey("", name)


async def test_lists_that_are_gone_at_once_are_not_asked_for_in_a_hail(monkeypatch):
    """A server that answers 410 to every list is asked again once, and then more and more seldom."""
    pauses = []

    class Counted(reflector.Backoff):
        def jittered(self, failures):
            pauses.append(failures)
            return 0.001

    monkeypatch.setattr(reflector, "BACKOFF", Counted(first=0.001, cap=0.01))
    server = Strange(*[reflector.WatchError(410, "expired") for _ in range(20)])
    made = Reflector(server, PODS, lambda body: body["metadata"]["name"], lambda *_: None)
    task = asyncio.create_task(made.run())
    await eventually(made.synced.is_set)
    assert pauses == list(range(2, 21))
    task.cancel()


async def test_a_source_whose_watch_ends_for_good_begins_it_anew(world, monkeypatch):
    """Even by what is no Exception, as a panic of a library."""
    monkeypatch.setattr(tasks, "AGAIN_S", 0.01)
    real, died = Reflector.run, []

    async def run(self):
        if len(died) < 2:
            died.append(self)
            raise PanicError("a panic")
        await real(self)

    monkeypatch.setattr(Reflector, "run", run)
    source = KubernetesSource(Access(server=world.url), ["default"])
    views = source.views()
    try:
        assert await asyncio.wait_for(anext(views), 20) == Membership()
        assert (len(died), source.problem) == (2, "")
    finally:
        await views.aclose()


class PanicError(BaseException):
    """As pyo3's PanicException."""


# ------------------------------------------------------------------ the router's view


def test_an_endpoint_becomes_a_worker():
    view = SliceView.from_body(
        endpoint_slice(
            endpoint("a", ready=True),
            endpoint("b", ready=False),
            endpoint("c", ready=False, serving=True, terminating=True),
            endpoint("d", ready=True, terminating=True),
            endpoint("e"),
            {"addresses": ["10.0.0.9"], "conditions": {"ready": True}},
            endpoint("v6", ip="fd00::1", ready=True),
        )
    )
    assert view.owner == "m"
    assert {w.worker_id: w.serving for w in view.workers} == {
        "a": True,
        "b": False,
        "c": False,
        "d": False,
        "e": True,
        "v6": True,
    }
    assert {w.worker_id: w.address for w in view.workers}["v6"] == "[fd00::1]:9000"


@pytest.mark.parametrize("ports", [None, [], [{"name": "metrics", "port": 1}]])
def test_a_slice_without_our_port_has_no_workers(ports):
    body = endpoint_slice(endpoint("a", ready=True))
    body["ports"] = ports
    assert SliceView.from_body(body).workers == ()


def test_a_resource_as_routers_see_it():
    made = document(
        model={"uri": "sim://x", "servedName": "org/x"}, routing={"policy": "roundRobin", "fetchBlocks": False}
    )
    made["status"] = {"reason": "ImagePullFailed"}
    made["metadata"] |= {"creationTimestamp": "2026-01-01T00:00:02Z", "uid": "u1"}
    view = DeploymentView(
        "org/x", RoutingPolicy.ROUND_ROBIN, "ImagePullFailed", 1_767_225_602.0, "u1", fetch_blocks=False
    )
    assert DeploymentView.from_body(made) == view
    made = document()
    made["metadata"] |= {"creationTimestamp": "2026-01-01T00:00:02Z", "uid": "u1"}
    made["spec"]["routing"] = {"policy": "astrology"}
    made["status"] = {"reason": "Ready"}
    assert DeploymentView.from_body(made) == DeploymentView("m", RoutingPolicy.KV_AWARE, "", 1_767_225_602.0, "u1")


@pytest.mark.parametrize(
    ("spec", "seconds"),
    [
        ({}, 0.0),
        ({"autoscaling": {"maxReplicas": 3}}, 0.0),
        ({"autoscaling": {"maxReplicas": 3, "minReplicas": 0, "scaleToZero": {"holdSeconds": 7}}}, 7.0),
        ({"autoscaling": {"maxReplicas": 3, "minReplicas": 0, "scaleToZero": {"ofAnotherVersion": 7}}}, 0.0),
        ({"autoscaling": "nonsense"}, 0.0),
        ({"routing": {"holdSeconds": 5}}, 5.0),
        ({"autoscaling": {"maxReplicas": 3}, "routing": {"holdSeconds": 5}}, 5.0),
        ({"routing": {"holdSeconds": "nonsense"}}, 0.0),
    ],
)
def test_how_long_requests_are_held_is_read_from_the_resource(spec, seconds):
    metadata = {"name": "m", "uid": "u", "creationTimestamp": "2026-01-01T00:00:02Z"}
    assert DeploymentView.from_body({"metadata": metadata, "spec": spec}).hold_s == seconds


def test_merging():
    deployments = {ObjectKey("default", "m"): DeploymentView("m", RoutingPolicy.KV_AWARE, "")}
    moving = SliceView("m", (Worker(worker_id="a", address="1:1", serving=False),))
    there = SliceView("m", (Worker(worker_id="a", address="2:1"), Worker(worker_id="b", address="3:1")))
    stranger = SliceView("other", (Worker(worker_id="z", address="4:1"),))
    slices = {ObjectKey("default", n): s for n, s in (("1", moving), ("2", there), ("3", stranger))}
    elsewhere = {ObjectKey("elsewhere", "2"): there}
    merged = merge(deployments, slices | elsewhere)
    workers = (Worker(worker_id="a", address="2:1"), Worker(worker_id="b", address="3:1"))
    assert merged == Membership((Deployment(namespace="default", name="m", served_name="m", workers=workers),))
    assert merged == merge(deployments, dict(reversed((slices | elsewhere).items())))
    forbidding = {ObjectKey("default", "m"): DeploymentView("m", RoutingPolicy.KV_AWARE, "", fetch_blocks=False)}
    (deployment,) = merge(forbidding, slices).deployments
    assert not deployment.fetch_blocks


async def test_the_source_follows_the_cluster(world):
    views = KubernetesSource(Access(server=world.url), ["default"]).views()
    try:
        assert await asyncio.wait_for(anext(views), 10) == Membership()
        world.apply(document())
        (deployment,) = (await asyncio.wait_for(anext(views), 10)).deployments
        assert (deployment.served_name, deployment.workers) == ("m", ())
        key = Key(fakecluster.SLICES, "default", "m-worker-x")
        world.server.create(key, endpoint_slice(endpoint("a", ready=True)))
        (deployment,) = (await asyncio.wait_for(anext(views), 10)).deployments
        assert deployment.workers == (Worker(worker_id="a", address="10.0.0.1:9000"),)
        # at its deletion a pod leaves at once, and stays in sight while it drains
        going = copy.deepcopy(world.server.objects[key])
        going["endpoints"] = [endpoint("a", ready=False, serving=True, terminating=True)]
        world.server.update(key, going)
        (deployment,) = (await asyncio.wait_for(anext(views), 10)).deployments
        assert deployment.workers == (Worker(worker_id="a", address="10.0.0.1:9000", serving=False, terminating=True),)
        world.server.compact()
        world.server.drop_watches()
        world.server.delete(key)
        world.delete("m")
        view = await asyncio.wait_for(anext(views), 10)
        while view != Membership():
            view = await asyncio.wait_for(anext(views), 10)
    finally:
        await views.aclose()
