"""What the router believes of its workers: fresh reports, its own numbers, and nothing of a worker that hangs."""

import asyncio
import json

import grpc
import pytest
from router_kit import FakeWorker, encode
from waiting import eventually

from argosy_api import limits
from argosy_api.order import Discipline, Order
from argosy_api.v1 import worker_pb2 as pb
from argosy_router import course
from argosy_router.clock import now
from argosy_router.fleet.peer import HUNG_S
from argosy_router.routing.books import REPORT_GOOD_S

HELLO = {"model": "m", "prompt": "hello", "max_tokens": 5}
DISCIPLINE = Discipline()


def queued(peer, time):
    return peer.books.line(1000.0, DISCIPLINE, time).tokens


async def test_a_report_read_again_is_no_news(rig):
    """What was sent since counts, however often the old value is read; and the old value grows old."""
    peer = rig.state.workers["w0"]
    report = pb.Load(epoch=1, sequence=1000, accepted=0)
    peer.take_load(report, 100.0)
    peer.books.open(uncached=10_000, prompt=10_000, now=100.5)
    peer.take_load(report, 100.6)
    assert queued(peer, 100.6) == pytest.approx(10_000 - 100)
    peer.take_load(report, 200.0)
    assert peer.fresh_load(100.0 + REPORT_GOOD_S + 0.1) is None
    peer.take_load(pb.Load(epoch=1, sequence=999, accepted=0), 200.0)  # through Redis, later than asked for directly
    assert peer.load == report


async def test_reports_of_a_new_process_are_believed_once_it_is_known(rig):
    """Its numbers begin anew; those of the old process are void."""
    peer = rig.state.workers["w0"]
    peer.take_load(pb.Load(epoch=1, sequence=1000, uncached_tokens=500), 100.0)
    peer.take_load(pb.Load(epoch=2, sequence=1, uncached_tokens=7), 100.1)
    assert peer.load.epoch == 1
    from dataclasses import replace

    peer.take_facts(replace(peer.facts, epoch=2))
    assert queued(peer, 100.1) == 0
    peer.take_load(pb.Load(epoch=2, sequence=1, uncached_tokens=7), 100.1)
    assert queued(peer, 100.1) == 7


@pytest.mark.parametrize("field", ["uncached_tokens", "decode_tokens", "prefill_tokens_per_second"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0])
async def test_absurd_numbers_are_ignored(rig, field, value):
    peer = rig.state.workers["w0"]
    before = peer.load
    peer.take_load(pb.Load(epoch=1, sequence=2**40, **{field: value}), now())
    assert peer.load is before or peer.load.sequence < 2**40


async def test_a_report_that_names_more_than_any_worker_does_is_ignored(rig):
    """It would be walked through at each decision."""
    peer = rig.state.workers["w0"]
    for count, news in ((limits.MAX_REPORTED + 1, False), (limits.MAX_REPORTED, True)):
        report = pb.Load(epoch=1, sequence=2**40, queue=[pb.QueuedWork(uncached_tokens=1)] * count)
        peer.take_load(report, now())
        assert (peer.load == report) is news


async def test_the_workers_number_of_a_request_reaches_the_books(rig):
    """So that the next report's `accepted` says whether it is contained."""
    rig.workers[1].draining = True
    await eventually(lambda: not rig.state.workers["w1"].healthy(now()))
    worker, peer = rig.workers[0], rig.state.workers["w0"]
    worker.script.hang_accepted = True
    sent = [asyncio.create_task(rig.post("/v1/completions", {**HELLO, "prompt": f"hello {i}"})) for i in range(3)]
    await eventually(lambda: sorted(e.number or 0 for e in peer.books.waiting()) == [1, 2, 3])
    worker.queue = [pb.QueuedWork(uncached_tokens=2) for _ in range(2)]
    worker.accepted = 2  # a report from between the second and the third
    await eventually(lambda: peer.load is not None and len(peer.load.queue) == 2)
    third = next(e for e in peer.books.waiting() if e.number == 3)
    assert queued(peer, peer.load_at) == pytest.approx(4 + third.uncached)
    for task in sent:
        task.cancel()
    await asyncio.gather(*sent, return_exceptions=True)
    await eventually(rig.idle)


async def test_order_and_ageing_are_the_deployments_own(make_rig):
    """Each worker says how its engine orders; the router has no setting of its own."""
    rig = await make_rig()
    await rig.add(
        FakeWorker(worker_id="w0", queue_order="fcfs"), FakeWorker(worker_id="w1", queue_ageing=2.0),
        FakeWorker(worker_id="w2", queue_order="", queue_ageing=0.0), FakeWorker(worker_id="w3", queue_order="astrology"),
    )  # fmt: skip
    said = {name: peer.facts.discipline for name, peer in rig.state.workers.items()}
    assert said == {
        "w0": Discipline(Order.FCFS, 0.25),
        "w1": Discipline(Order.LEAST_WORK, 2.0),
        "w2": Discipline(Order.LEAST_WORK, 0.0),
        "w3": Discipline(),
    }


async def test_a_hung_engine_is_left_out_and_what_waits_there_moves(rig):
    """The process answers, its engine does not come around: nothing new, and no request waits for it."""
    hung, other = rig.workers
    hung.script.hang_accepted = True
    other.draining = True
    await eventually(lambda: not rig.state.workers["w1"].healthy(now()))
    waiting = asyncio.create_task(rig.post("/v1/completions", HELLO))
    await eventually(lambda: hung.running == 1)
    other.draining = False
    await rig.until_ready(2)
    hung.step_age, hung.stuck = HUNG_S + 1, 1
    response, _ = await waiting
    assert (response.status, response.headers["x-argosy-worker"]) == (200, "w1")
    assert not rig.state.workers["w0"].healthy(now())
    for i in range(5):
        response, _ = await rig.post("/v1/completions", {**HELLO, "prompt": f"{i}"})
        assert response.headers["x-argosy-worker"] == "w1"
    hung.step_age = hung.stuck = 0
    await rig.until_ready(2)
    assert rig.idle()


async def test_an_idle_engine_is_not_hung(rig):
    """Without requests it need not come around."""
    rig.workers[0].step_age = 1000.0
    peer = rig.state.workers["w0"]
    await eventually(lambda: peer.load is not None and peer.load.last_step_age_seconds == 1000.0)
    assert peer.healthy(now())


async def test_a_hung_engine_alone_keeps_its_requests(make_rig):
    """With nobody else to ask, waiting is better than failing."""
    rig = await make_rig()
    await rig.add(FakeWorker(worker_id="w0"))
    worker = rig.workers[0]
    worker.script.hang_accepted = True
    waiting = asyncio.create_task(rig.post("/v1/completions", HELLO))
    await eventually(lambda: worker.running == 1)
    worker.step_age = HUNG_S + 1
    await eventually(lambda: rig.state.workers["w0"].hangs(now()))
    worker.script.release.set()
    response, _ = await waiting
    assert response.status == 200


async def test_no_first_token_in_time_means_another_worker(rig, monkeypatch):
    """The worker is well, by its own word; the request that it forgot goes to another one. The last attempt waits."""
    monkeypatch.setattr(course, "FIRST_TOKEN_S", 0.05)
    monkeypatch.setattr(course, "FIRST_TOKEN_FACTOR", 0.0)
    for worker in rig.workers:
        worker.script.hang_accepted = True
    waiting = asyncio.create_task(rig.post("/v1/completions", HELLO))
    await eventually(lambda: sorted(r.attempt for w in rig.workers for r in w.requests) == [1, 2])
    last = next(w for w in rig.workers if w.requests[0].attempt == 2)
    last.script.release.set()
    response, _ = await waiting
    assert (response.status, response.headers["x-argosy-worker"]) == (200, last.worker_id)
    assert rig.idle()


async def test_retry_after_is_the_workers_word(rig):
    """Not one second for everybody."""
    for worker in rig.workers:
        worker.script.fail_first = grpc.StatusCode.RESOURCE_EXHAUSTED
        worker.script.trailing = (("retry-after-ms", "17000"),)
    response, body = await rig.post("/v1/completions", HELLO)
    assert (response.status, response.headers["retry-after"]) == (429, "17")
    assert json.loads(body)["error"]["type"] == "rate_limit_error"


async def test_replicas_of_different_size_get_what_they_can_hold(make_rig):
    """A prompt that fits one replica only goes there, every time; what fits the smaller ones reaches them, too."""
    rig = await make_rig()
    await rig.add(
        FakeWorker(worker_id="small", max_model_len=100), FakeWorker(worker_id="large", max_model_len=4096, epoch=0),
        FakeWorker(worker_id="tight", max_model_len=4096, total_blocks=4),
    )  # fmt: skip
    for i in range(10):
        response, body = await rig.post("/v1/completions", {**HELLO, "prompt": f"{i}" * 200})
        assert response.status == 200, body
        assert response.headers["x-argosy-worker"] == "large"
        response, _ = await rig.post("/v1/completions", {**HELLO, "prompt": f"{i}" * 20, "max_tokens": 90})
        assert response.headers["x-argosy-worker"] == "large"
    seen = set()
    for i in range(200):
        response, _ = await rig.post("/v1/completions", {**HELLO, "prompt": f"{i} of many", "max_tokens": 1})
        seen.add(response.headers["x-argosy-worker"])
        if seen >= {"small", "tight"}:
            break
    assert seen >= {"small", "tight"}
    too_long, _ = await rig.post("/v1/completions", {**HELLO, "prompt": "x" * 5000})
    assert too_long.status == 400
    assert len(encode("x" * 5000)) > 4096
