"""tritonclient by gRPC and HTTP: what its examples and tools ask, and what Triton's sample client for vLLM sends."""

import asyncio
import atexit
import json
import queue

import numpy as np
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
import tritonclient.http as triton_http

import kit
from kit import GRPC, HTTP, MODEL

PROMPTS = ("The capital of France is", "Once upon a time", "Ships float because")
SAMPLING = {"temperature": "0.1", "top_p": "0.95", "max_tokens": "20", "seed": "1"}


def tensor(kind, name, value, datatype):
    made = kind(name, [1], datatype)
    made.set_data_from_numpy(np.array([value], dtype=np.object_ if datatype == "BYTES" else bool))
    return made


def inputs(text, *, stream, sampling, exclude=None, kind=triton.InferInput):
    made = [tensor(kind, "text_input", text.encode(), "BYTES"), tensor(kind, "stream", stream, "BOOL")]
    made.append(tensor(kind, "sampling_parameters", json.dumps(sampling).encode(), "BYTES"))
    if exclude is not None:
        made.append(tensor(kind, "exclude_input_in_output", exclude, "BOOL"))
    return made


def opened(client):
    """The client, closed before Python ends: one that is open then may wait for ever (docs/clients.md)."""
    atexit.register(client.close)
    return client


def text_of(result):
    text = result.as_numpy("text_output")[0]
    return text if isinstance(text, str) else text.decode()  # out of JSON it is one already


def check_what_tools_ask_first():
    client = opened(triton.InferenceServerClient(GRPC))
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(MODEL)
    assert client.get_server_metadata().name == "argosy"
    metadata = client.get_model_metadata(MODEL)
    config = client.get_model_config(MODEL).config
    assert [i.name for i in config.input] == [i.name for i in metadata.inputs]
    assert config.model_transaction_policy.decoupled
    assert [(m.name, m.state) for m in client.get_model_repository_index().models] == [(MODEL, "READY")]
    before = client.get_inference_statistics(MODEL).model_stats[0].inference_count
    client.infer(MODEL, inputs(PROMPTS[0], stream=False, sampling={"max_tokens": 2}))
    assert client.get_inference_statistics(MODEL).model_stats[0].inference_count == before + 1


def check_infer_and_decoupled_stream():
    client = opened(triton.InferenceServerClient(GRPC))
    sampling = {"max_tokens": 20, "temperature": 0}
    whole = text_of(client.infer(MODEL, inputs(PROMPTS[0], stream=False, sampling=sampling, exclude=True)))
    assert whole.strip()
    answers = queue.Queue()
    client.start_stream(callback=lambda result, error: answers.put((result, error)))
    client.async_stream_infer(
        MODEL,
        inputs(PROMPTS[0], stream=True, sampling=sampling),
        request_id="1",
        enable_empty_final_response=True,
    )
    text, final = "", False
    while not final:
        result, error = answers.get(timeout=60)
        assert error is None, error
        response = result.get_response()
        text += text_of(result) if len(response.outputs) else ""
        final = response.parameters["triton_final_response"].bool_param
    client.stop_stream()
    assert text == whole


async def sample(*, stream, exclude):
    """As the sample client: one stream for all prompts; sampling as a tensor and as parameters, texts all of them."""
    found = {str(i): [] for i in range(len(PROMPTS))}

    async def requests():
        for i, prompt in enumerate(PROMPTS):
            yield {
                "model_name": MODEL,
                "inputs": inputs(prompt, stream=stream, sampling=SAMPLING, exclude=exclude, kind=triton_aio.InferInput),
                "outputs": [triton_aio.InferRequestedOutput("text_output")],
                "request_id": str(i),
                "parameters": SAMPLING,
            }

    async with triton_aio.InferenceServerClient(GRPC) as client:
        async for result, error in client.stream_infer(requests(), stream_timeout=120):
            assert error is None, error
            found[result.get_response().id].append(text_of(result))
    return found


async def check_the_sample_client():
    """Whole and streamed, with the prompt and without: the same texts."""
    with_prompt = await sample(stream=False, exclude=False)
    assert [len(pieces) for pieces in with_prompt.values()] == [1] * len(PROMPTS)
    for stream, exclude in ((False, None), (True, False)):
        told = await sample(stream=stream, exclude=exclude)
        assert {k: "".join(v) for k, v in told.items()} == {k: v[0] for k, v in with_prompt.items()}, (stream, exclude)
        assert all(len(pieces) > 3 for pieces in told.values()) == stream
    for stream, exclude in ((False, True), (True, None), (True, True)):
        told = await sample(stream=stream, exclude=exclude)
        for prompt, pieces, before in zip(PROMPTS, told.values(), with_prompt.values(), strict=True):
            assert prompt + "".join(pieces) == before[0], (stream, exclude)


async def check_a_stream_that_is_cancelled():
    async with triton_aio.InferenceServerClient(GRPC) as client:

        async def requests():
            yield {
                "model_name": MODEL,
                "inputs": inputs("Once", stream=True, sampling={"max_tokens": 400, "ignore_eos": True}),
            }

        stream = client.stream_infer(requests())
        async for _result, error in stream:
            assert error is None, error
            break
        stream.cancel()
        await asyncio.sleep(0)
        assert await client.is_server_live()


def check_what_tools_ask_over_http():
    client = opened(triton_http.InferenceServerClient(HTTP.removeprefix("http://")))
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(MODEL)
    assert client.is_model_ready(MODEL, "1")
    assert not client.is_model_ready("nope")
    assert client.get_server_metadata()["name"] == "argosy"
    metadata, config = client.get_model_metadata(MODEL), client.get_model_config(MODEL)
    assert [i["name"] for i in config["input"]] == [i["name"] for i in metadata["inputs"]]
    assert [(m["name"], m["state"]) for m in client.get_model_repository_index()] == [(MODEL, "READY")]
    assert client.get_inference_statistics(MODEL)["model_stats"][0]["inference_count"] >= 0


def check_infer_over_http_is_infer_over_grpc():
    """Binary and JSON, both ways, compressed or not."""
    client = opened(triton_http.InferenceServerClient(HTTP.removeprefix("http://")))
    sampling = {"max_tokens": 20, "temperature": 0}
    wanted = text_of(
        opened(triton.InferenceServerClient(GRPC)).infer(MODEL, inputs(PROMPTS[0], stream=False, sampling=sampling))
    )
    for binary in (True, False):
        text = triton_http.InferInput("text_input", [1], "BYTES")
        text.set_data_from_numpy(np.array([PROMPTS[0].encode()], dtype=np.object_), binary_data=binary)
        for outputs in (None, [triton_http.InferRequestedOutput("text_output", binary_data=not binary)]):
            for packed in (None, "gzip"):
                answer = client.infer(
                    MODEL, [text], outputs=outputs, parameters=sampling, request_compression_algorithm=packed
                )
                assert text_of(answer) == wanted, (binary, outputs, packed)
    said = ""
    try:
        client.infer("nope", [text])
    except triton_http.InferenceServerException as error:
        said = error.message()
    assert "nope" in said


if __name__ == "__main__":
    kit.run(globals())
