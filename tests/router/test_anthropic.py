"""Anthropic's messages, by its own SDK: whole and streamed, tools and their results, thinking, counts and errors."""

import json

import anthropic
import pytest
import pytest_asyncio
from router_kit import FakeWorker, Script, answer_of, decode, encode
from saying_kit import KNOWING, Saying

from argosy_api.errors import InvalidArgumentError
from argosy_router.fronts import anthropic_parse

HI = {"role": "user", "content": "hi"}
WEATHER = {
    "name": "get_weather",
    "description": "The weather of a city.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
CALLED = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Kiel"}}\n</tool_call>'


def client_of(rig):
    return anthropic.AsyncAnthropic(base_url=rig.base, api_key="none", max_retries=0)


@pytest_asyncio.fixture
async def plain(rig):
    async with client_of(rig) as client:
        yield rig, client


@pytest_asyncio.fixture
async def saying(make_rig):
    worker = Saying(template=KNOWING, script=Script())
    rig = await make_rig()
    await rig.add(worker)
    async with client_of(rig) as client:
        yield worker, client


async def both(client, **asked):
    """The message of a whole answer and of a stream, which are the same but for their ids."""
    asked = {"model": "m", "max_tokens": 30, "messages": [HI], **asked}
    whole = await client.messages.create(**asked)
    async with client.messages.stream(**asked) as stream:
        streamed = await stream.get_final_message()

    def told(message):
        found = message.to_dict(exclude_none=True)
        found.pop("id")
        for block in found["content"]:
            block.pop("id", None)
        return found

    first, second = told(whole), told(streamed)
    first.pop("usage"), second.pop("usage")
    assert first == second
    return whole, streamed


# --- through the router


async def test_a_message_and_its_system(plain):
    rig, client = plain
    rendered = "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    for system in ("Be kind.", [{"type": "text", "text": "Be kind.", "cache_control": {"type": "ephemeral"}}]):
        whole, streamed = await both(client, system=system)
        assert whole.content[0].text == decode(answer_of(encode(rendered), 30))
        assert (whole.stop_reason, whole.role, whole.model) == ("max_tokens", "assistant", "m")
        for message in (whole, streamed):
            usage = message.usage
            assert usage.input_tokens + usage.cache_read_input_tokens == len(encode(rendered))
            assert usage.output_tokens == 30
    assert {tuple(r.prompt_tokens) for w in rig.workers for r in w.requests} == {tuple(encode(rendered))}
    assert rig.idle()


async def test_the_events_of_a_stream(plain):
    _, client = plain
    stream = await client.messages.create(model="m", max_tokens=4, messages=[HI], stream=True)
    kinds = [event.type async for event in stream]
    assert kinds[:2] == ["message_start", "content_block_start"]  # the SDK keeps pings to itself
    assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    assert set(kinds[2:-3]) == {"content_block_delta"}


async def test_what_was_cached_is_counted_apart(saying):
    worker, client = saying
    worker.text, worker.from_cache = "Yes.", 3
    whole, streamed = await both(client, system="A system's text, of more than three tokens.")
    for usage in (whole.usage, streamed.usage):
        assert (usage.cache_read_input_tokens, usage.cache_creation_input_tokens, usage.output_tokens) == (3, 0, 4)
    assert whole.usage.input_tokens == streamed.usage.input_tokens == len(worker.requests[0].prompt_tokens) - 3


async def test_why_it_ended(saying):
    worker, client = saying
    worker.text = "So far."
    whole, _ = await both(client, stop_sequences=["END", "STOP"])
    assert (whole.stop_reason, whole.stop_sequence) == ("end_turn", None)
    assert list(worker.requests[-1].sampling.stop) == ["END", "STOP"]
    worker.stop_reason = "STOP"
    whole, _ = await both(client, stop_sequences=["END", "STOP"])
    assert (whole.stop_reason, whole.stop_sequence) == ("stop_sequence", "STOP")
    worker.stop_reason, worker.cut = "", True
    whole, _ = await both(client)
    assert (whole.stop_reason, whole.stop_sequence) == ("max_tokens", None)


async def test_tools_and_their_results(saying):
    """Text and calls as blocks in their order; the SDK's own message goes back as it came."""
    worker, client = saying
    worker.text = "One moment." + CALLED + CALLED + "And?"
    whole, streamed = await both(client, tools=[WEATHER])
    for message in (whole, streamed):
        assert [block.type for block in message.content] == ["text", "tool_use", "tool_use", "text"]
        assert [block.input for block in message.content if block.type == "tool_use"] == [{"city": "Kiel"}] * 2
        assert len({block.id for block in message.content if block.type == "tool_use"}) == 2
        assert message.stop_reason == "tool_use"
    worker.text = "It rains."
    results = [
        {"type": "tool_result", "tool_use_id": block.id, "content": [{"type": "text", "text": "rain"}]}
        for block in whole.content
        if block.type == "tool_use"
    ]
    asked = [HI, whole.to_param(), {"role": "user", "content": [*results, {"type": "text", "text": "So?"}]}]
    await both(client, messages=asked, tools=[WEATHER])
    prompt = decode(list(worker.requests[-1].prompt_tokens))
    assert 'TOOLS [{"type": "function", "function": {"name": "get_weather"' in prompt
    call = '<tool_call>get_weather {"city": "Kiel"}'
    assert f"assistant: One moment.\nAnd?{call}{call}tool: raintool: rainuser: So?" in prompt


async def test_a_call_may_be_asked_for(saying):
    worker, client = saying
    worker.text = CALLED
    await both(
        client, tools=[WEATHER, {"name": "now", "input_schema": {"type": "object"}}], tool_choice={"type": "any"}
    )
    assert "tool1" in json.loads(worker.requests[-1].constraint)["grammar"]
    whole, _ = await both(client, tools=[WEATHER], tool_choice={"type": "tool", "name": "get_weather"})
    assert whole.content[0].name == "get_weather"
    whole, _ = await both(client, tools=[WEATHER], tool_choice={"type": "none"})
    assert whole.content[0].text == CALLED
    assert worker.requests[-1].constraint == ""


async def test_a_call_that_was_cut_off_has_no_input(saying):
    worker, client = saying
    worker.text, worker.cut = CALLED[:60], True
    message = await client.messages.create(model="m", max_tokens=60, messages=[HI], tools=[WEATHER])
    assert ([block.input for block in message.content], message.stop_reason) == ([{}], "max_tokens")


async def test_thinking_is_a_block_of_its_own(saying):
    worker, client = saying
    worker.text = "Hm, Kiel.</think>\n\nIt rains."
    whole, _ = await both(client, thinking={"type": "enabled", "budget_tokens": 1024})
    assert [(b.type, getattr(b, "thinking", None) or b.text) for b in whole.content] == [
        ("thinking", "Hm, Kiel."), ("text", "It rains."),
    ]  # fmt: skip
    again = [HI, whole.to_param(), HI]
    await both(client, messages=again, thinking={"type": "disabled"})
    assert "Hm, Kiel." not in decode(list(worker.requests[-1].prompt_tokens))  # this template leaves it out


async def test_an_answer_keeps_to_a_schema(saying):
    worker, client = saying
    worker.text = '{"a": 1}'
    schema = {
        "type": "object",
        "properties": {"a": {"type": "integer"}},
        "required": ["a"],
        "additionalProperties": False,
    }
    await both(client, output_config={"format": {"type": "json_schema", "schema": schema}})
    assert json.loads(worker.requests[-1].constraint) == {"json_schema": schema}


async def test_counts_are_those_of_the_prompt(saying):
    worker, client = saying
    worker.text = "Yes."
    asked = {"model": "m", "messages": [HI], "system": "Be kind.", "tools": [WEATHER]}
    counted = await client.messages.count_tokens(**asked)
    assert not worker.requests
    await client.messages.create(**asked, max_tokens=5)
    assert counted.input_tokens == len(worker.requests[-1].prompt_tokens)


async def test_errors_are_the_sdks_own(plain):
    rig, client = plain
    with pytest.raises(anthropic.NotFoundError, match="served are: m") as caught:
        await client.messages.create(model="another", max_tokens=5, messages=[HI])
    assert caught.value.body["type"] == "error"
    assert caught.value.body["error"]["type"] == "not_found_error"
    assert caught.value.request_id == caught.value.body["request_id"]
    with pytest.raises(anthropic.BadRequestError, match="max_tokens: is 0") as caught:
        await client.messages.create(model="m", max_tokens=0, messages=[HI])
    assert caught.value.body["error"]["type"] == "invalid_request_error"
    with pytest.raises(anthropic.BadRequestError, match="stop_sequences: has 17"):
        await client.messages.create(model="m", max_tokens=5, messages=[HI], stop_sequences=["x"] * 17)
    response, raw = await rig.get("/v1/messages/nothing")
    assert (response.status, json.loads(raw)["error"]["type"]) == (404, "not_found_error")
    response, raw = await rig.post("/v1/messages", data=b" " * (11 << 20))
    assert (response.status, json.loads(raw)["error"]["type"]) == (413, "request_too_large")
    for worker in rig.workers:
        worker.script.abort_after = 3
    with pytest.raises(anthropic.APIStatusError, match="3 tokens"):
        async for _ in await client.messages.create(model="m", max_tokens=20, messages=[HI], stream=True):
            pass


async def test_a_key_in_the_header_of_its_own_is_a_tenants(make_rig, tmp_path):
    from access_kit import Access

    access = Access(tmp_path)
    key = access.key("one")
    rig = await make_rig(**access.settings)
    await rig.add(FakeWorker(worker_id="w0"))
    asked = {"model": "m", "max_tokens": 2, "messages": [HI]}
    async with anthropic.AsyncAnthropic(base_url=rig.base, api_key=key, max_retries=0) as client:
        await client.messages.create(**asked)
    async with client_of(rig) as client:
        with pytest.raises(anthropic.AuthenticationError) as caught:
            await client.messages.create(**asked)
        assert caught.value.body["error"]["type"] == "authentication_error"


# --- requests


def parsed(**fields):
    return anthropic_parse.messages({"model": "m", "max_tokens": 5, "messages": [HI], **fields})


def said(content, role="user"):
    return {"messages": [{"role": role, "content": content}]}


IMAGE = {"type": "image", "source": {"type": "url", "url": "http://x"}}


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"messages": []}, "messages"), ({"messages": "hi"}, "messages"), ({"messages": ["hi"]}, "messages[0]"),
        (said("hi", role="tool"), "messages[0].role"), (said(5), "messages[0].content"),
        (said([IMAGE]), "messages[0].content[0].type"), (said(["x"]), "messages[0].content[0]"),
        (said([{"type": "text"}]), "messages[0].content[0].text"),
        (said([{"type": "text", "text": "x", "other": 1}]), "messages[0].content[0].other"),
        (said([{"type": "tool_result", "content": "x"}]), "messages[0].content[0].tool_use_id"),
        (said([{"type": "tool_result", "tool_use_id": "x", "content": [IMAGE]}]), "messages[0].content[0].content[0].type"),
        (said([{"type": "tool_use", "id": "x", "name": "y", "input": {}}]), "messages[0].content[0].type"),
        (said([{"type": "tool_use", "id": "x", "name": "y"}], role="assistant"), "messages[0].content[0].input"),
        (said("Well,", role="assistant"), "messages[0].role"), ({"system": 5}, "system"), ({"system": [IMAGE]}, "system[0].type"),
        ({"max_tokens": None}, "max_tokens"), ({"max_tokens": "5"}, "max_tokens"), ({"temprature": 1}, "temprature"),
        ({"stop_sequences": [5]}, "stop_sequences[0]"), ({"thinking": {"type": "some"}}, "thinking.type"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools[0].type"),
        ({"tools": [{"name": "a b", "input_schema": {}}]}, "tools[0].name"),
        ({"tools": [{"name": "a", "input_schema": 5}]}, "tools[0].input_schema"), ({"tools": [WEATHER, WEATHER]}, "tools"),
        ({"tools": [{"name": "a", "input_schema": {"not": {}}}], "tool_choice": {"type": "any"}}, "tools[0].input_schema.not"),
        ({"tool_choice": {"type": "any"}}, "tool_choice"), ({"tools": [WEATHER], "tool_choice": {"type": "x"}}, "tool_choice.type"),
        ({"tools": [WEATHER], "tool_choice": {"type": "tool", "name": "x"}}, "tool_choice.name"),
        ({"container": "c"}, "container"), ({"mcp_servers": [{}]}, "mcp_servers"), ({"output_config": {"effort": "low"}}, "output_config.effort"),
        ({"output_config": {"format": {"type": "xml"}}}, "output_config.format.type"),
        ({"output_config": {"format": {"type": "json_schema"}}}, "output_config.format.schema"),
        ({"tools": [WEATHER], "output_config": {"format": {"type": "json_schema", "schema": {}}}}, "output_config.format.schema"),
    ],
    ids=lambda v: str(v)[:60],
)  # fmt: skip
def test_what_is_wrong_is_named(fields, field):
    with pytest.raises(InvalidArgumentError) as caught:
        parsed(**fields)
    assert caught.value.field == field


def test_what_has_no_effect_is_told_once():
    text = {"type": "text", "text": "hi", "cache_control": {"type": "ephemeral"}}
    request = parsed(
        messages=[{"role": "user", "content": [text, text]}], tools=[{**WEATHER, "cache_control": {"type": "ephemeral"}}],
        metadata={"user_id": "u"}, service_tier="auto", thinking={"type": "enabled", "budget_tokens": 2048},
    )  # fmt: skip
    assert request.ignored == ("cache_control", "thinking.budget_tokens", "metadata")
    assert request.messages == ({"role": "user", "content": "hi\nhi"},)
    assert request.extras.variables == {"enable_thinking": True}
