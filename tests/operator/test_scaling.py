"""A resource with autoscaling on a fake cluster: its workers follow what a router tells, whatever happens meanwhile."""

import fakecluster
import pytest
from operator_kit import MUTATING, document
from waiting import eventually
from whole import WHOLE

from argosy_operator import routers
from argosy_operator.autoscaling import pilot, signals

COST = "controller.kubernetes.io/pod-deletion-cost"
FAST = {"maxReplicas": 6, "scaleDown": {"stabilizationSeconds": 0, "maxStep": 6}}


class Router:
    """What a router says: all pods are ready, and share what is asked of the resource."""

    def __init__(self, world) -> None:
        self.world = world
        self.queue_s = 0.0
        self.requests = 0
        self.silent = False
        self.asked = 0
        self.of_pod: dict[str, dict] = {}
        self.blocks: dict[str, int] = {}
        self.more: dict = {}

    def __call__(self, path: str):
        if path != "/routes" or self.silent:
            return None
        self.asked += 1
        pods = [n for n, p in self.world.controllers.pods("m").items() if p.get("status", {}).get("podIP")]
        workers = [self._worker(name, len(pods)) for name in sorted(pods)]
        demand = {"held": 0, "in_flight": self.requests, "idle_s": 0.0, "prompt_rate": 0.0, "ttft": {}} | self.more
        return {"deployments": [{"namespace": "default", "name": "m", "workers": workers, "demand": demand}]}

    async def heard(self) -> None:
        """Wait until the operator knows what is said now."""
        before = self.asked
        await eventually(lambda: self.asked > before + 1)  # who asks again has taken the answer in

    def _worker(self, name: str, count: int) -> dict:
        load = {"age_s": 0.1, "requests": self.requests // count, "queue_s": self.queue_s / count, "kv_used": 0.0}
        load |= {"prefill_rate": 100.0, "itl_s": 0.0} | self.of_pod.get(name, {})
        blocks = self.blocks.get(name, 0)
        return {"worker_id": name, "revision": "", "state": "ready", "indexed_blocks": blocks, "load": load}


@pytest.fixture
async def router(world, serve, monkeypatch):
    for module, name in ((pilot, "AGAIN_S"), (routers, "ATTENTIVE_S"), (routers, "SETTLED_S")):
        monkeypatch.setattr(module, name, 0.1)
    monkeypatch.setattr(signals, "REPORT_GOOD_S", 1.0)
    made = Router(world)
    world.extra["router_status_url"] = f"http://127.0.0.1:{await serve(made)}/routes"
    return made


def pods(world) -> int:
    return len(world.controllers.pods("m"))


def steady(world, count: int) -> bool:
    return pods(world) == count and world.is_ready() and world.status()["ready"] == f"{count}/{count}"


def scaling(world) -> dict:
    return world.status().get("autoscaling", {})


async def test_workers_follow_the_load(world, router):
    operator = await world.operator()
    world.apply(document(autoscaling=FAST))
    await eventually(world.is_ready)
    assert pods(world) == 1
    await eventually(lambda: world.condition("AutoscalingActive")[:2] == ("True", "Active"))
    router.queue_s, router.requests = 3.4, 8
    await eventually(lambda: steady(world, 4))
    [first] = scaling(world)["decisions"]
    assert (first["before"], first["after"], first["reason"]) == (1, 4, "Load")
    assert "3.4 s of work wait" in first["message"]
    assert scaling(world)["desiredReplicas"] == 4
    sample = operator.metrics.registry.get_sample_value
    assert sample("argosy_operator_wanted_replicas", {"namespace": "default", "name": "m"}) == 4
    router.queue_s, router.requests = 0.0, 0
    await eventually(lambda: steady(world, 1))
    assert [d["reason"] for d in scaling(world)["decisions"]] == ["LessLoad", "Load"]
    world.delete("m")
    await eventually(lambda: world.key("m") not in world.server.objects)
    await eventually(lambda: sample("argosy_operator_wanted_replicas", {"namespace": "default", "name": "m"}) is None)


async def test_who_has_least_to_lose_goes(world, router):
    await world.operator()
    world.apply(document(autoscaling=FAST | {"minReplicas": 3}))
    await eventually(lambda: steady(world, 3))
    keep, spare, busy = sorted(world.controllers.pods("m"))
    router.blocks = {keep: 900, spare: 3, busy: 0}
    router.of_pod = {busy: {"requests": 2}}
    await router.heard()
    world.apply(document(autoscaling=FAST | {"minReplicas": 2}))
    await eventually(lambda: pods(world) == 2)
    assert set(world.controllers.pods("m")) == {keep, busy}
    assert not any(COST in p["metadata"].get("annotations", {}) for p in world.controllers.pods("m").values())


async def test_without_news_the_number_stays(world, router):
    await world.operator()
    router.queue_s, router.requests = 2.5, 5
    world.apply(document(autoscaling=FAST))
    await eventually(lambda: steady(world, 3))
    router.silent = True
    await eventually(lambda: world.condition("AutoscalingActive")[:2] == ("False", "NoSignals"))
    router.queue_s, router.requests = 0.0, 0
    assert pods(world) == 3
    router.silent = False
    await eventually(lambda: pods(world) == 1)


async def test_a_new_operator_keeps_the_number_that_it_finds(world, router):
    """And what a former one decided stays in the status; nothing of it is in annotations."""
    first = await world.operator()
    router.queue_s, router.requests = 2.5, 5
    slow = {"maxReplicas": 6}
    world.apply(document(autoscaling=slow))
    await eventually(lambda: steady(world, 3))
    await world.stop(first)
    router.queue_s, router.requests = 0.0, 0
    changes = len(world.calls("PATCH"))
    await world.operator(resync_s=1.0)
    await eventually(lambda: len(world.calls("PATCH")) > changes)
    await eventually(lambda: world.condition("AutoscalingActive")[:2] == ("True", "Active"))
    assert pods(world) == 3
    assert scaling(world)["desiredReplicas"] == 3
    assert [d["after"] for d in scaling(world)["decisions"]] == [3]


async def test_it_takes_over_and_gives_back(world, router):
    """The number that is there is where autoscaling begins; without it the resource's own holds."""
    await world.operator()
    world.apply(document(replicas=4))
    await eventually(lambda: steady(world, 4))
    world.apply(document(autoscaling={"maxReplicas": 6}))
    await eventually(lambda: scaling(world).get("desiredReplicas") == 4 and world.is_ready())
    assert pods(world) == 4
    world.apply(document(replicas=2))
    await eventually(lambda: steady(world, 2))
    assert not scaling(world)
    assert world.condition("AutoscalingActive") == ("", "", "")


async def test_who_scales_its_workload_by_hand_is_corrected(world, router):
    await world.operator()
    router.queue_s, router.requests = 2.5, 5
    world.apply(document(autoscaling=FAST))
    await eventually(lambda: steady(world, 3))
    key = next(k for k in world.server.objects if k.gvr == fakecluster.DEPLOYMENTS)
    changed = world.server.objects[key]
    world.server.update(key, {**changed, "spec": {**changed["spec"], "replicas": 1}})
    await eventually(lambda: pods(world) == 3 and world.server.objects[key]["spec"]["replicas"] == 3)


async def test_killed_after_each_call_of_a_scale(world, router):
    """Up and down: whoever comes after goes on from what is there."""
    done = False
    k = 0
    while not done:
        k += 1 if WHOLE else 3
        heir = await world.operator()
        router.queue_s, router.requests = 0.0, 0
        world.apply(document(autoscaling=FAST | {"minReplicas": 2}))
        await eventually(lambda: steady(world, 2))
        await world.stop(heir)
        router.queue_s, router.requests = 3.5, 5
        dead = world.die_after(k)
        victim = await world.operator()
        await eventually(lambda dead=dead: dead.is_set() or (steady(world, 4)))
        done = not dead.is_set()
        await world.stop(victim)
        world.server.hooks.clear()
        heir = await world.operator()
        await eventually(lambda: steady(world, 4))
        assert scaling(world)["desiredReplicas"] == 4
        await world.stop(heir)
    assert k > 1


async def test_an_idle_resource_costs_no_writes(world, router):
    """Signals that change all the time are metrics, not status."""
    operator = await world.operator()
    world.apply(document(autoscaling={"maxReplicas": 6}))
    await eventually(lambda: world.is_ready() and world.condition("AutoscalingActive")[0] == "True")
    passes = operator.metrics.passes.labels("ok")._value.get
    seen = passes()
    await eventually(lambda: passes() > seen + 1)
    before, seen = sum(m in MUTATING for m, _ in world.server.requests), passes()
    router.queue_s = 0.2
    await eventually(lambda: passes() > seen + 2)
    assert sum(m in MUTATING for m, _ in world.server.requests) == before


async def test_to_no_worker_and_back(world, router):
    """The last one goes when nobody has asked for long enough; the first request that waits brings one, at once."""
    await world.operator()
    router.more = {"idle_s": 5.0}
    world.apply(document(autoscaling={"minReplicas": 0, "maxReplicas": 3, "scaleToZero": {"idleSeconds": 10}}))
    await eventually(lambda: world.condition("Ready")[:2] == ("True", "ScaledToZero"))
    assert "the next request is held" in world.condition("Ready")[2]
    assert pods(world) == 0
    router.more = {"held": 100, "in_flight": 100}
    await eventually(lambda: pods(world) > 0 and world.condition("Ready")[:2] == ("True", "Ready"))
    assert scaling(world)["decisions"][-1]["reason"] == "Woken"
    router.more = {"idle_s": 5.0}
    await router.heard()
    assert pods(world) > 0
    router.more = {"idle_s": 11.0}
    await eventually(lambda: pods(world) == 0 and world.condition("Ready")[:2] == ("True", "ScaledToZero"))
    assert scaling(world)["decisions"][0]["reason"] == "Idle"
    assert scaling(world)["desiredReplicas"] == 0
