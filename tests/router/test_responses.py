"""OpenAI's responses, by its own SDK: whole and as events, tools and their results, schemas, reasoning, and errors."""

import json

import openai
import pytest
import pytest_asyncio
from jsonschema import Draft202012Validator
from pydantic import BaseModel
from router_kit import Script, answer_of, decode, encode
from saying_kit import KNOWING, Saying

from argosy_api.errors import InvalidArgumentError
from argosy_router.fronts import responses_parse

RENDERED = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOL = {"type": "function", "name": "get_weather", "description": "The weather.", "parameters": SCHEMA, "strict": True}
NOW = {"type": "function", "name": "now", "parameters": None, "strict": False}
CALLED = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Kiel"}}\n</tool_call>'
FORMAT = {"format": {"type": "json_schema", "name": "place", "schema": SCHEMA, "strict": True}}


def client_of(rig):
    return openai.AsyncOpenAI(base_url=rig.base + "/v1", api_key="none", max_retries=0)


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


def without_ids(response):
    """What a response tells that is the same each time."""
    found = response.to_dict()
    for key in ("id", "created_at"):
        found.pop(key)
    if found["usage"]:
        found["usage"].pop("input_tokens_details")
    for item in found["output"]:
        item.pop("id")
        item.pop("call_id", None)
        for part in item.get("content") or ():
            part.pop("parsed", None)
    return found


async def both(client, **asked):
    """The response at once; what the SDK puts together of a stream's events is the same."""
    asked = {"model": "m", "input": "hi", **asked}
    whole = await client.responses.create(**asked)
    stream = await client.responses.create(**asked, stream=True)
    events = [event async for event in stream]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert [event.type for event in events[:2]] == ["response.created", "response.in_progress"]
    assert events[-1].type == f"response.{whole.status}"
    assert without_ids(events[-1].response) == without_ids(whole)
    told = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert told == whole.output_text
    for event in events:
        if event.type == "response.output_item.done":
            assert event.item.id == events[-1].response.output[event.output_index].id
    return whole


async def test_an_input_and_its_instructions(plain):
    rig, client = plain
    system = "<|im_start|>system\nBe kind.<|im_end|>\n"
    answer = await both(client, instructions="Be kind.", max_output_tokens=30, metadata={"k": "v"})
    assert answer.output_text == decode(answer_of(encode(system + RENDERED), 30))
    assert (answer.status, answer.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert (answer.instructions, answer.metadata, answer.max_output_tokens) == ("Be kind.", {"k": "v"}, 30)
    usage = answer.usage
    assert (usage.input_tokens, usage.output_tokens) == (len(encode(system + RENDERED)), 30)
    assert usage.output_tokens_details.reasoning_tokens == 0
    items = [
        {"role": "developer", "content": "Be kind."},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hi"}]},
    ]
    assert (await both(client, input=items, max_output_tokens=30)).output_text == answer.output_text
    await client.responses.create(model="m", input="hi")
    assert max(r.sampling.max_tokens for w in rig.workers for r in w.requests) == 4096 - len(encode(RENDERED))
    assert rig.idle()


async def test_a_conversation_by_its_own_outputs(saying):
    """What came goes back as it came: text, calls and reasoning."""
    worker, client = saying
    worker.text = "One moment." + CALLED + CALLED
    first = await both(client, tools=[TOOL, NOW])
    assert first.status == "completed"
    assert [item.type for item in first.output] == ["message", "function_call", "function_call"]
    calls = [item for item in first.output if item.type == "function_call"]
    assert [(call.name, json.loads(call.arguments), call.status) for call in calls] == [
        ("get_weather", {"city": "Kiel"}, "completed")
    ] * 2
    assert len({call.call_id for call in calls}) == 2
    worker.text = "It rains."
    results = [{"type": "function_call_output", "call_id": call.call_id, "output": "rain"} for call in calls]
    asked = [{"role": "user", "content": "hi"}, *(item.to_dict() for item in first.output), *results]
    answer = await both(client, input=asked, tools=[TOOL, NOW])
    assert answer.output_text == "It rains."
    call = '<tool_call>get_weather {"city": "Kiel"}'
    prompt = decode(list(worker.requests[-1].prompt_tokens))
    assert f"user: hiassistant: One moment.{call}{call}tool: raintool: rainassistant:" in prompt


async def test_a_call_may_be_asked_for(saying):
    worker, client = saying
    worker.text = CALLED
    await both(client, tools=[TOOL, NOW], tool_choice="required")
    assert "tool1" in json.loads(worker.requests[-1].constraint)["grammar"]
    answer = await both(client, tools=[TOOL, NOW], tool_choice={"type": "function", "name": "get_weather"})
    assert "tool1" not in json.loads(worker.requests[-1].constraint)["grammar"]
    assert answer.output[0].name == "get_weather"
    assert (await both(client, tools=[TOOL], tool_choice="none")).output_text == CALLED


async def test_an_answer_keeps_to_a_schema(saying):
    """The SDK's `parse` makes an object of it; its `stream` tells the same events."""

    class Place(BaseModel):
        city: str

    worker, client = saying
    worker.text = '{"city": "Kiel"}'
    answer = await both(client, text=FORMAT)
    Draft202012Validator(SCHEMA).validate(json.loads(answer.output_text))
    assert json.loads(worker.requests[-1].constraint) == {"json_schema": SCHEMA}
    parsed = await client.responses.parse(model="m", input="hi", text_format=Place)
    assert parsed.output_parsed == Place(city="Kiel")
    async with client.responses.stream(model="m", input="hi", text_format=Place) as stream:
        final = await stream.get_final_response()
    assert final.output_parsed == Place(city="Kiel")
    await both(client, text={"format": {"type": "json_object"}})
    assert json.loads(worker.requests[-1].constraint)["json_schema"]["type"] == "object"


async def test_reasoning_is_an_item_of_its_own(saying):
    """How many tokens it took is not told where it is not known."""
    worker, client = saying
    worker.template = KNOWING
    worker.text = "<think>Hm, Kiel.</think>\n\nIt rains."
    answer = await both(client)
    assert [item.type for item in answer.output] == ["reasoning", "message"]
    assert (answer.output[0].content[0].text, answer.output_text) == ("Hm, Kiel.", "It rains.")
    assert answer.usage.output_tokens_details is None
    await both(
        client,
        input=[
            {"role": "user", "content": "hi"},
            *(i.to_dict() for i in answer.output),
            {"role": "user", "content": "So?"},
        ],
    )
    assert "assistant: It rains.user: So?" in decode(list(worker.requests[-1].prompt_tokens))


async def test_what_was_cut_off_is_incomplete(saying):
    worker, client = saying
    worker.text, worker.cut = "Well." + CALLED + "And", True
    answer = await both(client, tools=[TOOL])
    assert answer.status == "incomplete"
    assert [item.status for item in answer.output] == ["completed", "completed", "incomplete"]


async def test_what_has_no_effect_is_named(plain):
    _, client = plain
    create = client.responses.with_raw_response.create
    asked = {"model": "m", "input": "hi", "max_output_tokens": 2}
    answer = await create(
        **asked, store=True, user="u", include=["reasoning.encrypted_content"], reasoning={"summary": "auto"}
    )
    assert answer.headers["x-argosy-ignored"] == "include, reasoning.summary, store, user"
    assert answer.parse().store is False
    assert "x-argosy-ignored" not in (await create(**asked, store=False)).headers


async def test_errors_are_the_sdks_own(plain):
    rig, client = plain
    with pytest.raises(openai.NotFoundError, match="served are: m"):
        await client.responses.create(model="another", input="hi")
    with pytest.raises(openai.BadRequestError) as caught:
        await client.responses.create(model="m", input="hi", previous_response_id="resp_1")
    assert caught.value.param == "previous_response_id"
    with pytest.raises(openai.BadRequestError) as caught:
        await client.responses.create(model="m", input="x" * 5000)
    assert caught.value.param == "input"
    with pytest.raises(openai.NotFoundError):
        await client.responses.retrieve("resp_1")
    for worker in rig.workers:
        worker.script.abort_after = 3
    stream = await client.responses.create(model="m", input="hi", stream=True)
    with pytest.raises(openai.APIError, match="3 tokens"):
        async for _ in stream:
            pass


# --- requests


def item(**fields):
    return {"input": [{"role": "user", "content": "hi"}, fields]}


IMAGE = {"type": "input_image", "image_url": "http://x"}


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"instructions": "\ud800"}, "instructions"), ({"input": None}, "input"), ({"input": 5}, "input"), ({"input": []}, "input"), ({"input": ["hi"]}, "input[0]"),
        (item(role="function", content="x"), "input[1].role"), (item(role="user", content=5), "input[1].content"),
        (item(role="user", content=[IMAGE]), "input[1].content[0].type"), (item(role="user", content=["x"]), "input[1].content[0]"),
        (item(role="user", content=[{"type": "input_text"}]), "input[1].content[0].text"), (item(role="user", content="x", y=1), "input[1].y"),
        (item(type="function_call", arguments="{}"), "input[1].name"), (item(type="function_call_output", output="x"), "input[1].call_id"),
        (item(type="item_reference", id="x"), "input[1]"), (item(type="web_search_call"), "input[1].type"),
        ({"conversation": "c"}, "conversation"), ({"background": True}, "background"), ({"truncation": "auto"}, "truncation"),
        ({"previous_response_id": "r"}, "previous_response_id"), ({"include": ["file_search_call.results"]}, "include[0]"),
        ({"reasoning": {"effort": "high"}}, "reasoning.effort"), ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"max_tool_calls": 1}, "max_tool_calls"), ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [{"type": "function", "name": "a b"}]}, "tools[0].name"), ({"tools": [TOOL, TOOL]}, "tools"),
        ({"tools": [{**TOOL, "parameters": {"not": {}}}], "tool_choice": "required"}, "tools[0].parameters.not"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "name": "x"}}, "tool_choice.name"), ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"type": "allowed_tools"}}, "tool_choice.type"), ({"text": {"verbosity": "low"}}, "text.verbosity"),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type"), ({"text": {"format": {"type": "json_schema"}}}, "text.format.schema"),
        ({"tools": [TOOL], "text": FORMAT}, "text.format"), ({"metadata": 5}, "metadata"), ({"metadata": {"k": "\ud800"}}, "metadata"),
        ({"metadata": {"k": 10**30}}, "metadata"), ({"tools": [{**TOOL, "parameters": {"maximum": 10**400}}]}, "tools"),
        ({"text": {"format": {"type": "text", "name": "\ud800"}}}, "text.format.name"), ({"messages": []}, "messages"),
        ({"top_logprobs": 2}, "top_logprobs"), ({"temprature": 1}, "temprature"),
    ],
    ids=lambda v: str(v)[:60],
)  # fmt: skip
def test_what_is_wrong_is_named(fields, field):
    with pytest.raises(InvalidArgumentError) as caught:
        responses_parse.responses({"model": "m", "input": "hi", **fields})
    assert caught.value.field == field
