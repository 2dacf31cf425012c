"""Chats with tools through the HTTP front: what the template gets, what the worker is asked, and what the client sees."""

import json
import random

import openai
import pytest
import pytest_asyncio
from router_kit import Script, byte_tokenizer, encode
from saying_kit import KNOWING, Saying

from argosy_api.errors import InvalidArgumentError
from argosy_api.structured import compile as library
from argosy_api.structured.constraint import parse
from argosy_router.fronts import oai_parse
from argosy_router.text.chat import ChatRenderer
from argosy_router.tools import grammar
from argosy_router.tools.forms import Form, Offer
from argosy_router.tools.parse import Parser

HI = {"role": "user", "content": "hi"}
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 12}, "day": {"$ref": "#/$defs/day"}},
            "required": ["city", "day"],
            "additionalProperties": False,
            "$defs": {"day": {"enum": ["today", "tomorrow"]}},
        },
    },
}
NOTHING = {"type": "function", "function": {"name": "now"}}
CALL = {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Kiel"}'}}


# --- requests


def chat(**fields):
    return oai_parse.chat({"model": "m", "messages": [HI], **fields})


def test_tools_and_choices_of_them():
    assert chat().offer is None
    assert chat(tools=[]).offer is None
    auto = chat(tools=[WEATHER, NOTHING]).offer
    assert (auto.must, auto.several, auto.parsed, auto.names) == ((), True, True, {"get_weather", "now"})
    assert chat(tools=[WEATHER], tool_choice="none").offer.parsed is False
    assert chat(tools=[WEATHER, NOTHING], tool_choice="required").offer.must == ("get_weather", "now")
    named = chat(tools=[WEATHER, NOTHING], tool_choice={"type": "function", "function": {"name": "now"}}).offer
    assert (named.must, named.several) == (("now",), False)
    assert chat(tools=[WEATHER], parallel_tool_calls=False).offer.several is False


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name"),
        ({"tools": [{"type": "function", "function": {"name": "a", "parameters": 1}}]}, "tools[0].function.parameters"),
        ({"tools": [NOTHING, NOTHING]}, "tools"),
        ({"tools": [NOTHING] * 129}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [NOTHING], "tool_choice": "any"}, "tool_choice"),
        (
            {"tools": [NOTHING], "tool_choice": {"type": "function", "function": {"name": "x"}}},
            "tool_choice.function.name",
        ),
        ({"tools": [NOTHING], "response_format": {"type": "json_object"}}, "response_format.type"),
        ({"chat_template_kwargs": {"messages": []}}, "chat_template_kwargs.messages"),
        ({"documents": ["x"]}, "documents[0]"),
        (
            {
                "tools": [{"type": "function", "function": {"name": "a", "parameters": {"not": {}}}}],
                "tool_choice": "required",
            },
            "tools[0].function.parameters.not",
        ),
        ({"messages": [HI, {"role": "assistant", "content": None}]}, "content"),
        ({"messages": [{"role": "assistant", "content": None, "tool_calls": [{"id": "x"}]}]}, "tool_calls[0].function"),
    ],
)
def test_what_is_wrong_with_tools_is_told_by_its_path(fields, named):
    with pytest.raises(InvalidArgumentError) as caught:
        chat(**fields)
    assert caught.value.field.endswith(named)


def test_a_conversation_that_has_used_tools():
    answered = [
        HI,
        {"role": "assistant", "content": None, "tool_calls": [CALL], "refusal": None, "reasoning_content": "Hm."},
        {"role": "tool", "tool_call_id": "call_1", "content": "rain", "name": "get_weather"},
    ]
    messages = oai_parse.chat({"model": "m", "messages": answered}).messages
    assert messages[1] == {
        "role": "assistant",
        "content": "",
        "tool_calls": [{**CALL, "function": {"name": "get_weather", "arguments": {"city": "Kiel"}}}],
        "reasoning_content": "Hm.",
    }
    assert messages[2] == {"role": "tool", "content": "rain", "tool_call_id": "call_1", "name": "get_weather"}


# --- grammars


@pytest.mark.parametrize("form", Form)
@pytest.mark.parametrize("several", [True, False])
def test_what_the_grammar_lets_through_is_read_as_calls_of_the_tools(form, several):
    offer = Offer((WEATHER, NOTHING), must=("get_weather", "now"), several=several)
    made = grammar.constraint(offer, form)
    tokenizer = byte_tokenizer()
    vocabulary = library.vocabulary(tokenizer, 259, (258,))
    kept, rng = library.matcher(vocabulary, parse(made.text)), random.Random(5)
    ids = {bytes([b]): encode(chr(b))[0] for b in (10, *range(32, 127))}
    letters = {token: letter for letter, token in ids.items()}
    counts = set()
    for _ in range(30):
        matcher, text = kept.deep_copy(), b""
        while len(text) < 4000:
            bits = matcher.compute_bitmask()
            left = [t for t in [*letters, 258] if bits[t >> 3] >> (t & 7) & 1]
            closing = [t for t in left if t == 258 or letters[t] in b'"}]']
            token = rng.choice(closing if closing and rng.random() < 0.4 else left)
            if token == 258:
                break
            assert matcher.consume_token(token)
            text += letters[token]
        parser = Parser(form, offer)
        parts = [parser.push(text.decode()), parser.finish()]
        assert not any(p.content for p in parts), text
        arguments = [""] * parser.calls
        for part in [part for p in parts for part in p.calls]:
            arguments[part.number] += part.arguments
        names = [part.name for p in parts for part in p.calls if part.name]
        for name, value in zip(names, arguments, strict=True):
            assert set(json.loads(value)) == ({"city", "day"} if name == "get_weather" else set())
        counts.add(parser.calls)
    assert counts == {1} if not several else max(counts) > 1


# --- templates


PLAIN = "{% for m in messages %}[{{ m.role }}]{{ m.content }}\n{% endfor %}[assistant]"


def test_a_template_that_knows_tools_gets_them_as_they_are():
    renderer = ChatRenderer(KNOWING, {})
    messages = chat(
        messages=[HI, {"role": "assistant", "tool_calls": [CALL]}, {"role": "tool", "content": "x"}]
    ).messages
    text = renderer.render(messages, tools=[WEATHER], documents=[{"text": "d1"}], variables={"loud": True})
    assert text.startswith('TOOLS [{"type": "function", "function": {"name": "get_weather"')
    assert 'DOC d1\nuser: hiassistant: <tool_call>get_weather {"city": "Kiel"}tool: xLOUDassistant:' in text


def test_a_template_that_knows_none_has_them_told_in_words():
    renderer = ChatRenderer(PLAIN, {})
    messages = chat(
        messages=[HI, {"role": "assistant", "tool_calls": [CALL]}, {"role": "tool", "content": "x"}]
    ).messages
    text = renderer.render(messages, tools=[WEATHER])
    assert text.startswith("[system]You can call these functions:\n")
    assert '{"name": "get_weather", "description": "The weather of a city."' in text
    assert '[assistant]{"name": "get_weather", "arguments": {"city": "Kiel"}}\n[tool]x\n' in text
    with_system = renderer.render([{"role": "system", "content": "Be kind."}, HI], tools=[NOTHING])
    assert with_system.startswith("[system]Be kind.\n\nYou can call")


# --- through the router, by the openai SDK


@pytest_asyncio.fixture
async def saying(make_rig):
    worker = Saying(template=KNOWING, script=Script())
    rig = await make_rig()
    await rig.add(worker)
    async with openai.AsyncOpenAI(base_url=rig.base + "/v1", api_key="none", max_retries=0) as client:
        yield worker, client


SAID = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Kiel", "day": "today"}}\n</tool_call>'


async def test_calls_come_whole_and_streamed(saying):
    worker, client = saying
    worker.text = "One moment." + SAID + SAID
    asked = {"model": "m", "messages": [HI], "tools": [WEATHER]}
    answer = await client.chat.completions.create(**asked)
    (choice,) = answer.choices
    assert (choice.message.content, choice.finish_reason) == ("One moment.", "tool_calls")
    calls = [(c.type, c.function.name, json.loads(c.function.arguments)) for c in choice.message.tool_calls]
    assert calls == [("function", "get_weather", {"city": "Kiel", "day": "today"})] * 2
    assert len({c.id for c in choice.message.tool_calls}) == 2
    async with client.chat.completions.stream(**asked) as stream:
        final = await stream.get_final_completion()
    message = final.choices[0].message
    assert [c.function.arguments for c in message.tool_calls] == [
        c.function.arguments for c in choice.message.tool_calls
    ]
    assert (message.content, final.choices[0].finish_reason) == ("One moment.", "tool_calls")
    # what each piece repeated would be there twice: findings/openai-deltas-add-up.sh
    assert (message.role, [c.function.name for c in message.tool_calls]) == ("assistant", ["get_weather"] * 2)
    assert {len(c.id) for c in message.tool_calls} == {len(c.id) for c in choice.message.tool_calls}


async def test_none_required_and_named(saying):
    worker, client = saying
    worker.text = SAID
    asked = {"model": "m", "messages": [HI], "tools": [WEATHER, NOTHING]}
    answer = await client.chat.completions.create(**asked, tool_choice="none")
    assert (answer.choices[0].message.content, answer.choices[0].message.tool_calls) == (SAID, None)
    assert worker.requests[-1].constraint == ""
    await client.chat.completions.create(**asked, tool_choice="required")
    assert "tool1" in json.loads(worker.requests[-1].constraint)["grammar"]
    named = {"type": "function", "function": {"name": "get_weather"}}
    answer = await client.chat.completions.create(**asked, tool_choice=named)
    assert "tool1" not in json.loads(worker.requests[-1].constraint)["grammar"]
    assert answer.choices[0].message.tool_calls[0].function.name == "get_weather"


async def test_reasoning_is_told_apart(saying):
    worker, client = saying
    worker.text = "Hm, Kiel.</think>\n\nIt rains."
    asked = {"model": "m", "messages": [HI], "extra_body": {"chat_template_kwargs": {"enable_thinking": True}}}
    answer = await client.chat.completions.create(**asked)
    message = answer.choices[0].message
    assert (message.reasoning_content, message.content) == ("Hm, Kiel.", "It rains.")
    stream = await client.chat.completions.create(**asked, stream=True)
    deltas = [chunk.choices[0].delta async for chunk in stream]
    assert "".join(getattr(d, "reasoning_content", None) or "" for d in deltas) == "Hm, Kiel."
    assert "".join(d.content or "" for d in deltas) == "It rains."
