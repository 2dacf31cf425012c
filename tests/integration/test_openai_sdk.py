"""The calls that people make with the openai SDK: all work, or are refused for a reason that they can act on.

Each by the synchronous and the asynchronous client, whole and, where it can be, streamed; `argosy up` with a simulated
model, whose answers keep to whatever is asked of their form.
"""

import asyncio
import json

import openai
import pytest
from jsonschema import Draft202012Validator

HI = [{"role": "user", "content": "hi"}]
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 6}, "age": {"type": "integer", "minimum": 0, "maximum": 99}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
TOOL = {"type": "function", "function": {"name": "look_up", "description": "Looks up.", "parameters": SCHEMA}}
CALL = {"id": "call_1", "type": "function", "function": {"name": "look_up", "arguments": '{"name": "a", "age": 1}'}}
USED = [
    *HI,
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "call_1", "content": "found"},
]
NAMED = {"type": "function", "function": {"name": "look_up"}}
JSON = {"type": "json_schema", "json_schema": {"name": "person", "strict": True, "schema": SCHEMA}}


def says(answer, text):
    assert isinstance(text, str)
    assert answer is None or answer.usage.completion_tokens > 0


def is_person(answer, text):
    Draft202012Validator(SCHEMA).validate(json.loads(text))


def is_object(answer, text):
    assert isinstance(json.loads(text), dict)


def calls(answer, text):
    if answer is not None:
        (choice,) = answer.choices
        assert choice.finish_reason == "tool_calls"
        assert choice.message.content is None
        for call in choice.message.tool_calls:
            assert call.function.name == "look_up"
            Draft202012Validator(SCHEMA).validate(json.loads(call.function.arguments))


def has(count):
    def check(answer, text):
        assert answer is None or len(answer.choices) == count

    return check


def among(*texts):
    def check(answer, text):
        assert text in texts

    return check


CHATS = {
    "plain": ({}, says),
    "a system message": ({"messages": [{"role": "system", "content": "Be kind."}, *HI]}, says),
    "a developer's message": ({"messages": [{"role": "developer", "content": "Be kind."}, *HI]}, says),
    "text parts": ({"messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]}, says),
    "a named user": ({"messages": [{"role": "user", "content": "hi", "name": "bob"}]}, says),
    "temperature, top_p and seed": ({"temperature": 0.7, "top_p": 0.9, "seed": 3}, says),
    "penalties": ({"frequency_penalty": 0.5, "presence_penalty": -0.5}, says),
    "logit_bias": ({"logit_bias": {"65": -100, "66": 5}}, says),
    "stop": ({"stop": ["e", "zz"]}, says),
    "max_tokens": ({"max_completion_tokens": None, "max_tokens": 3}, says),
    "three choices": ({"n": 3}, has(3)),
    "logprobs": ({"logprobs": True, "top_logprobs": 3}, says),
    "user, metadata and store": ({"user": "u", "metadata": {"k": "v"}, "store": True, "service_tier": "flex"}, says),
    "vLLM's sampling": (
        {"extra_body": {"top_k": 5, "min_p": 0.1, "repetition_penalty": 1.2, "typical_p": 0.9, "min_tokens": 2}}, says),
    "priority and salt": ({"extra_body": {"priority": 3, "cache_salt": "s"}}, says),
    "template variables": ({"extra_body": {"chat_template_kwargs": {"enable_thinking": False}}}, says),
    "documents": ({"extra_body": {"documents": [{"title": "t", "text": "x"}]}}, says),
    "llama.cpp's and Ollama's fields": ({"extra_body": {"cache_prompt": True, "keep_alive": "5m"}}, says),
    "any JSON object": ({"response_format": {"type": "json_object"}, "max_completion_tokens": 900}, None),
    "a schema": ({"response_format": JSON, "max_completion_tokens": 400}, is_person),
    "plain text": ({"response_format": {"type": "text"}}, says),
    "choices": ({"extra_body": {"structured_outputs": {"choice": ["yes", "no"]}}}, among("yes", "no")),
    "a pattern": ({"extra_body": {"guided_regex": "[ab]{3}"}}, None),
    "tools": ({"tools": [TOOL]}, says),
    "tools, but none": ({"tools": [TOOL], "tool_choice": "none"}, says),
    "tools, required": ({"tools": [TOOL], "tool_choice": "required", "max_completion_tokens": 2000}, calls),
    "a named tool": ({"tools": [TOOL], "tool_choice": NAMED, "max_completion_tokens": 400}, calls),
    "one call at most": (
        {"tools": [TOOL], "tool_choice": "required", "parallel_tool_calls": False, "max_completion_tokens": 400}, calls),
    "after a tool": ({"messages": USED, "tools": [TOOL]}, says),
}  # fmt: skip
COMPLETIONS = {
    "a text": ({}, says),
    "several texts": ({"prompt": ["a", "b"]}, has(2)),
    "token ids": ({"prompt": [65, 66, 67]}, says),
    "echo and logprobs": ({"echo": True, "logprobs": 2}, says),
    "stop and seed": ({"stop": "x", "seed": 1, "temperature": 0.8}, says),
    "two choices": ({"n": 2}, has(2)),
    "best_of 1": ({"best_of": 1}, says),
    "JSON by vLLM's field": ({"extra_body": {"guided_json": SCHEMA}, "max_tokens": 400}, is_person),
}
REFUSED = {
    "an image": ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
                 "only text parts are supported"),
    "audio": ({"modalities": ["text", "audio"]}, "modalities: is not supported"),
    "too many choices": ({"n": 100}, "n: is 100; must be 1 to 8"),
    "reasoning effort": ({"reasoning_effort": "high"}, "reasoning_effort: is not supported"),
    "the web": ({"web_search_options": {}}, "web_search_options: is not supported"),
    "a schema with not": (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"not": {}}}}},
        r"response_format\.json_schema\.schema\.not: is a keyword"),
    "a tool that nobody runs": ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "tools\\[0\\].type"),
    "a choice without tools": ({"tool_choice": "required"}, "tool_choice: needs tools"),
    "a typing error": ({"extra_body": {"temprature": 1}}, "did you mean temperature"),
}  # fmt: skip


def clients(simulated):
    where = {"base_url": f"http://127.0.0.1:{simulated.http_port}/v1", "api_key": "none", "max_retries": 0}
    return openai.OpenAI(**where), openai.AsyncOpenAI(**where)


def chat_of(fields):
    return {
        k: v for k, v in {"model": "m", "messages": HI, "max_completion_tokens": 24, **fields}.items() if v is not None
    }


def text_of(choice):
    return choice.message.content or "" if hasattr(choice, "message") else choice.text


def deltas_of(chunks):
    return "".join(
        (c.delta.content or "") if hasattr(c, "delta") else c.text
        for chunk in chunks
        for c in chunk.choices
        if c.index == 0
    )


def all_four(simulated, kind, asked, check):
    """Whole and streamed, synchronous and asynchronous."""
    plain, waiting = clients(simulated)

    async def asynchronous():
        async with waiting as client:
            call = getattr(client, kind) if kind == "completions" else client.chat.completions
            whole = await call.create(**asked)
            chunks = [chunk async for chunk in await call.create(**asked, stream=True)]
            return whole, chunks

    with plain as client:
        call = client.completions if kind == "completions" else client.chat.completions
        found = [(call.create(**asked), list(call.create(**asked, stream=True))), asyncio.run(asynchronous())]
    for whole, chunks in found:
        assert chunks[-1].choices[0].finish_reason in ("stop", "length", "tool_calls")
        if check is not None:
            check(whole, text_of(whole.choices[0]))
            check(None, deltas_of(chunks))


@pytest.mark.parametrize("name", CHATS)
def test_chats(simulated, name):
    fields, check = CHATS[name]
    all_four(simulated, "chat", chat_of(fields), check)


@pytest.mark.parametrize("name", COMPLETIONS)
def test_completions(simulated, name):
    fields, check = COMPLETIONS[name]
    all_four(simulated, "completions", {"model": "m", "prompt": "hello", "max_tokens": 12, **fields}, check)


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_says_why(simulated, name):
    fields, why = REFUSED[name]
    plain, waiting = clients(simulated)
    with plain as client, pytest.raises(openai.BadRequestError, match=why):
        client.chat.completions.create(**chat_of(fields))

    async def asynchronous():
        async with waiting as client:
            await client.chat.completions.create(**chat_of(fields), stream=True)

    with pytest.raises(openai.BadRequestError, match=why):
        asyncio.run(asynchronous())


RESPONSES = {
    "a text": ({}, None),
    "instructions and items": ({"instructions": "Be kind.", "input": HI}, None),
    "a schema": (
        {"text": {"format": {"type": "json_schema", "name": "person", "schema": SCHEMA}}, "max_output_tokens": 400}, is_person),
    "a tool, required": (
        {"tools": [{"type": "function", **TOOL["function"]}], "tool_choice": "required", "parallel_tool_calls": False,
         "max_output_tokens": 400}, None),
}  # fmt: skip


@pytest.mark.parametrize("name", RESPONSES)
def test_responses(simulated, name):
    fields, check = RESPONSES[name]
    plain, waiting = clients(simulated)
    asked = {"model": "m", "input": "hi", "max_output_tokens": 12, **fields}

    async def asynchronous():
        async with waiting as client:
            whole = await client.responses.create(**asked)
            return whole, [event async for event in await client.responses.create(**asked, stream=True)]

    with plain as client:
        found = [
            (client.responses.create(**asked), list(client.responses.create(**asked, stream=True))),
            asyncio.run(asynchronous()),
        ]
    for whole, events in found:
        for response in (whole, events[-1].response):
            assert response.status in ("completed", "incomplete")
            assert response.usage.output_tokens > 0
            if check is not None:
                check(None, response.output_text)
            for item in response.output:
                if item.type == "function_call":
                    Draft202012Validator(SCHEMA).validate(json.loads(item.arguments))
        if "tools" in fields:
            assert [item.type for item in whole.output] == ["function_call"]


def test_there_are_forty_calls():
    assert len(CHATS) + len(COMPLETIONS) + len(REFUSED) >= 40
