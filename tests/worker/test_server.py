"""The gRPC server: every field is checked, the engine lives on, health and reflection tell the truth."""

import math

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from argosy_api import limits
from argosy_api.blocks import block_ids, root_id
from argosy_api.v1 import worker_pb2 as pb
from argosy_worker import sim
from argosy_worker.engine.metrics import WorkerMetrics
from argosy_worker.engine.report import LoadView

INVALID = grpc.StatusCode.INVALID_ARGUMENT
PROMPT = list(b"the quick brown fox jumps over the lazy dog, twice")
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


async def test_an_answer_over_grpc(rig, oracle):
    answer = await rig.generate(PROMPT, max_tokens=30)
    assert answer.tokens == oracle(PROMPT, 30)
    assert answer.text == bytes(answer.tokens).decode()
    assert answer.last.finish_reason == pb.FINISH_REASON_LENGTH
    assert answer.chunks[0].usage.prompt_tokens == answer.last.usage.prompt_tokens == len(PROMPT)
    assert answer.last.usage.completion_tokens == 30
    assert {(c.request_id, c.attempt) for c in answer.chunks} == {("r", 1)}


async def test_defaults_of_unset_fields(rig):
    """max_tokens 16, and sampling at temperature 1."""
    call = rig.stub.Generate(pb.GenerateRequest(request_id="r", attempt=1, prompt_tokens=PROMPT))
    chunks = [chunk async for chunk in call]
    assert sum(len(c.token_ids) for c in chunks) == 16


async def test_seeded_sampling_is_repeatable(rig, oracle):
    for i in range(2):
        answer = await rig.generate(PROMPT, f"r{i}", max_tokens=20, temperature=0.8, seed=5)
        assert answer.tokens == oracle(PROMPT, 20, temperature=0.8, seed=5)


async def test_a_stop_string_ends_the_answer(rig, oracle):
    tokens = oracle(PROMPT, 40)
    text = bytes(tokens).decode()
    stop = text[10:13]
    assert text.index(stop) == 10
    answer = await rig.generate(PROMPT, max_tokens=40, stop=["never there", stop])
    assert answer.text == text[:10]
    assert answer.tokens == tokens[:13]
    assert (answer.last.finish_reason, answer.last.stop_reason) == (pb.FINISH_REASON_STOP, stop)
    assert answer.last.usage.completion_tokens == 13
    later = await rig.generate(PROMPT, "later", max_tokens=40, min_tokens=14, stop=[stop])
    assert later.text == text
    assert later.last.finish_reason == pb.FINISH_REASON_LENGTH
    assert (await rig.load()).used_blocks == 0


async def test_a_stop_token_ends_the_answer_and_has_no_text(rig, oracle):
    tokens = oracle(PROMPT, 40)
    stop = tokens[12]
    end = tokens.index(stop)
    answer = await rig.generate(PROMPT, max_tokens=40, stop_token_ids=[stop])
    assert answer.tokens == tokens[: end + 1]
    assert answer.text == bytes(tokens[:end]).decode()
    assert (answer.last.finish_reason, answer.last.stop_reason) == (pb.FINISH_REASON_STOP, str(stop))


async def test_end_of_sequence(make_rig, oracle):
    async with make_rig("sim://m?eos_every=8&decode_ms=0&check=1") as rig:
        tokens = oracle(PROMPT, 200, eos_every=8)
        first = tokens.index(sim.IM_END)
        answer = await rig.generate(PROMPT, max_tokens=200)
        assert answer.tokens == tokens[: first + 1]
        assert (answer.last.finish_reason, answer.last.stop_reason) == (pb.FINISH_REASON_STOP, "")
        assert answer.text == bytes(tokens[:first]).decode()
        least = {"max_tokens": 200, "min_tokens": first + 2}
        more = await rig.generate(PROMPT, "more", **least)
        instead = oracle(PROMPT, 200, eos_every=8, **least)  # another token is drawn instead of the first end
        assert instead[:first] == tokens[:first]
        end = instead.index(sim.IM_END)
        assert end >= first + 2
        assert more.tokens == instead[: end + 1]
        assert more.text == bytes(instead[:end]).decode()
        ignoring = await rig.generate(PROMPT, "ignoring", max_tokens=200, ignore_eos=True)
        assert ignoring.tokens == tokens
        assert ignoring.text == bytes(t for t in tokens if t < 256).decode()


async def test_a_full_context_ends_the_answer(make_rig, oracle):
    async with make_rig(max_model_len=64) as rig:
        answer = await rig.generate(PROMPT, max_tokens=500)
        assert answer.tokens == oracle(PROMPT, 64 - len(PROMPT))
        assert answer.last.finish_reason == pb.FINISH_REASON_LENGTH


async def test_logprobs(rig):
    answer = await rig.generate(PROMPT, max_tokens=5, logprobs=3, prompt_logprobs=0)
    rows = [row for chunk in answer.chunks for row in chunk.logprobs]
    assert [row.token for row in rows] == answer.tokens
    assert all(len(row.top) == 3 and row.top[0].logprob >= row.top[1].logprob for row in rows)
    assert [row.token for row in answer.chunks[0].prompt_logprobs] == PROMPT[1:]
    plain = await rig.generate(PROMPT, "plain", max_tokens=5)
    assert not any(chunk.logprobs or chunk.prompt_logprobs for chunk in plain.chunks)


async def test_penalties_and_sets_of_tokens_reach_the_runner(rig, oracle):
    plain = oracle(PROMPT, 60)
    word = plain[5:7]
    for name, fields, proto in [
        ("penalty", {"frequency_penalty": 0.5}, {}),
        ("repetition", {"repetition_penalty": 1.1}, {}),
        ("allowed", {"allowed_token_ids": tuple(b"aeiou ")}, {}),
        (
            "banned",
            {"bad_words_ids": (tuple(word), (plain[0],))},
            {"bad_words_ids": [pb.TokenIds(ids=word), pb.TokenIds(ids=plain[:1])]},
        ),
    ]:
        expected = oracle(PROMPT, 60, **fields)
        assert expected != plain
        assert (await rig.generate(PROMPT, name, max_tokens=60, **(fields | proto))).tokens == expected


BAD = [
    ({"request_id": ""}, "request_id"),
    ({"request_id": "x" * (limits.MAX_REQUEST_ID + 1)}, "request_id"),
    ({"request_id": "a\nb"}, "request_id"),
    ({"attempt": 0}, "attempt"),
    ({"salt": "s" * (limits.MAX_CACHE_SALT + 1)}, "cache_salt"),
    ({"prompt": []}, "prompt"),
    ({"prompt": [259]}, "prompt[0]"),
    ({"prompt": [1, 2, 2**32 - 1]}, "prompt[2]"),
    ({"prompt": [1] * 1024}, "prompt"),
    ({"prompt": [1] * 300_000}, "prompt"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": 2**32 - 1}, "max_tokens"),
    ({"max_tokens": 4, "min_tokens": 5}, "min_tokens"),
    ({"temperature": -0.1}, "temperature"),
    ({"temperature": math.nan}, "temperature"),
    ({"temperature": math.inf}, "temperature"),
    ({"temperature": 1e300}, "temperature"),
    ({"top_k": 2**32 - 1}, "top_k"),
    ({"top_p": 0.0}, "top_p"),
    ({"top_p": -1.0}, "top_p"),
    ({"top_p": 1.0001}, "top_p"),
    ({"top_p": math.nan}, "top_p"),
    ({"seed": 2**64 - 1}, "seed"),
    ({"logprobs": 21}, "logprobs"),
    ({"prompt_logprobs": 2**32 - 1}, "prompt_logprobs"),
    ({"stop": [""]}, "stop[0]"),
    ({"stop": ["ok", "x" * 300]}, "stop[1]"),
    ({"stop": ["x"] * 17}, "stop"),
    ({"stop_token_ids": [259]}, "stop_token_ids[0]"),
    ({"min_p": 1.5}, "min_p"),
    ({"min_p": math.nan}, "min_p"),
    ({"typical_p": 0.0}, "typical_p"),
    ({"repetition_penalty": 0.0}, "repetition_penalty"),
    ({"repetition_penalty": math.inf}, "repetition_penalty"),
    ({"presence_penalty": -3.0}, "presence_penalty"),
    ({"frequency_penalty": math.nan}, "frequency_penalty"),
    ({"logit_bias": {259: 1.0}}, "logit_bias"),
    ({"logit_bias": {1: math.nan}}, "logit_bias.1"),
    ({"logit_bias": dict.fromkeys(range(301), 1.0)}, "logit_bias"),
    ({"allowed_token_ids": [259]}, "allowed_token_ids[0]"),
    ({"allowed_token_ids": [1] * 8193}, "allowed_token_ids"),
    ({"allowed_token_ids": [sim.IM_END], "min_tokens": 1}, "allowed_token_ids"),
    ({"bad_words_ids": [pb.TokenIds()]}, "bad_words_ids[0]"),
    ({"bad_words_ids": [pb.TokenIds(ids=[1, 259])]}, "bad_words_ids[0][1]"),
    ({"bad_words_ids": [pb.TokenIds(ids=[1] * 33)]}, "bad_words_ids[0]"),
    ({"bad_words_ids": [pb.TokenIds(ids=[1])] * 129}, "bad_words_ids"),
    ({"stop_token_ids": [1] * 65}, "stop_token_ids"),
    ({"priority": 11}, "priority"),
    ({"priority": -(2**31)}, "priority"),
]


async def test_every_bad_field_is_refused_by_name_and_the_engine_lives_on(rig, oracle):
    for change, field in BAD:
        fields = {"prompt": PROMPT, "request_id": "r"} | change
        request = rig.request(fields.pop("prompt"), fields.pop("request_id"), **fields)
        code, message = await rig.status_of(request)
        assert (code, message.partition(":")[0]) == (INVALID, field), f"{change}: {code} {message}"
    assert (await rig.generate(PROMPT, max_tokens=8)).tokens == oracle(PROMPT, 8)
    assert rig.engine.alive
    load = await rig.load()
    assert (load.used_blocks, load.running, load.waiting) == (0, 0, 0)


async def test_how_long_tokens_may_wait_for_each_other_is_bounded(rig):
    request = rig.request(PROMPT, max_tokens=8)
    request.message_interval_ms = 1001
    code, message = await rig.status_of(request)
    assert (code, message.partition(":")[0]) == (INVALID, "message_interval_ms")
    request.message_interval_ms = 1000
    code, _ = await rig.status_of(request)
    assert code == grpc.StatusCode.OK


KNOWN = {
    "request_id", "attempt", "prompt_tokens", "sampling", "cache_salt", "adapter", "priority", "resumed_tokens",
    "message_interval_ms",
}  # fmt: skip


@pytest.mark.parametrize(
    "field", [f for f in pb.GenerateRequest.DESCRIPTOR.fields if f.name not in KNOWN], ids=lambda f: f.name
)
async def test_what_this_worker_cannot_honour_is_refused_by_name(rig, field):
    value = "x" if field.type == field.TYPE_STRING else 1
    request = rig.request(PROMPT)
    request.MergeFrom(
        pb.GenerateRequest(**{field.name: [value] if hasattr(getattr(request, field.name), "append") else value})
    )
    code, message = await rig.status_of(request)
    assert (code, message.partition(":")[0]) == (INVALID, field.name)


async def test_a_caller_learns_whether_a_report_contains_its_request(rig):
    """Reports are numbered; a request is in all that count at least its own number of submissions."""
    numbers, sequences = [], []
    for name in ("a", "b"):
        call = rig.stub.Generate(rig.request(PROMPT, name))
        numbers.append(int(dict(await call.initial_metadata())["argosy-accepted"]))
        load = await rig.load()
        sequences.append(load.sequence)
        assert load.accepted == numbers[-1]
        async for _ in call:
            pass
    assert (numbers, sequences) == ([1, 2], [1, 2])


async def test_what_can_never_fit_is_refused_with_the_numbers(make_rig):
    async with make_rig(num_blocks=4, max_model_len=1024) as rig:
        code, message = await rig.status_of(rig.request([1] * 65, max_tokens=1))
        assert (code, message.partition(":")[0]) == (INVALID, "prompt")
        assert "64" in message
        code, message = await rig.status_of(rig.request([1] * 60, max_tokens=6))
        assert (code, message.partition(":")[0]) == (INVALID, "max_tokens")
        answer = await rig.generate([1] * 60, max_tokens=5)  # the last token needs no slot
        assert len(answer.tokens) == 5


async def test_a_request_id_is_used_once_at_a_time(make_rig):
    async with make_rig("sim://slow?decode_ms=5") as rig:
        call = rig.stub.Generate(rig.request(PROMPT, max_tokens=900, attempt=2))
        chunks = aiter(call)
        await anext(chunks)
        code, message = await rig.status_of(rig.request(PROMPT, attempt=2))
        assert (code, message.partition(":")[0]) == (INVALID, "request_id")
        newer = await rig.generate(PROMPT, attempt=3, max_tokens=2)
        assert len(newer.tokens) == 2
        with pytest.raises(grpc.aio.AioRpcError) as replaced:  # its status comes after all chunks that were sent before
            [chunk async for chunk in chunks]
        assert replaced.value.code() is grpc.StatusCode.CANCELLED


async def test_too_many_requests(make_rig, eventually):
    async with make_rig("sim://slow?decode_ms=5", max_running=1, max_waiting=1) as rig:
        calls = [rig.stub.Generate(rig.request(PROMPT, f"r{i}", max_tokens=900)) for i in range(2)]
        await eventually(lambda: len(rig.engine._active) == 2, "both are here")
        code, message = await rig.status_of(rig.request(PROMPT, "more"))
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "all the 2 requests" in message
        for call in calls:
            call.cancel()


async def health(rig, service):
    stub = health_pb2_grpc.HealthStub(rig.channel)
    return (await stub.Check(health_pb2.HealthCheckRequest(service=service))).status


async def test_health_follows_loading_serving_and_draining(make_rig):
    async with make_rig(open_at_once=False) as rig:
        for service in ("", "argosy.v1.Worker"):
            assert await health(rig, service) == NOT_SERVING
        code, message = await rig.status_of(rig.request(PROMPT))
        assert code is grpc.StatusCode.UNAVAILABLE
        assert "not loaded yet (Starting" in message
        for call in (
            rig.stub.GetModel(pb.GetModelRequest()),
            rig.stub.GetLoad(pb.GetLoadRequest()),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    async with make_rig() as rig:
        for service in ("", "argosy.v1.Worker"):
            assert await health(rig, service) == SERVING
        await rig.serving.set_health(serving=False)
        assert await rig.engine.drain(1) == (0, 0)
        for service in ("", "argosy.v1.Worker"):
            assert await health(rig, service) == NOT_SERVING
        assert (await rig.load()).draining is True
        assert (await rig.status_of(rig.request(PROMPT)))[0] is grpc.StatusCode.UNAVAILABLE


async def test_subscribers_are_bounded(make_rig, monkeypatch, eventually):
    monkeypatch.setattr(limits, "MAX_SUBSCRIBERS", 2)
    async with make_rig() as rig:
        streams = [rig.stub.SubscribeKvEvents(pb.SubscribeKvEventsRequest()) for _ in range(2)]
        for stream in streams:
            assert (await stream.read()).snapshot
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await rig.stub.SubscribeKvEvents(pb.SubscribeKvEventsRequest()).read()
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        streams[0].cancel()

        async def there_is_room():
            stream = rig.stub.SubscribeKvEvents(pb.SubscribeKvEventsRequest())
            try:
                return (await stream.read()).snapshot
            except grpc.aio.AioRpcError:
                return False
            finally:
                stream.cancel()

        await eventually(there_is_room, "who leaves makes room")
        streams[1].cancel()


async def test_reflection_lists_the_services(rig):
    stub = reflection_pb2_grpc.ServerReflectionStub(rig.channel)
    call = stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))
    answers = [answer async for answer in call]
    assert {s.name for s in answers[0].list_services_response.service} == {
        "argosy.v1.Worker",
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
    }


async def test_model_info_lets_a_router_compute_the_ids(rig):
    info = await rig.stub.GetModel(pb.GetModelRequest())
    assert (info.block_size, info.total_blocks, info.max_model_len, info.vocab_size) == (16, 256, 1024, 259)
    assert (info.worker_id, info.epoch, info.served_name, info.architecture) == ("w", 77, "test", "sim")
    assert (info.queue_order, info.queue_ageing, info.kv_dtype) == ("leastWork", 0.25, "sim")
    assert info.tokenizer_json == sim.tokenizer_json()
    assert not info.HasField("bos_token_id")
    await rig.generate(PROMPT, max_tokens=1, salt="s")
    assert set(rig.events.snapshot().stored) == set(block_ids(root_id(info.fingerprint, salt="s"), PROMPT))


async def test_subscription_snapshot_then_live(make_rig):
    async with make_rig(num_blocks=12) as rig:
        known: set[bytes] = set()
        await rig.generate(PROMPT, "first", max_tokens=20)
        call = rig.stub.SubscribeKvEvents(pb.SubscribeKvEventsRequest())
        batch = await call.read()
        assert batch.snapshot
        assert (batch.epoch, batch.seq) == (77, rig.events.seq)
        known.update(batch.stored)
        assert known == set(rig.engine._thread.scheduler.pool.known_ids())
        last = batch.seq
        for i in range(6):  # more than the cache holds, so blocks are removed too
            await rig.generate([i] * 70, f"r{i}", max_tokens=30)
            while last < rig.events.seq:
                batch = await call.read()
                assert (batch.seq, batch.snapshot) == (last + 1, False)
                assert known.isdisjoint(batch.stored)
                assert known.issuperset(batch.removed)
                known = (known - set(batch.removed)) | set(batch.stored)
                last = batch.seq
            assert known == set(rig.engine._thread.scheduler.pool.known_ids())
        call.cancel()
        resumed = rig.stub.SubscribeKvEvents(pb.SubscribeKvEventsRequest(start_sequence=last - 1, epoch=77))
        assert [(b.seq, b.snapshot) for b in (await resumed.read(), await resumed.read())] == [
            (last - 1, False),
            (last, False),
        ]
        resumed.cancel()
        for start, epoch in ((3, 76), (last + 2, 77), (0, 77)):
            other = rig.stub.SubscribeKvEvents(pb.SubscribeKvEventsRequest(start_sequence=start, epoch=epoch))
            batch = await other.read()
            assert batch.snapshot
            assert set(batch.stored) == known
            other.cancel()


@pytest.mark.parametrize("body", [b"\xff\xff\xff", b"\x0a\x02\xff\xfe", b"\x1a\xff\xff\xff\xff\x0f", b""])
async def test_a_message_that_cannot_be_read_harms_nobody(rig, oracle, body):
    generate = rig.channel.unary_stream("/argosy.v1.Worker/Generate")
    with pytest.raises(grpc.aio.AioRpcError):
        async for _ in generate(body):
            pass
    assert (await rig.generate(PROMPT, max_tokens=3)).tokens == oracle(PROMPT, 3)


async def test_a_bug_of_ours_is_internal_and_tells_nothing(rig, monkeypatch):
    def broken(**_):
        raise RuntimeError("/secret/path")

    monkeypatch.setattr(rig.engine, "load", broken)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await rig.load()
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    assert "secret" not in caught.value.details()


def test_a_report_tells_the_time_between_tokens_while_something_generates():
    metrics = WorkerMetrics(model="m", worker="w")
    assert metrics.latest_gap() == 0
    for i in range(1000):
        metrics.next_tokens(0.5 if i < 488 else (i - 488) / 1000, 1)  # the older ones do not count
    assert metrics.latest_gap() == 0.46

    def told(decode_tokens: int) -> float:
        view = LoadView(decode_tokens=decode_tokens)
        usual = {"worker_id": "w", "epoch": 1, "sequence": 1, "accepted": 0, "now": 0.0, "unseen": (), "age": 0.0}
        return view.to_proto(**usual, draining=False, inter_token_s=metrics.latest_gap()).inter_token_seconds

    assert (told(7), told(0)) == (0.46, 0.0)


def test_a_report_counts_tokens_since_the_process_began():
    metrics = WorkerMetrics(model="m", worker="w")
    for _ in range(2):
        metrics.first_token(queued_s=0.0, ttft_s=0.1, prompt_tokens=10, cached_tokens=8)
    metrics.next_tokens(0.1, 1)
    report = LoadView().to_proto(
        worker_id="w", epoch=1, sequence=1, accepted=0, now=0.0, unseen=(), age=0.0, draining=False,
        tokens=metrics.tokens,
    )  # fmt: skip
    assert (report.prompt_tokens, report.cached_tokens, report.generated_tokens) == (20, 16, 3)
