"""A worker is lost in mid-sentence, and the sentence goes on at another one, token for token."""

import asyncio
import json

import grpc
import pytest
from router_kit import FakeWorker, answer_of, decode, encode, events_of
from waiting import eventually

from argosy_api import blocks
from argosy_api import metric_names as names
from argosy_api.inference import inference_pb2 as oip
from argosy_api.inference import inference_pb2_grpc as oip_rpc
from argosy_api.params import SamplingParams
from argosy_api.v1 import worker_pb2 as pb
from argosy_api.v1 import worker_pb2_grpc as rpc
from argosy_router import relay
from argosy_router.ask import Ask, Caller
from argosy_router.clock import now
from argosy_router.fleet import silence
from argosy_router.request import Request
from argosy_router.routing.job import continued

COUNT = 40
HELLO = {"model": "m", "prompt": "hello", "max_tokens": COUNT}
TOKENS = answer_of(encode("hello"), COUNT)
TEXT = decode(TOKENS)
HOWS = ["die_after", "close_after", "abort_after"]


def value(rig, name, **labels):
    return rig.router.metrics.registry.get_sample_value(name, {"model": "m", **labels})


def requests_of(rig):
    return sorted((r for w in rig.workers for r in w.requests), key=lambda r: r.attempt)


async def two(make_rig, **faults):
    """Two workers with one script: a fault happens once, to whoever comes there first."""
    rig = await make_rig()
    workers = FakeWorker(worker_id="w0"), FakeWorker(worker_id="w1")
    script = workers[1].script = workers[0].script
    script.faults_left = 1
    for name, at in faults.items():
        setattr(script, name, at)
    await rig.add(*workers)
    return rig


def check_moved(rig, at):
    first, second = requests_of(rig)
    assert (first.attempt, second.attempt) == (1, 2)
    assert first.request_id == second.request_id
    assert list(second.resumed_tokens) == TOKENS[:at]
    assert first.sampling == second.sampling
    assert {len(w.requests) for w in rig.workers} == {1}
    assert rig.idle()
    assert rig.router.service.admission.held == 0


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("at", [1, 13, 18, 39])
async def test_a_stream_goes_on(make_rig, how, at):
    """Of a text with characters of several bytes, also cut within one."""
    rig = await two(make_rig, **{how: at})
    options = {"stream": True, "stream_options": {"include_usage": True}, "logprobs": 1, "seed": 7}
    _, body = await rig.post("/v1/completions", {**HELLO, **options})
    assert body.endswith(b"[DONE]\n\n")
    *events, usage = events_of(body)
    assert "".join(e["choices"][0]["text"] for e in events) == TEXT
    assert sum(len(e["choices"][0]["logprobs"]["tokens"]) for e in events if e["choices"][0]["logprobs"]) == COUNT
    assert usage["usage"]["completion_tokens"] == COUNT
    assert events[-1]["choices"][0]["finish_reason"] == "length"
    check_moved(rig, at)
    assert (
        sum(value(rig, names.ROUTER_RESUMED + "_total", why=why) or 0 for why in ("unavailable", "closed", "aborted"))
        == 1
    )
    assert value(rig, names.ROUTER_RESUME_GAP_SECONDS + "_count") == 1


class Stranger(FakeWorker):
    """Another gRPC server, to which the worker's address has fallen."""

    strange = False

    async def Generate(self, request, context):
        if self.strange:
            self.requests.append(request)
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")
        async for chunk in super().Generate(request, context):
            yield chunk

    async def Session(self, request_iterator, context):
        if self.strange:
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")
        async for reply in super().Session(request_iterator, context):
            yield reply


async def test_no_client_is_told_of_a_stranger_at_a_workers_address(make_rig):
    """Requests go on at another worker."""
    rig = await make_rig()
    stranger = Stranger(worker_id="w0")
    await rig.add(stranger, FakeWorker(worker_id="w1"))
    await rig.until_indexed()
    stranger.strange = True

    async def met():
        answers = await asyncio.gather(*(rig.post("/v1/completions", HELLO) for _ in range(4)))
        assert [(r.status, json.loads(body)["choices"][0]["text"]) for r, body in answers] == [(200, TEXT)] * 4
        return stranger.requests != []

    await eventually(met, what="a request without a session came to the stranger")


@pytest.mark.parametrize("how", HOWS)
async def test_a_whole_answer_goes_on(make_rig, how):
    rig = await two(make_rig, **{how: 13})
    response, body = await rig.post("/v1/completions", {**HELLO, "temperature": 0.5})
    answer = json.loads(body)
    assert (response.status, answer["choices"][0]["text"]) == (200, TEXT)
    assert answer["usage"]["completion_tokens"] == COUNT
    check_moved(rig, 13)
    assert requests_of(rig)[0].sampling.HasField("seed")  # drawn by the router


async def test_native_grpc_goes_on(make_rig):
    """Indices without a gap or a repeat; usage in the first chunk and the last, with the same cached tokens."""
    rig = await two(make_rig, die_after=13)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{rig.router.grpc_port}") as channel:
        request = pb.InferenceRequest(model="m", text="hello", sampling=pb.SamplingParams(max_tokens=COUNT))
        chunks = [chunk async for chunk in rpc.InferenceStub(channel).Generate(request)]
    assert [i for c in chunks for i in range(c.index, c.index + len(c.token_ids))] == list(range(COUNT))
    assert [t for c in chunks for t in c.token_ids] == TOKENS
    assert "".join(c.text for c in chunks) == TEXT
    assert [c.attempt for c in chunks for _ in c.token_ids] == [1] * 13 + [2] * (COUNT - 13)
    assert [i for i, c in enumerate(chunks) if c.HasField("usage")] == [0, len(chunks) - 1]
    check_moved(rig, 13)


@pytest.mark.parametrize("streaming", [False, True])
async def test_the_open_inference_protocol_goes_on(make_rig, streaming):
    rig = await two(make_rig, die_after=13)
    request = oip.ModelInferRequest(model_name="m", id="i")
    text = request.inputs.add(name="text_input", datatype="BYTES", shape=[1])
    text.contents.bytes_contents.append(b"hello")
    request.parameters["max_tokens"].int64_param = COUNT
    async with grpc.aio.insecure_channel(f"127.0.0.1:{rig.router.grpc_port}") as channel:
        stub = oip_rpc.GRPCInferenceServiceStub(channel)
        if streaming:
            flag = request.inputs.add(name="stream", datatype="BOOL", shape=[1])
            flag.contents.bool_contents.append(True)
            parts = [part.infer_response async for part in stub.ModelStreamInfer(iter([request]))]
        else:
            parts = [await stub.ModelInfer(request)]

    def output(part):
        (raw,) = [
            raw for raw, o in zip(part.raw_output_contents, part.outputs, strict=False) if o.name == "text_output"
        ]
        return raw[4:].decode()

    assert "".join(output(part) for part in parts).removeprefix("hello") == TEXT
    check_moved(rig, 13)


async def test_all_choices_go_on(make_rig):
    """Two of three are lost, each at its place."""
    rig = await two(make_rig, die_after=9)
    rig.workers[0].script.faults_left = 2
    _, body = await rig.post("/v1/completions", {**HELLO, "n": 3, "stream": True, "temperature": 1, "logprobs": 0})
    texts = dict.fromkeys(range(3), "")
    for event in events_of(body):
        for choice in event["choices"]:
            texts[choice["index"]] += choice["text"]
    assert texts == dict.fromkeys(range(3), TEXT)
    assert len(requests_of(rig)) == 5
    assert rig.idle()


async def test_a_hung_worker_loses_its_streams_and_wakes_in_vain(make_rig):
    """Its process was stopped: nothing is closed, nothing comes. What it says when it wakes reaches nobody."""
    rig = await two(make_rig, stop_after=13)
    began = now()
    _, body = await rig.post("/v1/completions", {**HELLO, "stream": True})
    assert now() - began < 8
    assert "".join(e["choices"][0]["text"] for e in events_of(body)) == TEXT
    check_moved(rig, 13)
    assert value(rig, names.ROUTER_HUNG + "_total") == 1
    assert value(rig, names.ROUTER_RESUMED + "_total", why="hung") == 1
    stopped = next(w for w in rig.workers if w.stopped)
    assert not rig.state.workers[stopped.worker_id].healthy(now())
    stopped.script.release.set()
    await rig.until_ready(2)
    assert value(rig, names.ROUTER_GENERATED_TOKENS + "_total") == COUNT


async def test_a_hung_worker_that_left_is_watched_to_the_end(make_rig):
    """Its endpoint is gone, as with a lost node; its streams are not."""
    rig = await two(make_rig, pause_after=13)
    asked = asyncio.create_task(rig.post("/v1/completions", HELLO))
    await eventually(lambda: rig.workers[0].script.faults_left == 0)
    gone = next(w for w in rig.workers if w.running)
    gone.stopped = True
    rig.cluster.announce(*(w.member() for w in rig.workers if w is not gone))
    response, body = await asked
    assert (response.status, json.loads(body)["choices"][0]["text"]) == (200, TEXT)
    gone.script.release.set()


async def test_a_worker_that_answers_is_not_hung(make_rig):
    """A stream that waits, as after a preemption or behind long prompts, waits on: the worker was asked, and is well."""
    rig = await two(make_rig, pause_after=13)
    asked = asyncio.create_task(rig.post("/v1/completions", HELLO))
    await eventually(lambda: rig.workers[0].script.faults_left == 0)
    (paused,) = [w for w in rig.workers if w.running]
    peer = rig.state.workers[paused.worker_id]
    heard = peer.heard_at
    await eventually(lambda: peer.heard_at > heard + 1.0)  # it was suspected, and asked
    assert not asked.done()
    paused.script.release.set()
    _, body = await asked
    assert json.loads(body)["choices"][0]["text"] == TEXT
    assert [r.attempt for r in requests_of(rig)] == [1]


async def test_with_nobody_else_a_hung_worker_keeps_its_stream(make_rig, monkeypatch):
    monkeypatch.setattr(silence, "answer_within", lambda slow_step_s: 0.1)
    rig = await make_rig()
    await rig.add(FakeWorker(worker_id="w0"))
    (worker,) = rig.workers
    worker.script.stop_after, worker.script.faults_left = 13, 1
    asked = asyncio.create_task(rig.post("/v1/completions", HELLO))
    await eventually(lambda: value(rig, names.ROUTER_HUNG + "_total"))
    assert not asked.done()
    worker.script.release.set()
    _, body = await asked
    assert json.loads(body)["choices"][0]["text"] == TEXT
    assert len(worker.requests) == 1


async def test_only_a_worker_of_the_same_fingerprint_goes_on(make_rig, monkeypatch):
    """Another revision would go on with another text: better a clear end."""
    monkeypatch.setattr(relay, "PATIENCE_S", 0.3)
    rig = await make_rig()
    await rig.add(FakeWorker(worker_id="w0"), FakeWorker(worker_id="w1", fingerprint="0" * 32))
    for worker in rig.workers:
        worker.script.pause_after = 13
    asked = asyncio.create_task(rig.post("/v1/completions", HELLO))
    await eventually(lambda: any(w.books.decode == 5 + 13 for w in rig.state.workers.values()))
    (lost,) = [w for w in rig.workers if w.running]
    await lost.stop()
    response, body = await asked
    assert response.status == 503
    assert "after 13 tokens were delivered; no other worker" in json.loads(body)["error"]["message"]
    assert len(requests_of(rig)) == 1


async def test_a_smaller_worker_does_not_go_on_with_what_it_would_cut(make_rig, monkeypatch):
    monkeypatch.setattr(relay, "PATIENCE_S", 0.3)
    rig = await make_rig()
    await rig.add(FakeWorker(worker_id="w0"), FakeWorker(worker_id="w1", max_model_len=30))
    rig.workers[0].script.close_after = 13
    response, _ = await rig.post("/v1/completions", HELLO)
    assert response.status in (500, 503)
    assert rig.workers[1].requests == []


async def test_a_worker_alone_goes_on_when_it_is_back(make_rig):
    """Its process died, and another one took its place."""
    rig = await make_rig()
    await rig.add(FakeWorker(worker_id="w0"))
    (worker,) = rig.workers
    worker.script.step_s = 0.02
    asked = asyncio.create_task(rig.post("/v1/completions", {**HELLO, "stream": True}))
    await eventually(lambda: rig.state.workers["w0"].books.decode)
    await worker.stop()
    worker.epoch += 1
    worker.sequence = worker.accepted = 0
    await worker.start(worker.port)
    _, body = await asked
    assert "".join(e["choices"][0]["text"] for e in events_of(body)) == TEXT
    assert [r.attempt for r in worker.requests] == [1, 2]


async def test_a_poison_request_kills_two_workers_and_no_third(make_rig):
    rig = await make_rig()
    await rig.add(*(FakeWorker(worker_id=f"w{i}") for i in range(4)))
    for worker in rig.workers:
        worker.script.die_after = 13
    response, body = await rig.post("/v1/completions", HELLO)
    assert response.status == 500
    assert "two workers died" in json.loads(body)["error"]["message"]
    assert len(requests_of(rig)) == 2
    again, body = await rig.post("/v1/completions", HELLO)
    assert again.status == 500
    assert "when it was here before" in json.loads(body)["error"]["message"]
    assert len(requests_of(rig)) == 2
    for worker in rig.workers:
        worker.script.die_after = None
    other, _ = await rig.post("/v1/completions", {**HELLO, "prompt": "something else"})
    assert other.status == 200
    assert value(rig, names.ROUTER_QUARANTINED + "_total") == 1
    assert rig.idle()


async def test_workers_may_die_again_and_again_where_the_answer_grows(make_rig):
    """Three deaths, each a good way after the one before: no sign of poison."""
    rig = await make_rig()
    await rig.add(*(FakeWorker(worker_id=f"w{i}") for i in range(4)))
    deaths = rig.workers[0].script.deaths = [50, 100, 150]
    for worker in rig.workers:
        worker.script.deaths = deaths
    _, body = await rig.post("/v1/completions", {**HELLO, "max_tokens": 220})
    assert json.loads(body)["choices"][0]["text"] == decode(answer_of(encode("hello"), 220))
    assert [r.attempt for r in requests_of(rig)] == [1, 2, 3, 4]


async def test_without_room_for_the_tokens_a_stream_runs_on_and_is_not_resumed(make_rig, monkeypatch):
    rig = await two(make_rig, close_after=13)
    monkeypatch.setattr(Request, "hold", lambda self, count: False)
    response, body = await rig.post("/v1/completions", HELLO)
    assert response.status == 503
    assert "no room to keep them" in json.loads(body)["error"]["message"]
    response, body = await rig.post("/v1/completions", HELLO)
    assert json.loads(body)["choices"][0]["text"] == TEXT


async def test_kept_tokens_count_among_the_held_bytes(make_rig):
    rig = await two(make_rig, pause_after=300)
    service = rig.router.service
    ask = Ask(model="m", fields=["prompt"], prompts=["hello"], params=SamplingParams(max_tokens=400))
    request = Request(service.admission.account())
    job = (await service.prepare(request, ask, Caller(request_id="r"))).jobs[0]
    before = service.admission.held
    async with service.flying(request, job) as flight:
        async for _ in flight:
            if flight.delivered == 300:
                break
        assert service.admission.held - before == 3 * 128 * 8
    assert service.admission.held == before


async def test_what_goes_on_is_sent_where_its_blocks_are(make_rig):
    """The blocks of prompt and answer together, however the prompt ends."""
    rig = await two(make_rig)
    service = rig.router.service
    for length in (5, 16, 37):
        ask = Ask(model="m", fields=["prompt"], prompts=["x" * length], params=SamplingParams(max_tokens=100))
        request = Request(service.admission.account())
        job = (await service.prepare(request, ask, Caller(request_id="r"))).jobs[0]
        more = continued(job, TOKENS)
        tokens = [*job.tokens, *TOKENS]
        assert (more.tokens, more.longest) == (tokens, job.longest)
        assert list(more.block_ids) == blocks.block_ids(blocks.root_id("f" * 32), tokens, 16)
