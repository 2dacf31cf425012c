"""Requests for a deployment without workers wait for the first one, where that is wanted."""

import asyncio

import pytest
from router_kit import FakeWorker, encode
from waiting import eventually

from argosy_api import limits
from argosy_api.errors import DeadlineError, OverloadedError, UnavailableError
from argosy_router.clock import now
from argosy_router.fleet.demand import DemandBooks
from argosy_router.fleet.waiting_room import WaitingRoom
from argosy_router.routes import routes


@pytest.fixture
async def empty(make_rig):
    """A router that knows a deployment without workers, whose requests it holds."""
    rig = await make_rig()
    rig.cluster.hold_s = 100.0
    rig.announce()
    await eventually(lambda: rig.router.fleet.known)
    return rig


def held(rig) -> int:
    [deployment] = routes(rig.router.fleet, now()).deployments
    return deployment.demand.held


def ask(rig, i: int):
    body = {"model": "m", "prompt": f"number {i:03}", "max_tokens": 3}
    return asyncio.create_task(rig.post("/v1/completions", body))


async def test_a_hundred_wait_for_the_first_worker_and_none_fails(empty):
    asked = []
    for i in range(100):
        asked.append(ask(empty, i))
        await eventually(lambda i=i: held(empty) == i + 1)
    worker = FakeWorker(worker_id="w0")
    await empty.add(worker)
    answers = await asyncio.gather(*asked)
    assert [response.status for response, _ in answers] == [200] * 100
    # in the order in which they came
    came = [list(request.prompt_tokens) for request in worker.requests]
    assert came == [encode(f"number {i:03}") for i in range(100)]
    await eventually(lambda: held(empty) == 0)
    assert empty.router.service.running == 0


async def test_who_goes_away_leaves_the_room(empty):
    asked = ask(empty, 0)
    await eventually(lambda: held(empty) == 1)
    state = empty.state
    asked.cancel()
    await eventually(lambda: not state.room._waiting)
    assert held(empty) == 1  # for a moment it is told: a worker would have been welcome
    assert state.demand.told(now()).in_flight == 0
    assert empty.router.service.admission.held == 0


async def test_when_the_last_worker_goes_the_next_request_waits(empty):
    first = FakeWorker(worker_id="w0")
    await empty.add(first)
    response, _ = await ask(empty, 0)
    assert response.status == 200
    empty.workers.remove(first)
    empty.announce()
    await eventually(lambda: not empty.state.workers)
    asked = ask(empty, 1)
    await eventually(lambda: held(empty) == 1)
    await empty.add(FakeWorker(worker_id="w1"))
    response, _ = await asked
    assert (response.status, response.headers["x-argosy-worker"]) == (200, "w1")
    await first.stop()


async def test_nobody_is_held_longer_than_the_resource_says(empty):
    empty.cluster.hold_s = 0.2
    empty.announce()
    await eventually(lambda: empty.state.spec.hold_s == 0.2)
    response, body = await ask(empty, 0)
    assert response.status == 503
    assert b"has no ready worker" in body


async def test_a_router_that_drains_turns_them_away(empty):
    asked = ask(empty, 0)
    await eventually(lambda: held(empty) == 1)
    draining = asyncio.create_task(empty.router.drain())
    response, body = await asked
    assert response.status == 503
    assert b"shutting down" in body
    await draining


async def test_where_nothing_is_held_it_is_refused_at_once(make_rig):
    rig = await make_rig()
    rig.announce()
    await eventually(lambda: rig.router.fleet.known)
    response, _ = await ask(rig, 0)
    assert response.status == 503


def room(serves=lambda: False) -> WaitingRoom:
    return WaitingRoom(serves, DemandBooks())


async def test_each_has_its_own_deadline():
    made = room()
    late = asyncio.create_task(made.wait(now() + 100, None, lambda: "never"))
    with pytest.raises(DeadlineError):
        await made.wait(now() + 100, now() + 0.02, lambda: "never")
    with pytest.raises(UnavailableError, match="nobody came"):
        await made.wait(now() + 0.02, now() + 100, lambda: "nobody came")
    assert not late.done()
    made.close("over")
    with pytest.raises(UnavailableError, match="over"):
        await late
    with pytest.raises(UnavailableError, match="over"):
        await made.wait(now() + 100, None, lambda: "never")


async def test_the_room_is_bounded(monkeypatch):
    monkeypatch.setattr(limits, "MAX_HELD_REQUESTS", 2)
    there = False
    made = room(lambda: there)
    waits = [asyncio.create_task(made.wait(now() + 100, None, lambda: "")) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(OverloadedError):
        await made.wait(now() + 100, None, lambda: "")
    there = True
    await asyncio.gather(*waits)
    await made.wait(now() + 100, None, lambda: "")
