"""The gRPC fronts: the native service, Open Inference Protocol v2, health and reflection."""

import asyncio
import json
import struct

import grpc
import pytest
import pytest_asyncio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from router_kit import answer_of, decode, encode
from waiting import eventually

from argosy_api import limits
from argosy_api.errors import InvalidArgumentError
from argosy_api.inference import inference_pb2 as oip
from argosy_api.inference import inference_pb2_grpc as oip_rpc
from argosy_api.v1 import worker_pb2 as pb
from argosy_api.v1 import worker_pb2_grpc as rpc
from argosy_router.fronts import native as native_front
from argosy_router.fronts import oip_tensors

TEXT = decode(answer_of(encode("hello"), 8))


@pytest_asyncio.fixture
async def channel(rig):
    async with grpc.aio.insecure_channel(f"127.0.0.1:{rig.router.grpc_port}") as opened:
        yield opened


# --- native


async def native(channel, request, **more):
    call = rpc.InferenceStub(channel).Generate(request, **more)
    chunks = [chunk async for chunk in call]
    return chunks, dict(await call.initial_metadata())


@pytest.mark.parametrize("kind", ["text", "tokens"])
async def test_native_streams_the_workers_chunks(rig, channel, kind):
    """Text or tokens: the same chunks, with the client's request id, and the decision in the metadata."""
    prompt = {"text": "hello"} if kind == "text" else {"tokens": pb.TokenIds(ids=encode("hello"))}
    request = pb.InferenceRequest(model="m", request_id="mine", sampling=pb.SamplingParams(max_tokens=8), **prompt)
    chunks, metadata = await native(channel, request)
    assert [t for c in chunks for t in c.token_ids] == answer_of(encode("hello"), 8)
    assert [i for c in chunks for i in range(c.index, c.index + len(c.token_ids))] == list(range(8))
    assert "".join(c.text for c in chunks) == TEXT
    assert {c.request_id for c in chunks} == {"mine"}
    assert chunks[-1].finish_reason == pb.FINISH_REASON_LENGTH
    assert chunks[-1].usage.completion_tokens == 8
    assert metadata["x-argosy-worker"] in ("w0", "w1")
    assert metadata["x-request-id"] == "mine"
    assert rig.idle()


async def test_native_headers_come_before_the_first_token(rig, channel):
    """Who took the request is told at once; who answered, when that is another one, at the end."""
    for worker in rig.workers:
        worker.script.hang_accepted = True
    request = pb.InferenceRequest(model="m", text="hello", sampling=pb.SamplingParams(max_tokens=8))
    call = rpc.InferenceStub(channel).Generate(request)
    first = dict(await call.initial_metadata())["x-argosy-worker"]
    lost = next(w for w in rig.workers if w.worker_id == first)
    other = next(w for w in rig.workers if w is not lost)
    other.script.hang_accepted = False
    lost.script.die_after = 0
    lost.script.release.set()
    assert "".join([chunk.text async for chunk in call]) == TEXT
    assert dict(await call.trailing_metadata())["x-argosy-worker"] == other.worker_id
    assert (len(lost.requests), len(other.requests)) == (1, 1)
    assert rig.idle()


async def test_native_chat(rig, channel):
    """A chat is rendered with the model's template."""
    chat = pb.Chat(messages=[pb.ChatMessage(role="user", content="hi")])
    await native(channel, pb.InferenceRequest(model="m", chat=chat, sampling=pb.SamplingParams(max_tokens=1)))
    sent = next(r for w in rig.workers for r in w.requests)
    assert list(sent.prompt_tokens) == encode("<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n")


NATIVE_BAD = [
    (pb.InferenceRequest(model="m"), "INVALID_ARGUMENT", "prompt:"),
    (pb.InferenceRequest(text="x"), "INVALID_ARGUMENT", "model:"),
    (pb.InferenceRequest(model="nope", text="x"), "NOT_FOUND", "'nope'"),
    (pb.InferenceRequest(model="m", text="x" * 5000), "INVALID_ARGUMENT", "text:"),
    (pb.InferenceRequest(model="m", tokens=pb.TokenIds()), "INVALID_ARGUMENT", "tokens.ids:"),
    (pb.InferenceRequest(model="m", tokens=pb.TokenIds(ids=[2**32 - 1])), "INVALID_ARGUMENT", "tokens.ids:"),
    (pb.InferenceRequest(model="m", chat=pb.Chat()), "INVALID_ARGUMENT", "chat.messages:"),
    (
        pb.InferenceRequest(model="m", chat=pb.Chat(messages=[pb.ChatMessage()] * (limits.MAX_MESSAGES + 1))),
        "INVALID_ARGUMENT",
        "chat.messages: has",
    ),
    (
        pb.InferenceRequest(model="m", chat=pb.Chat(messages=[pb.ChatMessage(role="x")])),
        "INVALID_ARGUMENT",
        "chat.messages[0].role:",
    ),
    (pb.InferenceRequest(model="m", text="x", request_id="a\n"), "INVALID_ARGUMENT", "request_id:"),
    (pb.InferenceRequest(model="m", text="x", cache_salt="s" * 65), "INVALID_ARGUMENT", "cache_salt:"),
    *(
        (pb.InferenceRequest(model="m", text="x", sampling=pb.SamplingParams(**s)), "INVALID_ARGUMENT", f"{next(iter(s))}")
        for s in (
            {"temperature": float("nan")}, {"temperature": -1}, {"temperature": float("inf")}, {"top_p": 0}, {"top_p": 2},
            {"max_tokens": 0}, {"max_tokens": 2**31}, {"min_tokens": 17}, {"top_k": 2**31}, {"seed": 2**63},
            {"stop": [""]}, {"stop": ["a"] * 17}, {"stop_token_ids": [10**6]}, {"logprobs": 21}, {"prompt_logprobs": 21},
        )
    ),
]  # fmt: skip


@pytest.mark.parametrize(("request_", "code", "words"), NATIVE_BAD, ids=range(len(NATIVE_BAD)))
async def test_native_bad_input(rig, channel, request_, code, words):
    """A status with the field's name; no worker is bothered."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await native(channel, request_)
    assert caught.value.code().name == code
    assert words in caught.value.details()
    assert all(not w.requests for w in rig.workers)


async def test_a_message_is_as_long_as_a_body_at_most(rig, channel):
    """Beyond it nothing is read; below it the field's own bound tells."""
    for size, code, words in (
        (limits.MAX_BODY_BYTES - 100, "INVALID_ARGUMENT", "text: has"),
        (limits.MAX_BODY_BYTES + 1, "RESOURCE_EXHAUSTED", f"larger than max .* {limits.MAX_BODY_BYTES}"),
    ):
        with pytest.raises(grpc.aio.AioRpcError, match=words) as caught:
            await native(channel, pb.InferenceRequest(model="m", text="x" * size))
        assert caught.value.code().name == code
    assert rig.idle()


async def test_calls_beyond_those_that_there_may_be_are_refused(make_rig, monkeypatch):
    """Over all connections; a call that ends makes room."""
    monkeypatch.setattr(limits, "MAX_ALL_CALLS", 2)
    rig = await make_rig()
    address = f"127.0.0.1:{rig.router.grpc_port}"
    everything = health_pb2.HealthCheckRequest()
    async with grpc.aio.insecure_channel(address) as one, grpc.aio.insecure_channel(address) as two:
        watching = [health_pb2_grpc.HealthStub(channel).Watch(everything) for channel in (one, two)]
        for call in watching:
            await call.read()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await health_pb2_grpc.HealthStub(two).Check(everything)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        watching[0].cancel()

        async def room() -> bool:
            try:
                await health_pb2_grpc.HealthStub(two).Check(everything)
            except grpc.aio.AioRpcError:
                return False
            return True

        await eventually(room)


# --- health and reflection


async def test_health_follows_the_membership(make_rig):
    """NOT_SERVING until a membership was read, and again while draining; streams may end meanwhile."""
    rig = await make_rig()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{rig.router.grpc_port}") as channel:
        stub = health_pb2_grpc.HealthStub(channel)

        async def status(name: str) -> int:
            return (await stub.Check(health_pb2.HealthCheckRequest(service=name))).status

        names = ("", "argosy.v1.Inference", "inference.GRPCInferenceService")
        assert [await status(n) for n in names] == [health_pb2.HealthCheckResponse.NOT_SERVING] * 3
        assert not (await oip_rpc.GRPCInferenceServiceStub(channel).ServerReady(oip.ServerReadyRequest())).ready
        from router_kit import FakeWorker

        await rig.add(FakeWorker(), FakeWorker(worker_id="w1"))
        assert [await status(n) for n in names] == [health_pb2.HealthCheckResponse.SERVING] * 3
        for worker in rig.workers:
            worker.script.step_s = 0.01
        request = {"model": "m", "prompt": "hello", "max_tokens": 50}
        running = asyncio.create_task(rig.post("/v1/completions", request))
        await eventually(lambda: any(w.running for w in rig.workers))
        draining = asyncio.create_task(rig.router.drain())
        await eventually(lambda: rig.router.service.draining)
        response, body = await running
        assert response.status == 200
        assert json.loads(body)["usage"]["completion_tokens"] == 50
        await draining


async def test_reflection_lists_the_services(rig, channel):
    """As grpcurl asks."""

    async def ask():
        yield reflection_pb2.ServerReflectionRequest(list_services="")

    async for answer in reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(ask()):
        names = {s.name for s in answer.list_services_response.service}
    assert {"argosy.v1.Inference", "inference.GRPCInferenceService", "grpc.health.v1.Health"} <= names


# --- Open Inference Protocol


def bytes_tensor(request, name, value: bytes, *, raw: bool):
    tensor = request.inputs.add(name=name, datatype="BYTES", shape=[1])
    if raw:
        request.raw_input_contents.append(_element(value))
    else:
        tensor.contents.bytes_contents.append(value)


def bool_tensor(request, name, value: bool, *, raw: bool):
    tensor = request.inputs.add(name=name, datatype="BOOL", shape=[1])
    if raw:
        request.raw_input_contents.append(b"\x01" if value else b"\x00")
    else:
        tensor.contents.bool_contents.append(value)


def infer(text="hello", *, raw=True, stream=None, exclude=True, sampling=None, identity="r1"):
    request = oip.ModelInferRequest(model_name="m", id=identity)
    bytes_tensor(request, "text_input", text.encode(), raw=raw)
    bytes_tensor(request, "sampling_parameters", json.dumps(sampling or {"max_tokens": 8}).encode(), raw=raw)
    if stream is not None:
        bool_tensor(request, "stream", stream, raw=raw)
    if exclude is not None:
        bool_tensor(request, "exclude_input_in_output", exclude, raw=raw)
    return request


def outputs(answer):
    found = {}
    for tensor, raw in zip(answer.outputs, answer.raw_output_contents, strict=True):
        if tensor.datatype == "BYTES":
            (size,) = struct.unpack_from("<I", raw)
            assert len(raw) == 4 + size
            found[tensor.name] = raw[4:].decode()
        else:
            found[tensor.name] = list(struct.unpack(f"<{len(raw) // 8}q", raw))
            assert list(tensor.shape) == [len(found[tensor.name])]
    return found


@pytest.mark.parametrize("raw", [True, False])
async def test_infer(rig, channel, raw):
    """One answer with text and ids; inputs raw or typed."""
    stub = oip_rpc.GRPCInferenceServiceStub(channel)
    answer = await stub.ModelInfer(infer(raw=raw))
    assert answer.id == "r1"
    assert outputs(answer) == {"text_output": TEXT, "output_ids": answer_of(encode("hello"), 8)}
    prefixed = await stub.ModelInfer(infer(raw=raw, exclude=None))
    assert outputs(prefixed)["text_output"] == "hello" + TEXT


def _element(value: bytes) -> bytes:
    return struct.pack("<I", len(value)) + value


def too_much() -> dict[str, tuple[oip.ModelInferRequest, str]]:
    """Requests whose parts are many, each within the size of a message: what is wrong, and how it is said."""
    json_text, empty, ids, inputs, raw, outs, parameters, shape = (infer() for _ in range(8))
    json_text.raw_input_contents[1] = _element(b'{"a": [' + b"[]," * 100_000 + b"[]]}")
    empty.raw_input_contents[0] = bytes(4 * 100_000)
    del ids.inputs[0], ids.raw_input_contents[0]
    ids.inputs.add(name="input_ids", datatype="INT32", shape=[limits.MAX_PROMPT_IDS + 1])
    ids.raw_input_contents.append(bytes(4 * (limits.MAX_PROMPT_IDS + 1)))
    for _ in range(100_000):
        inputs.inputs.add(name="text_input")
        outs.outputs.add(name="text_output")
    raw.raw_input_contents.extend([b""] * 100_000)
    for i in range(1000):
        parameters.parameters[str(i)].int64_param = 1
    shape.inputs[0].shape.extend([1] * 100_000)
    return {
        "sampling_parameters": (json_text, r"sampling_parameters: has \d+ bytes; at most 65536"),
        "text_input": (empty, "text_input: has several elements; at most 1"),
        "input_ids": (ids, "input_ids: has 1048577 elements; at most 1048576"),
        "inputs": (inputs, r"inputs: has \d+ entries"),
        "raw_input_contents": (raw, r"raw_input_contents: has \d+ entries"),
        "outputs": (outs, r"outputs: has \d+ entries"),
        "parameters": (parameters, "parameters: has 1000 entries; at most 64"),
        "shape": (shape, "text_input: has 100001 dimensions; at most 8"),
    }


@pytest.mark.parametrize("what", too_much())
def test_what_is_too_much_is_counted_and_not_read(what):
    """Millions of anything fit into a message; none is walked through on the event loop."""
    request, problem = too_much()[what]

    def read() -> None:
        oip_tensors.read(request)
        oip_tensors.parameters(request)

    with pytest.raises(InvalidArgumentError, match=problem):
        read()


def test_a_native_request_is_counted_before_it_is_copied():
    for request, problem in (
        (pb.InferenceRequest(tokens=pb.TokenIds(ids=[1] * (limits.MAX_PROMPT_IDS + 1))), "tokens.ids: has 1048577"),
        (pb.InferenceRequest(text="x", sampling=pb.SamplingParams(stop=["x"] * 100_000)), "stop: has 100000"),
        (pb.InferenceRequest(text="x", sampling=pb.SamplingParams(stop_token_ids=[1] * 100_000)), "ids: has 100000"),
    ):
        with pytest.raises(InvalidArgumentError, match=problem):
            native_front._ask(request)


async def test_infer_ids_and_chosen_outputs(rig, channel):
    """input_ids in both widths; only the wanted output."""
    stub = oip_rpc.GRPCInferenceServiceStub(channel)
    for datatype, letter in (("INT32", "i"), ("INT64", "q")):
        ids = encode("hello")
        request = oip.ModelInferRequest(model_name="m")
        request.inputs.add(name="input_ids", datatype=datatype, shape=[len(ids)])
        request.raw_input_contents.append(struct.pack(f"<{len(ids)}{letter}", *ids))
        request.outputs.add(name="output_ids")
        answer = await stub.ModelInfer(request)
        assert outputs(answer) == {"output_ids": answer_of(ids, 16)}


async def stream_infer(channel, *requests):
    async def ask():
        for request in requests:
            yield request

    call = oip_rpc.GRPCInferenceServiceStub(channel).ModelStreamInfer(ask())
    return [answer async for answer in call]


async def test_stream_infer_is_decoupled(rig, channel):
    """Many answers for one request, the last one marked; texts add up."""
    answers = await stream_infer(channel, infer(stream=True, exclude=None, sampling={"max_tokens": 40}))
    assert all(not a.error_message for a in answers)
    responses = [a.infer_response for a in answers]
    assert "".join(outputs(r)["text_output"] for r in responses) == decode(answer_of(encode("hello"), 40))
    assert [t for r in responses for t in outputs(r)["output_ids"]] == answer_of(encode("hello"), 40)
    finals = [r.parameters["triton_final_response"].bool_param for r in responses]
    assert finals == [False] * (len(finals) - 1) + [True]
    assert len(finals) > 1  # of 40 tokens; what a busy router has not sent yet goes together


async def test_stream_infer_empty_final(rig, channel):
    """With triton_enable_empty_final_response an empty answer is the last one."""
    request = infer(stream=True)
    request.parameters["triton_enable_empty_final_response"].bool_param = True
    responses = [a.infer_response for a in await stream_infer(channel, request)]
    assert [r.parameters["triton_final_response"].bool_param for r in responses[-2:]] == [False, True]
    assert len(responses[-1].outputs) == 0


async def test_a_stream_with_its_prompt_begins_with_it(rig, channel):
    """Triton's sample client asks for the prompt in a stream, too: it comes once, before the answer."""
    answers = await stream_infer(channel, infer(stream=True, exclude=False, sampling={"max_tokens": 12}))
    responses = [outputs(a.infer_response) for a in answers]
    assert [a.error_message for a in answers] == [""] * len(answers)
    assert responses[0]["text_output"].startswith("hello")
    assert "".join(r["text_output"] for r in responses) == "hello" + decode(answer_of(encode("hello"), 12))
    assert [t for r in responses for t in r["output_ids"]] == answer_of(encode("hello"), 12)


async def test_stream_infer_many_and_errors_apart(rig, channel):
    """Requests of one stream run side by side; an error of one is its own."""
    bad = infer(identity="bad", sampling={"max_tokens": -1})
    answers = await stream_infer(channel, infer(identity="a"), bad, infer("other", identity="b"))
    by_id = {a.infer_response.id: a for a in answers}
    assert outputs(by_id["a"].infer_response)["text_output"] == TEXT
    assert outputs(by_id["b"].infer_response)["text_output"] == decode(answer_of(encode("other"), 8))
    assert "INVALID_ARGUMENT" in by_id["bad"].error_message
    assert "max_tokens" in by_id["bad"].error_message


async def test_stream_cancel_frees_the_worker(rig, channel):
    """A client that cancels its stream ends all that runs in it."""
    for worker in rig.workers:
        worker.script.hang = True

    async def ask():
        yield infer(stream=True)
        yield infer("other", stream=True)
        await asyncio.Event().wait()

    call = oip_rpc.GRPCInferenceServiceStub(channel).ModelStreamInfer(ask())
    reading = asyncio.create_task(call.read())
    await eventually(lambda: sum(w.running for w in rig.workers) == 2)
    call.cancel()
    await eventually(lambda: sum(len(w.cancelled) for w in rig.workers) == 2)
    await eventually(rig.idle)
    await asyncio.gather(reading, return_exceptions=True)


async def test_stream_of_a_slow_reader_who_leaves_is_freed(rig, channel):
    """A client that reads nothing, with an answer of each of its requests waiting, leaves nothing behind when it goes."""
    request = infer(stream=True, sampling={"max_tokens": 4000})
    request.id = "x" * 100

    async def ask():
        for _ in range(8):
            yield request
        await asyncio.Event().wait()

    before = asyncio.all_tasks()
    call = oip_rpc.GRPCInferenceServiceStub(channel).ModelStreamInfer(ask())
    await call.read()

    async def filled() -> bool:
        frames = [t.get_stack() for t in asyncio.all_tasks() - before]
        queues = [f[0].f_locals.get("queue") for f in frames if f and f[0].f_code.co_name == "_serve_stream"]
        return any(q is not None and q.qsize() == 7 for q in queues)

    for _ in range(3000):
        if await filled():
            break
        await asyncio.sleep(0.01)
    else:
        raise AssertionError("the answers were never waiting")
    call.cancel()
    await eventually(lambda: rig.router.service.running == 0)
    await eventually(lambda: all(not w.running for w in rig.workers))
    await eventually(
        lambda: not [t for t in asyncio.all_tasks() - before if "_serve" in repr(t) or "ModelStream" in repr(t)],
    )


async def test_answers_that_wait_for_a_slow_reader_are_held(rig):
    """The workers are done, and the requests still hold what they held: until their answers were taken."""
    for worker in rig.workers:
        worker.script.tokens_per_chunk = 100
    options = [("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 64 * 1024)]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{rig.router.grpc_port}", options=options) as channel:
        requests = [infer("x" * 3000, exclude=None, sampling={"max_tokens": 1000}) for _ in range(60)]

        async def ask():
            for request in requests:
                yield request

        call = oip_rpc.GRPCInferenceServiceStub(channel).ModelStreamInfer(ask())
        await eventually(lambda: sum(len(w.ended) for w in rig.workers) == 60 and rig.idle())
        service = rig.router.service
        assert service.running > 0
        assert service.admission.held > 10_000 * service.running
        assert len([answer async for answer in call]) == 60
        assert (service.running, service.admission.held) == (0, 0)


async def test_parameters_are_honoured(rig, channel):
    """Sampling names and a timeout in the request's parameters."""
    stub = oip_rpc.GRPCInferenceServiceStub(channel)
    request = infer(sampling={"seed": 1})
    request.parameters["max_tokens"].int64_param = 2
    assert len(outputs(await stub.ModelInfer(request))["output_ids"]) == 2
    request.parameters["timeout"].int64_param = 1
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.ModelInfer(request)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_sampling_may_stand_in_both_places_with_one_value(rig, channel):
    """Triton's sample client sends its parameters, texts all of them, as a tensor and as parameters."""
    stub = oip_rpc.GRPCInferenceServiceStub(channel)
    request = infer(sampling={"max_tokens": "5", "temperature": "0.1", "top_p": "0.95"})
    for name, value in {"max_tokens": "5", "temperature": "0.1", "top_p": "0.95"}.items():
        request.parameters[name].string_param = value
    assert len(outputs(await stub.ModelInfer(request))["output_ids"]) == 5
    sampling = next(w for w in rig.workers if w.requests).requests[-1].sampling
    assert (sampling.max_tokens, sampling.temperature, sampling.top_p) == (5, 0.1, 0.95)
    request.parameters["top_p"].string_param = "0.9"
    with pytest.raises(grpc.aio.AioRpcError, match=r"parameters\.top_p: has another value in sampling_parameters"):
        await stub.ModelInfer(request)


SHAPED = {
    "min_p": 0.1, "typical_p": 0.9, "repetition_penalty": 1.2, "presence_penalty": -1.0, "frequency_penalty": 0.5,
    "allowed_token_ids": [5, 6], "top_k": 7, "min_tokens": 2, "stop_token_ids": [9], "ignore_eos": True, "seed": 3,
    "temperature": 0.5, "top_p": 0.75, "max_tokens": 8, "stop": ["never"],
}  # fmt: skip


@pytest.mark.parametrize("way", ["http", "oip", "parameters", "native"])
async def test_what_shapes_an_answer_reaches_the_worker_on_all_ways(rig, channel, way):
    """The same parameters and the same priority, whatever the protocol."""
    expected = pb.SamplingParams(
        **SHAPED, logit_bias={3: 1.5, 4: -100.0}, bad_words_ids=[pb.TokenIds(ids=[1]), pb.TokenIds(ids=[2, 3])]
    )
    fields = {**SHAPED, "logit_bias": {"3": 1.5, "4": -100}, "bad_words_ids": [[1], [2, 3]], "priority": -2}
    if way == "http":
        response, _ = await rig.post("/v1/completions", {"model": "m", "prompt": "hello", **fields})
        assert response.status == 200
    elif way == "native":
        request = pb.InferenceRequest(model="m", text="hello", sampling=expected, priority=-2)
        await native(channel, request)
    else:
        request = infer(sampling=fields)
        if way == "parameters":
            request = infer(
                sampling={name: value for name, value in fields.items() if name not in ("min_p", "priority")}
            )
            request.parameters["min_p"].double_param = 0.1
            request.parameters["priority"].int64_param = -2
        await oip_rpc.GRPCInferenceServiceStub(channel).ModelInfer(request)
    (sent,) = [r for w in rig.workers for r in w.requests]
    assert sent.priority == -2
    assert sent.sampling == expected


async def test_bad_words_become_token_ids(rig, channel):
    """As texts they have the ids of their tokens, beside those that were given as ids."""
    fields = {"bad_words": ["hé", " x"], "bad_words_ids": [[7]]}
    expected = [[7], encode("hé"), encode(" x")]
    response, _ = await rig.post("/v1/completions", {"model": "m", "prompt": "hello", "max_tokens": 2, **fields})
    assert response.status == 200
    await oip_rpc.GRPCInferenceServiceStub(channel).ModelInfer(infer(sampling={"max_tokens": 2, **fields}))
    sent = [r for w in rig.workers for r in w.requests]
    assert [[list(word.ids) for word in r.sampling.bad_words_ids] for r in sent] == [expected, expected]
    response, body = await rig.post("/v1/completions", {"model": "m", "prompt": "hello", "bad_words": ["x", "y" * 40]})
    assert (response.status, json.loads(body)["error"]["param"]) == (400, "bad_words[1]")
    too_many = {"model": "m", "prompt": "hello", "bad_words": ["x"] * 128, "bad_words_ids": [[7]]}
    response, body = await rig.post("/v1/completions", too_many)
    assert (response.status, json.loads(body)["error"]["param"]) == (400, "bad_words")


async def test_a_priority_out_of_bounds_is_refused_by_name(rig, channel):
    for priority in (11, -11, 2**31 - 1):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await native(channel, pb.InferenceRequest(model="m", text="hello", priority=priority))
        assert caught.value.details().startswith("priority: ")


async def test_metadata_and_readiness(rig, channel):
    """What a client asks before it infers."""
    stub = oip_rpc.GRPCInferenceServiceStub(channel)
    assert (await stub.ServerLive(oip.ServerLiveRequest())).live
    assert (await stub.ServerReady(oip.ServerReadyRequest())).ready
    assert (await stub.ModelReady(oip.ModelReadyRequest(name="m"))).ready
    assert not (await stub.ModelReady(oip.ModelReadyRequest(name="nope"))).ready
    extensions = (await stub.ServerMetadata(oip.ServerMetadataRequest())).extensions
    assert list(extensions) == ["model_streaming", "model_configuration", "statistics"]
    metadata = await stub.ModelMetadata(oip.ModelMetadataRequest(name="m"))
    assert {t.name for t in metadata.inputs} >= {"text_input", "input_ids", "stream", "sampling_parameters"}
    assert [t.name for t in metadata.outputs] == ["text_output", "output_ids"]
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.ModelMetadata(oip.ModelMetadataRequest(name="nope"))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


OIP_BAD = [
    (lambda r: setattr(r.inputs[0], "name", "foo"), "foo"),
    (lambda r: setattr(r.inputs[0], "datatype", "FP32"), "text_input"),
    (lambda r: r.inputs[0].shape.append(2), "text_input"),
    (lambda r: r.inputs[0].shape.__setitem__(0, -1), "text_input"),
    (lambda r: r.inputs[0].contents.bytes_contents.append(b"x"), "text_input"),
    (lambda r: r.inputs[0].contents.bool_contents.append(True), "text_input"),
    (lambda r: r.inputs[0].contents.bytes_contents.__setitem__(0, b"\xff"), "text_input"),
    (lambda r: r.inputs[0].ClearField("contents"), "text_input"),  # tritonclient sends an input that was given no data
    (lambda r: r.inputs.add().CopyFrom(r.inputs[0]), "text_input"),
    (lambda r: r.inputs.__delitem__(0), "text_input"),
    (lambda r: r.inputs.add(name="input_ids", datatype="INT64", shape=[0]), "text_input"),
    (lambda r: r.raw_input_contents.append(b""), "raw_input_contents"),
    (lambda r: r.raw_input_contents.extend([b""] * 3), "text_input"),
    (lambda r: r.inputs[1].contents.bytes_contents.__setitem__(0, b"{"), "sampling_parameters"),
    (lambda r: r.inputs[1].contents.bytes_contents.__setitem__(0, b'{"temperature": NaN}'), "sampling_parameters"),
    (lambda r: r.inputs[1].contents.bytes_contents.__setitem__(0, b'{"foo": 1}'), "sampling_parameters.foo"),
    (lambda r: r.inputs[1].contents.bytes_contents.__setitem__(0, b'{"n": 2}'), "sampling_parameters.n"),
    (lambda r: r.inputs[1].contents.bytes_contents.__setitem__(0, b'{"top_p": 0}'), "top_p"),
    (lambda r: r.inputs[1].contents.bytes_contents.__setitem__(0, b'{"logprobs": 1}'), "sampling_parameters.logprobs"),
    (lambda r: r.outputs.add(name="logits"), "logits"),
    (lambda r: bool_tensor(r, "stream", True, raw=False), "stream"),
    (lambda r: r.parameters["priority"].__setattr__("int64_param", 11), "priority"),
    (lambda r: r.parameters["priority"].__setattr__("string_param", "high"), "parameters.priority"),
    (lambda r: r.parameters["no_such"].__setattr__("bool_param", True), "parameters.no_such"),
    (lambda r: r.parameters["max_tokens"].__setattr__("int64_param", 2), "parameters.max_tokens"),  # twice
    (lambda r: r.parameters["timeout"].__setattr__("int64_param", 0), "parameters.timeout"),
    (lambda r: r.parameters["seed"].SetInParent(), "parameters.seed"),
    (lambda r: r.inputs[0].parameters["x"].__setattr__("int64_param", 1), "inputs.text_input.parameters.x"),
    (lambda r: r.outputs.add(name="text_output").parameters["classification"].__setattr__("int64_param", 3),
     "outputs.text_output.parameters.classification"),
    (lambda r: setattr(r, "model_name", "nope"), "model"),
    (lambda r: setattr(r, "model_version", "7"), "model_version"),
    (lambda r: setattr(r, "id", "a\n"), "request_id"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "field"), OIP_BAD, ids=range(len(OIP_BAD)))
async def test_oip_bad_input(rig, channel, change, field):
    """A status that begins with the tensor's or field's name."""
    request = infer(raw=False)
    change(request)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await oip_rpc.GRPCInferenceServiceStub(channel).ModelInfer(request)
    assert caught.value.code().name in ("INVALID_ARGUMENT", "NOT_FOUND")
    assert caught.value.details().startswith(field)


@pytest.mark.parametrize("raw", [b"\x05", b"\x05\x00\x00\x00ab", b"\xff\xff\xff\xff", b"", b"\x01\x00\x00\x00a\x01"])
async def test_oip_broken_raw_contents(rig, channel, raw):
    """Lengths that lie."""
    request = infer(raw=True)
    request.raw_input_contents[0] = raw
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await oip_rpc.GRPCInferenceServiceStub(channel).ModelInfer(request)
    assert caught.value.details().startswith("text_input")
