"""Ollama's API, by its own Python client: chats, prompts, tools, options, what is served, and errors."""

import json
import time

import ollama
import pytest
import pytest_asyncio
from router_kit import Script, answer_of, decode, encode
from saying_kit import KNOWING, Saying

from argosy_api.errors import InvalidArgumentError
from argosy_router.fronts import ollama_parse

HI = {"role": "user", "content": "hi"}
RENDERED = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
CALLED = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Kiel"}}\n</tool_call>'


@pytest.fixture
def plain(rig):
    return rig, ollama.AsyncClient(host=rig.base)


@pytest_asyncio.fixture
async def saying(make_rig):
    worker = Saying(template=KNOWING, script=Script())
    rig = await make_rig()
    await rig.add(worker)
    return worker, ollama.AsyncClient(host=rig.base)


def requests_of(rig):
    return [request for worker in rig.workers for request in worker.requests]


async def both(client, **asked):
    """The message at once, and the one that a stream's pieces make."""
    whole = await client.chat(model="m", **{"messages": [HI], **asked})
    parts = [part async for part in await client.chat(model="m", **{"messages": [HI], **asked}, stream=True)]
    assert [part.done for part in parts] == [False] * (len(parts) - 1) + [True]
    message = whole.message
    assert "".join(part.message.content for part in parts) == message.content
    assert "".join(part.message.thinking or "" for part in parts) == (message.thinking or "")
    calls = [call for part in parts for call in part.message.tool_calls or []]
    assert calls == list(message.tool_calls or [])
    assert (parts[-1].done_reason, parts[-1].eval_count) == (whole.done_reason, whole.eval_count)
    return whole


async def test_a_chat(plain):
    """The template's prompt; what it took is told at the end, in nanoseconds."""
    rig, client = plain
    began = time.monotonic_ns()
    answer = await both(client, options={"num_predict": 30})
    took = time.monotonic_ns() - began
    assert answer.message.content == decode(answer_of(encode(RENDERED), 30))
    assert (answer.message.role, answer.model, answer.done_reason) == ("assistant", "m", "length")
    assert (answer.prompt_eval_count, answer.eval_count) == (len(encode(RENDERED)), 30)
    assert 0 < answer.prompt_eval_duration <= answer.total_duration < took
    assert answer.prompt_eval_duration + answer.eval_duration == pytest.approx(answer.total_duration, abs=2)
    assert {tuple(r.prompt_tokens) for r in requests_of(rig)} == {tuple(encode(RENDERED))}
    assert rig.idle()


async def test_a_prompt(plain):
    """Through the template with its system's text, or raw as it is."""
    rig, client = plain
    system = "<|im_start|>system\nBe kind.<|im_end|>\n"
    for asked, prompt in (
        ({}, RENDERED),
        ({"system": "Be kind."}, system + RENDERED),
        ({"raw": True}, "hi"),
    ):
        answer = await client.generate(model="m", prompt="hi", options={"num_predict": 12}, **asked)
        assert answer.response == decode(answer_of(encode(prompt), 12))
        stream = await client.generate(model="m", prompt="hi", options={"num_predict": 12}, stream=True, **asked)
        assert "".join([part.response async for part in stream]) == answer.response
        assert [tuple(r.prompt_tokens) for r in requests_of(rig)].count(tuple(encode(prompt))) == 2


async def test_it_streams_unless_it_is_told_not_to(plain):
    rig, _ = plain
    response, raw = await rig.post("/api/chat", {"model": "m", "messages": [HI], "options": {"num_predict": 5}})
    assert response.headers["content-type"] == "application/x-ndjson"
    lines = [json.loads(line) for line in raw.splitlines()]
    assert [line["done"] for line in lines] == [False] * (len(lines) - 1) + [True]
    response, raw = await rig.post(
        "/api/chat", {"model": "m", "messages": [HI], "options": {"num_predict": 5}, "stream": False}
    )
    assert response.headers["content-type"].startswith("application/json")
    assert json.loads(raw)["done"] is True


async def test_what_ends_a_line_in_unicode_ends_none_of_a_stream(saying):
    """The client splits there what it reads."""
    worker, client = saying
    worker.text = "It\u2028rains\u2029in\x85Kiel."
    assert (await both(client)).message.content == worker.text


async def test_options_become_parameters(plain):
    rig, client = plain
    await client.chat(model="m", messages=[HI], options={"num_predict": 2})
    sampling = requests_of(rig)[-1].sampling
    assert (sampling.temperature, sampling.top_k, sampling.top_p, sampling.max_tokens) == (0.8, 40, 0.9, 2)
    options = {
        "temperature": 0.5, "top_k": 7, "top_p": 0.6, "min_p": 0.1, "typical_p": 0.7, "repeat_penalty": 1.2, "seed": 3,
        "presence_penalty": 0.3, "frequency_penalty": 0.4, "num_predict": 3, "stop": ["END"], "repeat_last_n": -1,
    }  # fmt: skip
    await client.chat(model="m", messages=[HI], options=options)
    sampling = requests_of(rig)[-1].sampling
    assert (sampling.temperature, sampling.top_k, sampling.top_p, sampling.min_p, sampling.typical_p) == (
        0.5, 7, 0.6, 0.1, 0.7,
    )  # fmt: skip
    assert (sampling.repetition_penalty, sampling.presence_penalty, sampling.frequency_penalty) == (1.2, 0.3, 0.4)
    assert (sampling.seed, sampling.max_tokens, list(sampling.stop)) == (3, 3, ["END"])
    for asked in ({}, {"num_predict": -1}, {"num_predict": -2}):
        await client.chat(model="m", messages=[HI], options=asked)
        assert requests_of(rig)[-1].sampling.max_tokens == 4096 - len(encode(RENDERED)), "what the context leaves"
    response, _ = await rig.post(
        "/api/chat",
        {"model": "m", "messages": [HI], "options": {"num_ctx": 2048, "num_predict": 1}, "keep_alive": "5m"},
    )
    assert response.headers["x-argosy-ignored"] == "options.num_ctx, keep_alive"


async def test_tools_and_their_results(saying):
    worker, client = saying
    worker.text = "One moment." + CALLED + CALLED
    answer = await both(client, tools=[TOOL])
    assert answer.message.content == "One moment."
    assert [(c.function.name, c.function.arguments) for c in answer.message.tool_calls] == [
        ("get_weather", {"city": "Kiel"})
    ] * 2
    worker.text = "It rains."
    asked = [HI, answer.message, {"role": "tool", "tool_name": "get_weather", "content": "rain"}]
    answer = await both(client, messages=asked, tools=[TOOL])
    assert (answer.message.content, answer.message.tool_calls) == ("It rains.", None)
    prompt = decode(list(worker.requests[-1].prompt_tokens))
    assert 'assistant: One moment.<tool_call>get_weather {"city": "Kiel"}' in prompt
    assert "tool: rain" in prompt


async def test_a_function_of_the_callers_own_as_a_tool(saying):
    """The client makes the schema out of its signature."""

    def get_weather(city: str) -> str:
        """The weather.

        Args:
            city: Of which city.

        """
        return city

    worker, client = saying
    worker.text = CALLED
    answer = await client.chat(model="m", messages=[HI], tools=[get_weather])
    assert answer.message.tool_calls[0].function.arguments == {"city": "Kiel"}
    assert '"description": "Of which city."' in decode(list(worker.requests[-1].prompt_tokens))


async def test_thinking_is_told_apart(saying):
    worker, client = saying
    worker.text = "Hm, Kiel.</think>\n\nIt rains."
    answer = await both(client, think=True)
    assert (answer.message.thinking, answer.message.content) == ("Hm, Kiel.", "It rains.")
    answer = await client.generate(model="m", prompt="hi", think=True)
    assert (answer.thinking, answer.response) == ("Hm, Kiel.", "It rains.")
    worker.text = "It rains."
    answer = await both(client, think=False)
    assert (answer.message.thinking, answer.message.content) == (None, "It rains.")


async def test_an_answer_keeps_to_a_format(saying):
    worker, client = saying
    worker.text = '{"a": 1}'
    schema = {
        "type": "object",
        "properties": {"a": {"type": "integer"}},
        "required": ["a"],
        "additionalProperties": False,
    }
    await both(client, format=schema)
    assert json.loads(worker.requests[-1].constraint) == {"json_schema": schema}
    await client.generate(model="m", prompt="hi", format="json")
    assert json.loads(worker.requests[-1].constraint)["json_schema"]["type"] == "object"


async def test_log_probabilities(plain):
    _, client = plain
    asked = {"options": {"num_predict": 6}, "logprobs": True, "top_logprobs": 2}
    answer = await client.chat(model="m", messages=[HI], **asked)
    assert [len(entry.top_logprobs) for entry in answer.logprobs] == [2] * 6
    stream = await client.chat(model="m", messages=[HI], stream=True, **asked)
    told = [entry async for part in stream for entry in part.logprobs or ()]
    assert told == list(answer.logprobs)


async def test_what_is_served(plain):
    rig, client = plain
    (listed,) = (await client.list()).models
    assert (listed.model, listed.details.family, listed.details.quantization_level) == ("m", "fake", "none")
    assert abs(listed.modified_at.timestamp() - time.time()) < 120
    assert listed.digest == rig.workers[0].fingerprint
    (running,) = (await client.ps()).models
    assert (running.model, running.context_length) == ("m", 4096)
    shown = await client.show("m:latest")
    assert shown.modelinfo["fake.context_length"] == 4096
    assert shown.capabilities == ["completion", "tools"]
    _, raw = await rig.get("/api/version")
    assert set(json.loads(raw)) == {"version"}


async def test_a_name_may_have_the_tag_that_clients_put_there(plain):
    _, client = plain
    answer = await client.chat(model="m:latest", messages=[HI], options={"num_predict": 2})
    assert answer.eval_count == 2
    with pytest.raises(ollama.ResponseError, match="'another' is not served here; served are: m"):
        await client.chat(model="another:latest", messages=[HI])


async def test_who_asks_for_nothing_finds_the_model_loaded(plain):
    rig, client = plain
    answer = await client.generate(model="m", keep_alive="10m")
    assert (answer.done, answer.done_reason, answer.response) == (True, "load", "")
    answer = await client.chat(model="m", messages=[])
    assert (answer.done, answer.done_reason, answer.message.content) == (True, "load", "")
    assert not requests_of(rig)
    with pytest.raises(ollama.ResponseError) as caught:
        await client.generate(model="another")
    assert caught.value.status_code == 404


async def test_errors_are_the_clients_own(plain):
    rig, client = plain
    with pytest.raises(ollama.ResponseError, match=r"options\.temperature: is -1") as caught:
        await client.chat(model="m", messages=[HI], options={"temperature": -1})
    assert caught.value.status_code == 400
    with pytest.raises(ollama.ResponseError, match=r"options\.stop: has 17"):
        await client.chat(model="m", messages=[HI], options={"stop": ["x"] * 17})
    with pytest.raises(ollama.ResponseError, match="/api/pull: Not Found"):
        await client.pull("m")
    response, raw = await rig.post("/api/chat", data=b"{")
    assert (response.status, set(json.loads(raw))) == (400, {"error"})
    for worker in rig.workers:
        worker.script.abort_after = 3
    with pytest.raises(ollama.ResponseError, match="3 tokens"):
        async for _ in await client.chat(model="m", messages=[HI], stream=True):
            pass


# --- requests


def said(**message):
    return {"messages": [{"role": "user", "content": "hi", **message}]}


@pytest.mark.parametrize(
    ("parse", "fields", "field"),
    [
        ("chat", {"model": ""}, "model"), ("chat", {"messages": "hi"}, "messages"), ("chat", {"messages": ["hi"]}, "messages[0]"),
        ("chat", said(role="developer"), "messages[0].role"), ("chat", said(content=5), "messages[0].content"),
        ("chat", said(images=["x"]), "messages[0].images"), ("chat", said(name="x"), "messages[0].name"),
        ("chat", said(role="assistant", tool_calls=[{}]), "messages[0].tool_calls[0].function"),
        ("chat", {"options": 5}, "options"), ("chat", {"options": {"temprature": 1}}, "options.temprature"),
        ("chat", {"options": {"num_predict": 0}}, "options.num_predict"), ("chat", {"options": {"mirostat": 2}}, "options.mirostat"),
        ("chat", {"options": {"repeat_penalty": 1.1, "repeat_last_n": 64}}, "options.repeat_last_n"),
        ("chat", {"options": {"penalize_newline": False}}, "options.penalize_newline"), ("chat", {"options": {"stop": [1]}}, "options.stop[0]"),
        ("chat", {"think": "high"}, "think"), ("chat", {"format": "xml"}, "format"), ("chat", {"format": {"not": {}}}, "format.not"),
        ("chat", {"format": "json", "tools": [TOOL]}, "format"), ("chat", {"stream": "yes"}, "stream"), ("chat", {"prompt": "x"}, "prompt"),
        ("chat", {"top_logprobs": 21}, "top_logprobs"), ("generate", {"prompt": 5}, "prompt"), ("generate", {"suffix": "x"}, "suffix"),
        ("generate", {"template": "x"}, "template"), ("generate", {"context": [1]}, "context"), ("generate", {"images": ["x"]}, "images"),
        ("generate", {"raw": True, "system": "x"}, "system"), ("generate", {"raw": True, "think": True}, "think"),
        ("generate", {"system": "\ud800"}, "system"), ("show", {"what": 1}, "what"),
    ],
    ids=lambda v: str(v)[:60],
)  # fmt: skip
def test_what_is_wrong_is_named(parse, fields, field):
    with pytest.raises(InvalidArgumentError) as caught:
        getattr(ollama_parse, parse)({"model": "m", **fields})
    assert caught.value.field == field


def test_options_that_say_how_a_model_is_loaded_change_nothing():
    request = ollama_parse.chat(
        {"model": "m", "messages": [HI], "options": {"num_gpu": 1, "use_mmap": True, "repeat_last_n": 64}}
    )
    assert request.ignored == ("options.repeat_last_n", "options.num_gpu", "options.use_mmap")
    assert request.ask().fill_context
    assert ollama_parse.generate({"model": "m", "prompt": "x", "raw": True}).ask().fill_context
