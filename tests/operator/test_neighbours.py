"""The operator with those it talks to: workers that start, routers, Redis."""

import fakecluster
import redis
from operator_kit import document
from waiting import eventually

from argosy_api import labels
from argosy_api.keys import Keys
from argosy_operator import controller
from argosy_operator.manifests import PlanSettings

MODEL = {
    "architecture": "llama", "quantization": "Q4_1", "compute": "int8", "device": "cpu", "maxModelLen": 2048,
    "kvBlocksPerReplica": 99,
}  # fmt: skip


def _running(pod):
    status = fakecluster.ready(pod)
    status["conditions"][1]["status"] = "False"
    return status


async def test_how_far_a_worker_is_and_what_it_found(world, serve, monkeypatch):
    said = {"phase": "Downloading", "reason": "", "message": "model.safetensors", "progress": 0.5}
    monkeypatch.setattr(labels, "METRICS_PORT", await serve(lambda path: said if path == "/state" else None))
    world.controllers.fate = _running
    await world.operator()
    world.apply(document())
    await eventually(lambda: world.condition("ModelLoaded")[1] == "Downloading")
    assert "(50 %): model.safetensors" in world.condition("ModelLoaded")[2]
    assert world.condition("Ready")[:2] == ("False", "Downloading")
    said |= {"phase": "Failed", "reason": "ModelInvalid", "message": "bad magic"}
    await eventually(lambda: world.condition("ModelLoaded")[1] == "ModelInvalid")
    said |= {"phase": "Ready", "reason": "", "message": "", "model": MODEL}
    world.controllers.fate = fakecluster.ready
    world.controllers.settle()
    await eventually(lambda: world.is_ready() and "model" in world.status())
    assert world.status()["model"] == MODEL
    assert world.condition("ModelLoaded")[0] == "True"


async def test_workers_that_differ_are_told(world, serve, monkeypatch):
    said = {"phase": "Ready", "model": MODEL | {"fingerprint": "aa", "instructionSet": "avx2", "exactness": "exact"}}
    monkeypatch.setattr(labels, "METRICS_PORT", await serve(lambda path: said if path == "/state" else None))
    await world.operator(resync_s=1.0)
    world.apply(document())
    await eventually(lambda: world.is_ready() and world.condition("Uniform")[:2] == ("True", "Uniform"))
    said["model"]["instructionSet"] = "avx512_vnni"  # what a pod on another node says
    world.scale("m", 2)
    await eventually(lambda: world.condition("Uniform")[:2] == ("False", "DifferentArithmetic"))
    assert "int8 with avx2" in world.condition("Uniform")[2]
    assert world.is_ready()
    world.scale("m", 1)
    await eventually(lambda: world.condition("Uniform")[:2] == ("True", "Uniform"))


async def test_ready_means_that_routers_reach_the_workers(world, serve):
    listed = {"workers": []}

    def routes(path):
        return (
            {"deployments": [{"namespace": "default", "name": "m", "workers": listed["workers"]}]}
            if path == "/routes"
            else None
        )

    await world.operator(router_status_url=f"http://127.0.0.1:{await serve(routes)}/routes")
    world.apply(document(replicas=2))
    await eventually(lambda: world.condition("Ready")[1] == "Syncing")
    assert world.status()["readyReplicas"] == 0
    assert world.status()["ready"] == "0/2"
    names = sorted(world.controllers.pods())
    listed["workers"] = [
        {"worker_id": n, "revision": "", "state": s} for n, s in zip(names, ("ready", "connecting"), strict=True)
    ]
    await eventually(lambda: world.status()["ready"] == "1/2")
    assert names[1] in world.condition("RouterSynced")[2]
    listed["workers"][1]["state"] = "ready"
    await eventually(world.is_ready)
    assert world.condition("RouterSynced")[0] == "True"
    listed["workers"][0]["state"] = "ejected"
    await eventually(lambda: world.status()["ready"] == "1/2" and not world.is_ready())


async def test_a_deleted_resource_leaves_nothing_in_redis(world, valkey):
    world.plan = PlanSettings(redis_url=valkey.url)
    client = redis.Redis.from_url(valkey.url)
    await world.operator()
    for name in ("m", "other"):
        world.apply(document(name))
        await eventually(lambda name=name: world.is_ready(name))
        client.set(Keys("default", name).lease("w"), "1")
    world.delete("m")
    await eventually(lambda: world.key("m") not in world.server.objects)
    assert client.keys() == [Keys("default", "other").lease("w").encode()]


async def test_keys_of_a_worker_that_outlives_its_resource_go_with_it(world, valkey, monkeypatch):
    monkeypatch.setattr(controller, "DELETION_LIMIT_S", 0.5)
    world.plan = PlanSettings(redis_url=valkey.url)
    client = redis.Redis.from_url(valkey.url)
    await world.operator()
    world.apply(document(drain={"timeoutSeconds": 0}))
    await eventually(world.is_ready)
    (name,) = world.controllers.pods()
    key = next(k for k in world.server.objects if k.gvr == fakecluster.PODS)
    pod = world.server.objects[key]
    # a node that was cut off: the pod stays, terminating, and nobody can say when it ends
    world.server.update(key, {**pod, "metadata": {**pod["metadata"], "finalizers": ["node-is-away"]}})
    world.delete("m")
    await eventually(lambda: world.key("m") not in world.server.objects)
    client.set(Keys("default", "m").lease(name), "1")
    going = world.server.objects[key]
    world.server.update(key, {**going, "metadata": {**going["metadata"], "finalizers": []}})
    await eventually(lambda: client.keys() == [])
