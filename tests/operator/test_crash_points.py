"""An operator that is killed after any of its calls loses nothing, and leaves nothing behind."""

import asyncio

import fakecluster
import pytest
from operator_kit import MUTATING, document
from waiting import eventually

from argosy_operator.manifests import PlanSettings

PLAN = PlanSettings(redis_url="redis://:secret@127.0.0.1:1/0")
"""Redis is away, too: nothing may wait for it."""
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
    else:
        world.delete("m")


def _done(world, name: str) -> bool:
    if name == "delete":
        return world.key("m") not in world.server.objects and not world.children()
    wanted = 2 if name == "create" else 3
    return world.is_ready() and len(world.controllers.pods("m")) == wanted


@pytest.mark.parametrize("name", ["create", "update", "delete"])
async def test_killed_after_each_call(world, name):
    world.plan = PLAN
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
