"""The Open Inference Protocol over HTTP: the same answers as over gRPC, in JSON, in binary form, and by generate."""

import json
import struct

import aiohttp
import grpc
import pytest
from router_kit import answer_of, decode, encode, events_of
from waiting import eventually

IDS = answer_of(encode("hello"), 8)
TEXT = decode(IDS)
HELLO = {"name": "text_input", "shape": [1], "datatype": "BYTES", "data": ["hello"]}
EIGHT = {"name": "sampling_parameters", "shape": [1], "datatype": "BYTES", "data": ['{"max_tokens": 8}']}
ALONE = {"name": "exclude_input_in_output", "shape": [1], "datatype": "BOOL", "data": [True]}
M = "/v2/models/m"
LENGTH = "Inference-Header-Content-Length"


async def asked(rig, path, status=200, headers=None, **body):
    response, raw = await rig.post(path, body, headers=headers)
    assert response.status == status, raw
    return json.loads(raw)


async def told(rig, path, status=200):
    response, raw = await rig.get(path)
    assert response.status == status, raw
    return json.loads(raw)


async def test_server_and_models_are_told_of(rig):
    assert await told(rig, "/v2/health/live") == {"live": True}
    assert await told(rig, "/v2/health/ready") == {"ready": True}
    server = await told(rig, "/v2")
    assert server["name"] == "argosy"
    assert {"binary_tensor_data", "generate", "model_configuration", "statistics"} <= set(server["extensions"])
    for model in (M, M + "/versions/1"):
        metadata = await told(rig, model)
        assert (metadata["name"], metadata["versions"], metadata["platform"]) == ("m", ["1"], "argosy")
        assert {"name": "input_ids", "datatype": "INT64", "shape": [-1]} in metadata["inputs"]
        assert metadata["outputs"][0] == {"name": "text_output", "datatype": "BYTES", "shape": [-1]}
        assert await told(rig, model + "/ready") == {"name": "m", "ready": True}
        config = await told(rig, model + "/config")
        assert (config["name"], config["max_batch_size"]) == ("m", 0)
        assert config["model_transaction_policy"] == {"decoupled": True}
        assert {"name": "text_input", "data_type": "TYPE_STRING", "dims": [1]}.items() <= config["input"][0].items()
    async with rig.http.post(rig.base + "/v2/repository/index") as response:  # without a body, as Triton's client
        assert await response.json() == [{"name": "m", "version": "1", "state": "READY", "reason": ""}]
    assert [model["name"] for model in await asked(rig, "/v2/repository/index", ready=True)] == ["m"]


@pytest.mark.parametrize("tail", ["", "/ready", "/config", "/stats", "/versions/2", "/versions/2/ready"])
async def test_what_is_not_served_is_not_found(rig, tail):
    model = M if "versions" in tail else "/v2/models/nope"
    found = await told(rig, model + tail, 404)
    assert found.keys() == {"error"}
    assert "nope" in found["error"] or "version" in found["error"]


async def test_a_model_without_a_worker_is_not_ready(rig):
    rig.cluster.announce()
    await eventually(lambda: not rig.state.workers)
    assert "no worker" in (await told(rig, M + "/ready", 503))["error"]
    (found,) = await asked(rig, "/v2/repository/index")
    assert (found["state"], await asked(rig, "/v2/repository/index", ready=True)) == ("UNAVAILABLE", [])


async def test_statistics_count_what_ended(rig):
    await asked(rig, M + "/generate", text_input="hello")
    for path in (M + "/stats", "/v2/models/stats"):
        (found,) = (await told(rig, path))["model_stats"]
        assert (found["name"], found["inference_count"], found["inference_stats"]["success"]["count"]) == ("m", 1, 1)


# --- infer


async def test_infer_in_json(rig):
    answer = await asked(rig, M + "/infer", id="7", inputs=[HELLO, EIGHT, ALONE])
    assert answer == {
        "model_name": "m",
        "model_version": "1",
        "id": "7",
        "outputs": [
            {"name": "text_output", "datatype": "BYTES", "shape": [1], "data": [TEXT]},
            {"name": "output_ids", "datatype": "INT64", "shape": [8], "data": IDS},
        ],
    }


async def test_the_prompt_stands_before_the_answer_unless_it_is_excluded(rig):
    answer = await asked(rig, M + "/versions/1/infer", inputs=[HELLO, EIGHT], outputs=[{"name": "text_output"}])
    assert [output["data"] for output in answer["outputs"]] == [["hello" + TEXT]]


@pytest.mark.parametrize("data", [encode("hello"), [encode("hello")], [[token] for token in encode("hello")]])
async def test_token_ids_flat_or_nested(rig, data):
    ids = {"name": "input_ids", "shape": [1, 5], "datatype": "INT32", "data": data}
    answer = await asked(rig, M + "/infer", inputs=[ids, ALONE], parameters={"max_tokens": 8})
    assert answer["outputs"][1]["data"] == IDS


def binary(name, datatype, shape, raw):
    return {"name": name, "datatype": datatype, "shape": shape, "parameters": {"binary_data_size": len(raw)}}, raw


def text_of(value):
    return struct.pack("<I", len(value)) + value


async def sent(rig, tensors, status=200, cut=0, length=None, **more):
    head = json.dumps({"inputs": [head for head, _ in tensors], **more}).encode()
    body = head + b"".join(raw for _, raw in tensors)
    headers = {LENGTH: str(len(head)) if length is None else length, "content-type": "application/octet-stream"}
    async with rig.http.post(rig.base + M + "/infer", data=body[: len(body) - cut], headers=headers) as response:
        raw = await response.read()
        assert response.status == status, raw
        return response, raw


async def test_binary_tensors_both_ways(rig):
    tensors = [
        binary("input_ids", "INT64", [1, 5], struct.pack("<5q", *encode("hello"))),
        binary("exclude_input_in_output", "BOOL", [1], b"\1"),
        (EIGHT, b""),
    ]
    outputs = [{"name": "output_ids", "parameters": {"binary_data": False}}, {"name": "text_output"}]
    response, raw = await sent(rig, tensors, outputs=outputs, parameters={"binary_data_output": True})
    size = int(response.headers[LENGTH])
    ids, text = json.loads(raw[:size])["outputs"]
    assert ids["data"] == IDS
    assert text["parameters"] == {"binary_data_size": len(raw) - size}
    assert raw[size:] == text_of(TEXT.encode())


HI_RAW = text_of(b"hello")


@pytest.mark.parametrize(
    ("tensors", "more", "said"),
    [
        ([binary("text_input", "BYTES", [1], HI_RAW)], {"cut": 1}, "inputs[0].parameters.binary_data_size"),
        ([binary("text_input", "BYTES", [1], HI_RAW), (EIGHT, b"x")], {}, "body"),
        ([binary("text_input", "BYTES", [1], b"\x09\0\0\0hello")], {}, "text_input"),
        ([binary("text_input", "BYTES", [1], text_of(b"\xff"))], {}, "text_input"),
        ([binary("text_input", "INT8", [1], b"x")], {}, "text_input"),
        ([binary("nonsense", "BYTES", [1], HI_RAW)], {}, "nonsense"),
        ([(HELLO, b"")], {"length": "many"}, "inference-header-content-length"),
        ([(HELLO, b"")], {"length": "99999"}, "inference-header-content-length"),
        ([(HELLO | {"parameters": {"binary_data_size": 0}}, b"")], {}, "inputs[0].data"),
    ],
)
async def test_binary_tensors_that_do_not_add_up_are_refused(rig, tensors, more, said):
    _, raw = await sent(rig, tensors, status=400, **more)
    assert json.loads(raw)["error"].startswith(said)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({}, "inputs"),
        ({"inputs": []}, "text_input"),
        ({"inputs": [HELLO, HELLO]}, "text_input"),
        ({"inputs": [HELLO, 5]}, "inputs[1]"),
        ({"inputs": [HELLO | {"name": "nonsense"}]}, "nonsense"),
        ({"inputs": [HELLO | {"datatype": "FP32"}]}, "text_input"),
        ({"inputs": [HELLO | {"shape": [2]}]}, "text_input"),
        ({"inputs": [HELLO | {"shape": ["a"]}]}, "inputs[0].shape"),
        ({"inputs": [HELLO | {"data": [5]}]}, "text_input"),
        ({"inputs": [HELLO | {"data": ["a", "b"]}]}, "text_input"),
        ({"inputs": [HELLO | {"data": ["\ud800"]}]}, "text_input"),
        ({"inputs": [HELLO | {"data": [[[[[[[[[["a"]]]]]]]]]]}]}, "text_input"),
        ({"inputs": [HELLO | {"parameters": {"binary_data_size": 5}}]}, "inputs[0].parameters.binary_data_size"),
        ({"inputs": [HELLO | {"parameters": {"shared_memory_region": "x"}}]}, "inputs[0].parameters.shared"),
        ({"inputs": [HELLO, ALONE | {"data": [1]}]}, "exclude_input_in_output"),
        ({"inputs": [HELLO, ALONE | {"name": "stream"}]}, "stream"),
        ({"inputs": [HELLO], "outputs": [{"name": "logits"}]}, "logits"),
        ({"inputs": [HELLO], "outputs": [{"name": "text_output"}] * 2}, "outputs"),
        ({"inputs": [HELLO], "outputs": [{"name": "text_output", "parameters": {"classification": 3}}]}, "outputs[0]"),
        ({"inputs": [HELLO], "parameters": {"temprature": 1}}, "parameters.temprature"),
        ({"inputs": [HELLO], "parameters": {"timeout": -1}}, "parameters.timeout"),
        ({"inputs": [HELLO], "parameters": {"binary_data_output": 3}}, "parameters.binary_data_output"),
        ({"inputs": [HELLO], "sequence": 1}, "sequence"),
        ({"inputs": [{"name": "input_ids", "shape": [1], "datatype": "INT64", "data": [10**20]}]}, "input_ids"),
        ({"inputs": [{"name": "input_ids", "shape": [1], "datatype": "INT64", "data": [True]}]}, "input_ids"),
    ],
)  # fmt: skip
async def test_what_cannot_be_is_refused_by_name(rig, body, said):
    found = await asked(rig, M + "/infer", 400, **body)
    assert found["error"].startswith(said), found


# --- generate


async def test_generate(rig):
    for parameters in ({"max_tokens": 8, "exclude_input_in_output": True}, {"max_tokens": "8", "stream": False}):
        answer = await asked(rig, M + "/generate", id="x", text_input="hello", parameters=parameters)
        text = TEXT if "exclude_input_in_output" in parameters else "hello" + TEXT
        assert answer == {"model_name": "m", "model_version": "1", "id": "x", "text_output": text}
    answer = await asked(
        rig, M + "/generate", input_ids=encode("hello"), sampling_parameters={"max_tokens": 8},
        exclude_input_in_output=True,
    )  # fmt: skip
    assert answer["text_output"] == TEXT


@pytest.mark.parametrize("echo", [False, True])
async def test_generate_stream(rig, echo):
    body = {"text_input": "hello", "stream": True, "parameters": {"max_tokens": 8}}
    if echo:
        body["exclude_input_in_output"] = False
    response, raw = await rig.post(M + "/generate_stream", body)
    assert response.headers["content-type"].startswith("text/event-stream")
    events = events_of(raw)
    assert len(events) > 2
    assert "".join(event["text_output"] for event in events) == "hello" * echo + TEXT
    assert {(event["model_name"], event["model_version"]) for event in events} == {("m", "1")}


async def test_a_stream_that_fails_ends_with_the_error(rig):
    """And is cut, so that no tool takes it for whole."""
    for worker in rig.workers:
        worker.script.abort_after = 3
    body = {"text_input": "hello", "parameters": {"max_tokens": 8}}
    raw = b""
    async with rig.http.post(f"{rig.base}{M}/generate_stream", json=body) as response:
        try:
            async for piece in response.content.iter_any():
                raw += piece
        except aiohttp.ClientPayloadError:
            raw += b"data: [CUT]"
    raw, _, cut = raw.rpartition(b"data: ")
    assert cut == b"[CUT]"
    assert events_of(raw)[-1].keys() == {"error"}


@pytest.mark.parametrize(
    ("path", "body", "said"),
    [
        ("generate", {}, "text_input"),
        ("generate", {"text_input": 5}, "text_input"),
        ("generate", {"text_input": "a", "input_ids": [1]}, "text_input"),
        ("generate", {"text_input": "a", "stream": True}, "stream"),
        ("generate_stream", {"text_input": "a", "parameters": {"stream": False}}, "stream"),
        ("generate", {"text_input": "a", "stream": False, "parameters": {"stream": True}}, "parameters.stream"),
        ("generate", {"text_input": "a", "max_tokens": 5}, "max_tokens"),
        ("generate", {"text_input": "a", "parameters": {"max_tokens": "many"}}, "parameters.max_tokens"),
        ("generate", {"text_input": "a", "sampling_parameters": "{"}, "sampling_parameters"),
        ("generate", {"text_input": "x" * 5000}, "text_input"),
        ("generate", {"input_ids": [99999]}, "input_ids"),
    ],
)
async def test_what_generate_cannot_do_is_refused_by_name(rig, path, body, said):
    assert (await asked(rig, f"{M}/{path}", 400, **body))["error"].startswith(said)


async def test_a_request_that_takes_longer_than_its_timeout_ends(rig):
    for worker in rig.workers:
        worker.script.hang = True
    found = await asked(rig, M + "/generate", 504, text_input="hello", parameters={"timeout": 100_000})
    assert "deadline" in found["error"]


async def test_a_workers_refusal_is_told_in_triton_s_form(rig):
    for worker in rig.workers:
        worker.script.fail_first = grpc.StatusCode.INVALID_ARGUMENT
    assert (await asked(rig, M + "/generate", 400, text_input="hello")).keys() == {"error"}
