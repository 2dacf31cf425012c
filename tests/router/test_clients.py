"""Real clients: openai in this process, tritonclient in its own (its protobuf has the names of ours)."""

import asyncio
import json
import sys

import openai
import pytest
import pytest_asyncio
from router_kit import answer_of, decode, encode

CHAT = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"


@pytest_asyncio.fixture
async def client(rig):
    async with openai.AsyncOpenAI(base_url=rig.base + "/v1", api_key="none", max_retries=0) as made:
        yield made


async def test_openai_whole_and_streamed(client):
    """Models, completions and chat, whole and streamed, with usage."""
    assert [m.id async for m in client.models.list()] == ["m"]
    assert (await client.models.retrieve("m")).id == "m"
    answer = await client.completions.create(model="m", prompt="hello", max_tokens=8, temperature=0)
    assert answer.choices[0].text == decode(answer_of(encode("hello"), 8))
    chat = await client.chat.completions.create(model="m", messages=[{"role": "user", "content": "hi"}], max_tokens=8)
    assert chat.choices[0].message.content == decode(answer_of(encode(CHAT), 8))
    stream = await client.chat.completions.create(
        model="m",
        messages=[{"role": "user", "content": "hi"}],
        max_tokens=30,
        stream=True,
        stream_options={"include_usage": True},
    )
    text, usage = "", None
    async for chunk in stream:
        text += "".join(c.delta.content or "" for c in chunk.choices)
        usage = chunk.usage or usage
    assert text == decode(answer_of(encode(CHAT), 30))
    assert (usage.completion_tokens, usage.prompt_tokens) == (30, len(encode(CHAT)))
    assert usage.prompt_tokens_details.cached_tokens >= 0


async def test_openai_extensions_and_logprobs(client):
    """vLLM's extensions go through extra_body; log-probabilities come as objects."""
    answer = await client.completions.create(
        model="m",
        prompt="hello",
        max_tokens=4,
        logprobs=2,
        extra_body={"top_k": 3, "return_token_ids": True, "ignore_eos": True},
    )
    assert answer.choices[0].token_ids == answer_of(encode("hello"), 4)
    assert len(answer.choices[0].logprobs.tokens) == 4
    chat = await client.chat.completions.create(
        model="m", messages=[{"role": "user", "content": "hi"}], max_tokens=4, logprobs=True, top_logprobs=2
    )
    assert [len(t.top_logprobs) for t in chat.choices[0].logprobs.content] == [2] * 4


async def test_openai_errors(rig, client):
    """The client raises what the API's own errors raise."""
    with pytest.raises(openai.NotFoundError, match="served are: m"):
        await client.completions.create(model="nope", prompt="x")
    with pytest.raises(openai.BadRequestError) as caught:
        await client.completions.create(model="m", prompt="x", temperature=-1)
    assert caught.value.param == "temperature"
    for worker in rig.workers:
        worker.script.abort_after = 3
    stream = await client.completions.create(model="m", prompt="x", stream=True)
    with pytest.raises(openai.APIError, match="3 tokens"):
        async for _ in stream:
            pass


TRITON = r"""
import json, queue, sys
import numpy as np
import tritonclient.grpc as triton

client = triton.InferenceServerClient(sys.argv[1])
assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("m")
metadata = client.get_model_metadata("m", as_json=True)
assert metadata["name"] == "m", metadata

def tensor(name, value, datatype):
    made = triton.InferInput(name, [1], datatype)
    made.set_data_from_numpy(np.array([value], dtype=np.object_ if datatype == "BYTES" else bool))
    return made

def inputs(text, stream, sampling):
    return [
        tensor("text_input", text.encode(), "BYTES"), tensor("stream", stream, "BOOL"),
        tensor("sampling_parameters", json.dumps(sampling).encode(), "BYTES"),
        tensor("exclude_input_in_output", True, "BOOL"),
    ]

whole = client.infer("m", inputs("hello", False, {"max_tokens": 8}), outputs=[triton.InferRequestedOutput("text_output")])
answers = queue.Queue()
client.start_stream(callback=lambda result, error: answers.put((result, error)))
client.async_stream_infer("m", inputs("hello", True, {"max_tokens": 30}), request_id="1", enable_empty_final_response=True)
text = ""
while True:
    result, error = answers.get(timeout=20)
    assert error is None, error
    response = result.get_response()
    if len(response.outputs):
        text += result.as_numpy("text_output")[0].decode()
    if response.parameters["triton_final_response"].bool_param:
        break
client.async_stream_infer("m", inputs("hello", True, {"max_tokens": -1}), request_id="2")
_, error = answers.get(timeout=20)
client.stop_stream()
try:
    client.infer("nope", inputs("x", False, {}))
except triton.InferenceServerException as unknown:
    missing = unknown.status()
print(json.dumps([whole.as_numpy("text_output")[0].decode(), text, str(error), missing]))
"""


async def test_tritonclient(rig):
    """Infer, and a decoupled stream with its final answer and its errors."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", TRITON, f"127.0.0.1:{rig.router.grpc_port}",
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, err.decode()[-2000:]
    whole, text, error, missing = json.loads(out)
    assert whole == decode(answer_of(encode("hello"), 8))
    assert text == decode(answer_of(encode("hello"), 30))
    assert "max_tokens" in error
    assert missing == "StatusCode.NOT_FOUND"
