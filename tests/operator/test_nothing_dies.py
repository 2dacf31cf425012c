"""Nothing ends without anybody noticing: not by an exception, and not by the panic of a library."""

import asyncio
import datetime as dt
import itertools

import fakecluster
import pytest
from fakeapi import ApiError, Key
from operator_kit import document
from waiting import eventually

from argosy_api.backoff import Backoff
from argosy_operator import background as background_module
from argosy_operator import store as store_module
from argosy_operator.background import Background
from argosy_operator.metrics import RESTARTS, Health
from argosy_operator.reconcile import Reconciler
from argosy_operator.redis_cleanup import RedisCleanup
from argosy_operator.store import ChildStore


class Panic(BaseException):
    """As the extension modules of libraries raise it: no Exception."""


@pytest.mark.parametrize("failure", [ValueError, Panic])
async def test_a_task_that_fails_begins_anew_and_health_hears_of_it(failure, monkeypatch):
    monkeypatch.setattr(background_module, "_BACKOFF", Backoff(first=0.001, cap=0.01))
    now = {"t": 0.0}
    health = Health(lambda: now["t"])
    background = Background(health)
    runs = []

    async def work() -> None:
        runs.append(1)
        if len(runs) <= RESTARTS:
            raise failure("no")
        await asyncio.Event().wait()

    background.keep("the work", work)
    await eventually(lambda: len(runs) == RESTARTS + 1)
    assert "the work" in health.problem()
    now["t"] += 121.0
    health.beat()
    assert health.problem() == ""
    await background.end()


async def test_what_returns_is_done():
    background = Background(Health())
    runs = []

    async def work() -> None:
        runs.append(1)

    background.keep("the work", work)
    await asyncio.sleep(0.3)
    await background.end()
    assert runs == [1]


async def test_an_object_that_nobody_expected_ends_no_watch(world, monkeypatch):
    real = store_module.PodView.from_body.__func__
    met = []

    def from_body(cls, body):
        if body["metadata"]["name"] == "odd":
            met.append("odd")
            raise KeyError("labels")
        return real(cls, body)

    monkeypatch.setattr(store_module.PodView, "from_body", classmethod(from_body))
    await world.operator()
    world.apply(document())
    await eventually(world.is_ready)
    labels = {"app.kubernetes.io/managed-by": "argosy-operator", "serving.argosy.dev/name": "m"}
    key = Key(fakecluster.PODS, "default", "odd")
    world.server.create(key, {"metadata": {"name": "odd", "labels": labels}})
    await eventually(lambda: met)
    world.server.delete(key)
    world.scale("m", 2)
    await eventually(lambda: world.is_ready() and len(world.controllers.pods("m")) == 2)


@pytest.mark.parametrize("failure", [RuntimeError, Panic])
async def test_a_pass_that_fails_does_not_end_its_loop(world, monkeypatch, failure):
    real, failed = Reconciler.run, []

    async def run(self, body, memory):
        if not failed:
            failed.append(1)
            raise failure("no")
        return await real(self, body, memory)

    monkeypatch.setattr(Reconciler, "run", run)
    await world.operator()
    world.apply(document())
    await eventually(lambda: failed)
    world.apply(document(replicas=2))  # else it waits for a while
    await eventually(world.is_ready)


@pytest.mark.parametrize("failure", [TimeoutError, Panic])
async def test_a_deletion_that_fails_half_way_still_lets_the_resource_go(world, monkeypatch, failure):
    await world.operator()
    world.apply(document())
    await eventually(world.is_ready)

    async def synced(self):
        raise failure

    tidied = []

    async def remove_keys(self, namespace, name):
        tidied.append((namespace, name))

    monkeypatch.setattr(ChildStore, "synced", synced)
    monkeypatch.setattr(RedisCleanup, "remove_keys", remove_keys)
    world.delete("m")
    await eventually(lambda: world.key("m") not in world.server.objects and not world.children())
    assert ("default", "m") in tidied


async def test_a_finalizer_that_was_refused_is_put_on_later(world):
    """Kopf forgets an event whose call was answered with a conflict."""
    refused = []

    async def refuse(request, phase):
        if phase == "before" and request.method == "PATCH" and "json-patch" in request.content_type:
            refused.append(request.path)
            raise ApiError(409, "Conflict", "injected")

    world.server.hooks.append(refuse)
    await world.operator()
    world.apply(document())
    await eventually(world.is_ready)
    await eventually(lambda: world.server.objects[world.key("m")]["metadata"].get("finalizers"))
    assert refused
    world.server.hooks.clear()
    world.delete("m")
    await eventually(lambda: world.key("m") not in world.server.objects and not world.children())


async def test_a_finalizer_whose_removal_was_refused_twice_is_taken_off(world, monkeypatch):
    """Also when a write that should make Kopf try again changes nothing, as within one second: no event comes of it."""
    moments = itertools.chain([0, 0], itertools.count(1))

    class Clock(dt.datetime):
        @classmethod
        def now(cls, tz=None):
            return dt.datetime(2026, 1, 1, tzinfo=tz) + dt.timedelta(seconds=next(moments))

    await world.operator()
    world.apply(document())
    await eventually(world.is_ready)
    monkeypatch.setattr("argosy_operator.kopf_edge.datetime", Clock)
    refused = []

    async def refuse(request, phase):
        kopfs = phase == "before" and request.method == "PATCH" and "json-patch" in request.content_type
        if kopfs and len(refused) < 2:
            refused.append(request.path)
            raise ApiError(409, "Conflict", "injected")

    world.server.hooks.append(refuse)
    world.delete("m")
    await eventually(lambda: world.key("m") not in world.server.objects and not world.children())
    assert len(refused) == 2


async def test_nothing_is_made_for_a_resource_that_is_gone(world):
    """Its loop may not know yet: what it hears comes by way of Kopf, who may be busy."""
    blocked = asyncio.Event()

    async def hold(request, phase):
        if phase == "before" and request.method == "PATCH" and "deployments/m-" in request.path:
            blocked.set()
            raise ApiError(503, "ServiceUnavailable", "later")
        if phase == "before" and request.method == "PATCH" and "json-patch" in request.content_type:
            raise ApiError(409, "Conflict", "no finalizer")

    world.server.hooks.append(hold)
    await world.operator()
    world.apply(document())
    await asyncio.wait_for(blocked.wait(), 15)
    world.delete("m")
    await eventually(lambda: world.key("m") not in world.server.objects)
    await asyncio.sleep(0.5)
    world.server.hooks.clear()
    count = len(world.calls("PATCH"))
    await asyncio.sleep(2.0)
    assert len(world.calls("PATCH")) == count
    assert not world.children()


async def test_workers_end_before_their_resource_though_the_api_server_fails_at_first(world):
    await world.operator()
    world.apply(document())
    await eventually(world.is_ready)
    refused, there = [], []

    async def hook(request, phase):
        if phase != "before":
            return
        if request.method == "DELETE" and len(refused) < 3:
            refused.append(request.path)
            raise ApiError(503, "ServiceUnavailable", "injected")
        if request.method == "PATCH" and "json-patch" in request.content_type:
            there.append(world.child(fakecluster.DEPLOYMENTS))

    world.server.hooks.append(hook)
    world.delete("m")
    await eventually(lambda: world.key("m") not in world.server.objects and not world.children())
    assert len(refused) == 3
    assert there == [None]  # it is the finalizer's end, and the workload had gone by then
