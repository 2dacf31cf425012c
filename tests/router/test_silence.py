"""Whose silence it is: a worker's, or this router's own."""

import asyncio

import pytest
from router_kit import FakeWorker
from waiting import eventually, stand_still

from argosy_router.fleet.asking import load_of
from argosy_router.fleet.monitor import GET_LOAD_S
from argosy_router.routing.hangs import ANSWER_S

HELLO = {"model": "m", "prompt": "hello", "max_tokens": 4}
STALLS = 2


class Blocking(FakeWorker):
    """When it is asked while it has a request, the whole process stands still, as where its machine was stopped."""

    asked = 0

    async def GetLoad(self, request, context):
        if self.requests:
            self.asked += 1
            if self.asked <= STALLS:
                stand_still(2 * max(ANSWER_S, GET_LOAD_S))
        return await super().GetLoad(request, context)


async def test_a_router_that_stood_still_takes_nobody_for_hung(make_rig):
    rig = await make_rig()
    await rig.add(Blocking(worker_id="w0"), Blocking(worker_id="w1"))
    for worker in rig.workers:
        worker.script.hang_accepted = True
    waiting = asyncio.create_task(rig.post("/v1/completions", HELLO))
    await eventually(lambda: any(w.requests for w in rig.workers))
    (worker,) = [w for w in rig.workers if w.requests]
    await eventually(lambda: worker.asked > STALLS)
    assert [w.worker_id for w in rig.workers if w.requests] == [worker.worker_id]
    assert rig.state.workers[worker.worker_id].ejected_until == 0.0
    worker.script.release.set()
    response, _ = await waiting
    assert (response.status, response.headers["x-argosy-worker"]) == (200, worker.worker_id)


async def test_a_worker_that_does_not_answer_is_not_waited_for(make_rig):
    rig = await make_rig()
    await rig.add(FakeWorker(worker_id="w0"))
    rig.workers[0].stopped = True
    with pytest.raises(TimeoutError, match=r"no answer within 0\.2 s"):
        await load_of(rig.state.workers["w0"], 0.2)
    rig.workers[0].script.release.set()
