"""Streams through the router when workers fail, refuse, cheat or vanish."""

import asyncio
import json
from dataclasses import replace

import grpc
import pytest
from router_kit import FakeWorker, answer_of, byte_tokenizer, decode, encode, events_of, until_cut
from waiting import eventually

from argosy_api.params import SamplingParams
from argosy_api.v1 import worker_pb2 as pb
from argosy_api.v1 import worker_pb2_grpc as rpc
from argosy_router.ask import Ask, Caller
from argosy_router.relay import Flight
from argosy_router.request import Request

HELLO = {"model": "m", "prompt": "hello", "max_tokens": 20}
TEXT = decode(answer_of(encode("hello"), 20))


def text_of(body: bytes) -> str:
    return json.loads(body)["choices"][0]["text"]


@pytest.mark.parametrize(
    "code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED, grpc.StatusCode.RESOURCE_EXHAUSTED]
)
async def test_retries_elsewhere_before_the_first_token(rig, code):
    """A worker that gives no token costs the client nothing: the answer is the other one's."""
    bad, good = rig.workers
    bad.script.fail_first = code
    for i in range(100):  # which one is tried first is not certain
        prompt = f"hello {i}"
        response, body = await rig.post("/v1/completions", {**HELLO, "prompt": prompt})
        assert (response.status, text_of(body)) == (200, decode(answer_of(encode(prompt), 20)))
        assert response.headers["x-argosy-worker"] == good.worker_id
        if bad.requests:
            break
    assert bad.requests[0].attempt == 1
    assert good.requests[-1].attempt == 2
    assert rig.idle()


async def test_attempts_are_numbered_and_bounded(make_rig):
    """Three workers are tried, each once, with attempts 1, 2, 3; then the client is told."""
    rig = await make_rig()
    await rig.add(*(FakeWorker(worker_id=f"w{i}") for i in range(4)))
    for worker in rig.workers:
        worker.script.fail_first = grpc.StatusCode.UNAVAILABLE
    response, body = await rig.post("/v1/completions", HELLO)
    assert response.status == 503
    assert "3 tried" in json.loads(body)["error"]["message"]
    assert "127.0.0.1" not in body.decode()
    seen = [r for w in rig.workers for r in w.requests]
    assert sorted(r.attempt for r in seen) == [1, 2, 3]
    assert len({r.request_id for r in seen}) == 1
    assert rig.idle()


async def test_a_worker_alone_is_tried_again(make_rig):
    """One broken connection is no reason to fail while the only worker is well."""
    rig = await make_rig()
    await rig.add(FakeWorker(worker_id="w0"))
    worker = rig.workers[0]
    worker.script.fail_first = grpc.StatusCode.UNAVAILABLE
    asked = asyncio.create_task(rig.post("/v1/completions", HELLO))
    await eventually(lambda: worker.requests)
    worker.script.fail_first = None
    response, body = await asked
    assert (response.status, text_of(body)) == (200, TEXT)
    assert [r.attempt for r in worker.requests] == [1, 2]


async def test_all_full_is_429(rig):
    """Every queue is full: RESOURCE_EXHAUSTED, with a time to try again."""
    for worker in rig.workers:
        worker.script.fail_first = grpc.StatusCode.RESOURCE_EXHAUSTED
    response, body = await rig.post("/v1/completions", HELLO)
    assert response.status == 429
    assert int(response.headers["retry-after"]) >= 1
    assert json.loads(body)["error"]["type"] == "rate_limit_error"


async def test_refusals_are_not_retried(rig):
    """What the worker refuses, every worker would refuse: one attempt, the worker's words."""
    for worker in rig.workers:
        worker.script.fail_first = grpc.StatusCode.INVALID_ARGUMENT
        worker.script.details = "prompt: does not please me"
    response, body = await rig.post("/v1/completions", HELLO)
    assert response.status == 400
    assert json.loads(body)["error"]["param"] == "prompt"
    assert sum(len(w.requests) for w in rig.workers) == 1


async def test_internal_faults_are_told_without_details(rig):
    """The worker's words about its own fault stay in the log."""
    for worker in rig.workers:
        worker.script.fail_first = grpc.StatusCode.INTERNAL
        worker.script.details = "Traceback at 0xdeadbeef in /srv/secret.py"
    response, body = await rig.post("/v1/completions", HELLO)
    assert response.status == 500
    assert b"secret" not in body
    assert b"0xdead" not in body
    assert sum(len(w.requests) for w in rig.workers) == 1


@pytest.mark.parametrize(("how", "code"), [("die_after", "InternalError"), ("abort_after", "Unavailable")])
async def test_lost_for_good_says_how_far_it_came(rig, how, code):
    """Nobody comes further: the tokens so far, then an error with their number, and a cut; nothing twice."""
    for worker in rig.workers:
        setattr(worker.script, how, 7)
    body = await until_cut(rig, "/v1/completions", {**HELLO, "stream": True})
    events = events_of(body)
    assert "".join(e["choices"][0]["text"] for e in events[:-1]) == decode(answer_of(encode("hello"), 20)[:7])
    assert events[-1]["error"]["code"] == code
    assert "after 7 tokens" in events[-1]["error"]["message"]
    assert not body.endswith(b"[DONE]\n\n")
    attempts = [r.attempt for w in rig.workers for r in w.requests]
    assert sorted(attempts) == ([1, 2] if how == "die_after" else [1, 2, 3, 4])
    whole, body = await rig.post("/v1/completions", {**HELLO, "prompt": "another"})
    assert whole.status == (500 if how == "die_after" else 503)
    assert rig.idle()
    assert rig.router.service.admission.held == 0


async def test_wrong_index_ends_the_attempt(rig):
    """A worker that skips a token is not believed."""
    for worker in rig.workers:
        worker.script.skip_index = True
    response, body = await rig.post("/v1/completions", HELLO)
    assert response.status == 503
    assert "after 1 tokens" in json.loads(body)["error"]["message"]


async def test_chunks_of_another_attempt_are_dropped(rig):
    """Late words of an old attempt never reach the client."""
    for worker in rig.workers:
        worker.script.stale_chunks = True
    _, body = await rig.post("/v1/completions", HELLO)
    assert text_of(body) == TEXT


async def test_process_gone_before_and_in_mid_stream(make_rig):
    """A server that goes away for good: what has a token goes on at the other one, what has none begins there."""
    rig = await make_rig()
    await rig.add(FakeWorker(worker_id="w0"), FakeWorker(worker_id="w1"))
    for worker in rig.workers:
        worker.script.step_s = 0.02
    started = asyncio.create_task(rig.post("/v1/completions", {**HELLO, "max_tokens": 500}))

    def talking():  # the router has a token of it: before that it would rightly be tried elsewhere
        return [w for w in rig.workers if rig.state.workers[w.worker_id].books.decode]

    await eventually(talking)
    (victim,) = talking()
    victim.script.hang = True
    # while the victim is busy new requests prefer the other one; send until one hangs at the victim
    waiting = []
    while not any(r.sampling.max_tokens == 5 for r in victim.requests):
        waiting.append(
            asyncio.create_task(rig.post("/v1/completions", {**HELLO, "prompt": f"p{len(waiting)}", "max_tokens": 5}))
        )
        await asyncio.sleep(0.02)
        assert len(waiting) < 200
    await victim.stop()
    response, body = await started
    assert (response.status, text_of(body)) == (200, decode(answer_of(encode("hello"), 500)))
    for response, _ in await asyncio.gather(*waiting):
        assert response.status == 200
    before = len(victim.requests)
    for _ in range(5):
        response, _ = await rig.post("/v1/completions", HELLO)
        assert response.status == 200
    assert len(victim.requests) == before


async def test_ejected_at_once_and_back_when_well(make_rig, monkeypatch):
    """A broken connection takes a worker out without a request or a probe having to fail; it comes back by itself."""
    from argosy_router.clock import now
    from argosy_router.fleet import monitor

    monkeypatch.setattr(monitor, "BEAT_S", 60.0)  # no probe by time
    rig = await make_rig()
    await rig.add(FakeWorker(worker_id="w0"), FakeWorker(worker_id="w1"))
    victim = rig.workers[0]
    port = victim.port
    await victim.stop()
    state = rig.state.workers["w0"]
    await eventually(lambda: not state.healthy(now()))
    await victim.start(port)
    await rig.until_ready(2)


async def job_of(service, text: str, params: SamplingParams):
    ask = Ask(model="m", fields=["prompt"], prompts=[text], params=params)
    return (await service.prepare(Request(service.admission.account()), ask, Caller(request_id="r"))).jobs[0]


async def test_closing_a_flight_cancels_the_call(rig):
    """Also between two reads, when nothing waits for the worker: its blocks must come free."""
    service = rig.router.service
    for worker in rig.workers:
        worker.script.step_s = 0.01
    job = await job_of(service, "hello", SamplingParams(max_tokens=2000))
    async with service.flying(Request(service.admission.account()), job) as flight:
        await anext(flight)
    await eventually(lambda: sum(len(w.cancelled) for w in rig.workers) == 1)
    assert rig.idle()


async def test_books_follow_the_stream(rig):
    """Until the first token the prompt is work to do; from then on it is context that is carried along."""
    for worker in rig.workers:
        worker.script.step_s = 0.02
    service = rig.router.service
    job = await job_of(service, "hello" * 10, SamplingParams(max_tokens=30))
    flight = Flight(job, service._field.dispatcher, service.metrics, attempts=3)
    starting = asyncio.create_task(flight.start())
    await asyncio.sleep(0)  # up to the first wait for the worker
    books = next(w.books for w in rig.state.workers.values() if len(w.books))
    assert [(e.uncached, e.prompt) for e in books.waiting()] == [(50, 50)]
    await starting
    assert books.waiting() == []
    assert books.decode == 51
    await anext(flight)
    await anext(flight)
    assert books.decode == 52
    flight.close()
    assert (books.decode, len(books)) == (0, 0)


async def test_client_disconnect_cancels_upstream(rig):
    """A client that goes away in mid-stream frees the worker."""
    for worker in rig.workers:
        worker.script.step_s = 0.02
    async with rig.http.post(
        rig.base + "/v1/completions", json={**HELLO, "max_tokens": 2000, "stream": True}
    ) as response:
        await response.content.readline()
        response.close()
    await eventually(lambda: sum(len(w.cancelled) for w in rig.workers) == 1)
    await eventually(rig.idle)
    assert rig.router.service.running == 0


async def test_client_disconnect_before_the_first_token(rig):
    """The same while a whole answer is being waited for."""
    for worker in rig.workers:
        worker.script.hang = True
    task = asyncio.create_task(rig.post("/v1/completions", HELLO))
    await eventually(lambda: sum(w.running for w in rig.workers) == 1)
    task.cancel()
    await eventually(lambda: sum(len(w.cancelled) for w in rig.workers) == 1)
    await eventually(rig.idle)


async def test_grpc_cancel_and_deadline_reach_the_worker(rig):
    """A client's cancel and its deadline both end the worker's call."""
    for worker in rig.workers:
        worker.script.hang = True
    async with grpc.aio.insecure_channel(f"127.0.0.1:{rig.router.grpc_port}") as channel:
        stub = rpc.InferenceStub(channel)
        call = stub.Generate(pb.InferenceRequest(model="m", text="x"))
        await eventually(lambda: sum(w.running for w in rig.workers) == 1)
        call.cancel()
        await eventually(lambda: sum(len(w.cancelled) for w in rig.workers) == 1)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async for _ in stub.Generate(pb.InferenceRequest(model="m", text="x"), timeout=0.2):
                pass
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await eventually(lambda: sum(len(w.cancelled) for w in rig.workers) == 2)
    await eventually(rig.idle)


async def test_not_serving_gets_nothing_new_but_its_streams_go_on(rig):
    """A worker that is leaving ends what it has."""
    first, second = rig.workers
    for worker in rig.workers:
        worker.script.step_s = 0.01
    task = asyncio.create_task(rig.post("/v1/completions", {**HELLO, "max_tokens": 60}))
    await eventually(lambda: first.running or second.running)
    leaving, staying = (first, second) if first.running else (second, first)
    rig.cluster.announce(leaving.member(serving=False), staying.member())
    await eventually(lambda: not rig.state.workers[leaving.worker_id].spec.serving)
    for _ in range(5):
        response, _ = await rig.post("/v1/completions", HELLO)
        assert response.headers["x-argosy-worker"] == staying.worker_id
    rig.cluster.announce(staying.member())
    await eventually(lambda: leaving.worker_id not in rig.state.workers)
    response, _ = await task
    assert response.status == 200


async def test_a_draining_worker_is_left_alone(rig):
    """A worker that reports that it drains gets no new request."""
    first = rig.workers[0]
    first.draining = True
    from argosy_router.clock import now

    await eventually(lambda: not rig.state.workers["w0"].healthy(now()))
    for _ in range(5):
        response, _ = await rig.post("/v1/completions", HELLO)
        assert response.headers["x-argosy-worker"] == "w1"


async def test_nobody_there(make_rig):
    """No worker: 503 with the reason that the membership gives."""
    rig = await make_rig()
    rig.cluster.announce(message="ModelNotFound: no such file")
    await eventually(lambda: rig.router.fleet.known)
    response, body = await rig.post("/v1/completions", HELLO)
    assert response.status == 503
    assert "no such file" in json.loads(body)["error"]["message"]


async def test_loading_worker_is_used_when_it_is_ready(make_rig):
    """GetModel says UNAVAILABLE while the model loads; then it is routed to."""
    rig = await make_rig()
    worker = FakeWorker(loading=True)
    await rig.add(worker, wait=False)
    await eventually(lambda: rig.router.fleet.known)
    response, _ = await rig.post("/v1/completions", HELLO)
    assert response.status == 503
    worker.loading = False
    await rig.until_ready(1)
    response, _ = await rig.post("/v1/completions", HELLO)
    assert response.status == 200


async def test_other_fingerprint_is_served_not_indexed(make_rig):
    """During a roll-out both revisions serve; only the blocks of the one that most workers have are indexed."""
    rig = await make_rig()
    await rig.add(
        FakeWorker(worker_id="w0"), FakeWorker(worker_id="w1"), FakeWorker(worker_id="w2", fingerprint="0" * 32),
        FakeWorker(worker_id="w3", hash_version=99),
    )  # fmt: skip
    seen = set()
    for i in range(200):
        response, _ = await rig.post("/v1/completions", {**HELLO, "prompt": f"{i}", "max_tokens": 1})
        seen.add(response.headers["x-argosy-worker"])
        if len(seen) == 4:
            break
    assert seen == {"w0", "w1", "w2", "w3"}
    state = rig.state
    assert [bool(state.index.bit(f"w{i}")) for i in range(4)] == [True, True, False, False]


async def test_other_tokenizer_gets_nothing(make_rig):
    """Token ids of one tokenizer are never sent to a worker with another one."""
    rig = await make_rig()
    other = FakeWorker(worker_id="w2", fingerprint="0" * 32, tokenizer_json=byte_tokenizer(bos="<|im_start|>"))
    await rig.add(FakeWorker(worker_id="w0"), FakeWorker(worker_id="w1"), other)
    for i in range(20):
        await rig.post("/v1/completions", {**HELLO, "prompt": f"{i}", "max_tokens": 1})
    assert other.requests == []


async def test_a_request_waits_for_new_workers_when_the_old_ones_leave(make_rig):
    """A drained node: the last old worker leaves at the moment at which the new one comes, and nobody is told no."""
    rig = await make_rig()
    old, new = FakeWorker(worker_id="old"), FakeWorker(worker_id="new", epoch=2)
    await rig.add(old)
    new.introduced.clear()
    await new.start()
    rig.workers.append(new)
    rig.cluster.announce(replace(old.member(serving=False), terminating=True), new.member())
    await eventually(lambda: len(rig.state.workers) == 2 and not rig.state.workers["old"].spec.serving)
    asked = asyncio.create_task(rig.post("/v1/completions", HELLO))
    await eventually(lambda: rig.router.service.running == 1)
    assert not asked.done()
    new.introduced.set()
    response, _ = await asked
    assert (response.status, response.headers["x-argosy-worker"]) == (200, "new")
