"""An operator that is killed after any of its calls loses nothing, and leaves nothing behind."""

import asyncio

import fakecluster
import pytest
from operator_kit import MUTATING, document, unpullable
from waiting import eventually

from argosy_operator import diagnose
from argosy_operator.manifests import PlanSettings

PLAN = PlanSettings(redis_url="redis://:secret@127.0.0.1:1/0")
"""Redis is away, too: nothing may wait for it."""
CANARY = {"strategy": "Canary", "canary": {"steps": [{"weight": 10}]}}
LIMIT = 40
"""More calls than any of these stories has."""


def _changing_calls(world) -> int:
    return sum(method in MUTATING for method, _ in world.server.requests)


async def _story(world, name: str) -> None:
    """Bring the cluster to where the interesting part begins; an operator may run or not."""
    if name == "create":
        world.apply(document(replicas=2))
    elif name == "update":
        world.apply(document(replicas=3, engine={"maxRunning": 9}))
    elif name == "groups":
        world.apply(document(replicas=2, uri="pvc://models/m.gguf", parallelism={"pipeline": 2}))
    elif name == "rollback":
        world.apply(document(replicas=3, image="bad:1"))
    elif name == "partition":
        world.apply(document(replicas=3, image="good:2", rollout={"partition": 1}))
    elif name == "canary":
        world.apply(document(replicas=3, image="good:2", rollout=CANARY))
    else:
        world.delete("m")


def _done(world, name: str) -> bool:
    if name == "delete":
        return world.key("m") not in world.server.objects and not world.children()
    wanted = {"create": 2, "canary": 4, "groups": 4}.get(name, 3)
    pods = world.controllers.pods("m").values()
    if len(pods) != wanted:
        return False
    if name == "rollback":
        return world.condition("Ready")[1] == "RolledBack" and not _of_image(pods, "bad:1")
    if name == "canary":
        return (
            "No router tells" in world.status().get("canary", {}).get("message", "")
            and len(_of_image(pods, "good:2")) == 1
        )
    if name == "partition":
        return world.status()["updatedReplicas"] == 2 and len(_of_image(pods, "good:2")) == 2
    return world.is_ready()


def _of_image(pods, image: str) -> list:
    return [pod for pod in pods if pod["spec"]["containers"][0]["image"] == image]


@pytest.mark.parametrize("name", ["create", "update", "groups", "partition", "canary", "rollback", "delete"])
async def test_killed_after_each_call(world, name, monkeypatch):
    monkeypatch.setattr(diagnose, "HOPELESS_S", 0.0)
    world.plan, world.controllers.fate = PLAN, unpullable
    reference = None
    calls = 0
    for k in range(LIMIT + 1):  # k = 0: nobody is killed; that run is the reference
        if name != "create":
            first = await world.operator()
            world.apply(document(replicas=2))
            await eventually(lambda: _done(world, "create"), what="the beginning")
            await _quiet(world)
            await world.stop(first)
        await _story(world, name)
        if k:
            dead = world.die_after(k)
            victim = await world.operator()
            await eventually(lambda dead=dead: dead.is_set() or _done(world, name), what="death or the end")
            await world.stop(victim)
            world.server.hooks.clear()
        before = _changing_calls(world)
        heir = await world.operator()
        await eventually(lambda: _done(world, name), what=f"the end, after death at call {k}")
        await _quiet(world)
        picture = world.picture()
        if k == 0:
            reference, calls = picture, _changing_calls(world) - before
        assert picture == reference, f"killed after call {k}"
        if name != "delete":
            world.delete("m")
            await eventually(lambda: _done(world, "delete"))
        await world.stop(heir)
        assert not world.children()
        if k >= calls:
            break
    assert 0 < calls < LIMIT
    assert not [key for key in world.server.objects if key.gvr in fakecluster.CHILDREN]


async def _quiet(world) -> None:
    """No changing call for as long as the operator's own echo lasts."""
    until, count = 0.0, -1
    loop = asyncio.get_running_loop()
    while loop.time() < until or count != _changing_calls(world):
        if count != _changing_calls(world):
            count, until = _changing_calls(world), loop.time() + 0.3
        await asyncio.sleep(0.02)
