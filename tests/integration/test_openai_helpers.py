"""What the openai SDK does beyond its calls, and what is told beside an answer; with a simulated model."""

import asyncio

import openai
import pytest
from pydantic import BaseModel, Field

HI = [{"role": "user", "content": "hi"}]


class Person(BaseModel):
    name: str = Field(max_length=6)
    age: int = Field(ge=0, le=99)


TOOL = openai.pydantic_function_tool(Person, name="look_up")
CALLED = {"tools": [TOOL], "tool_choice": "required", "parallel_tool_calls": False}
CHAT = {"model": "m", "messages": HI, "max_completion_tokens": 400}
RESPONSE = {"model": "m", "input": "hi", "max_output_tokens": 400}


@pytest.fixture
def where(simulated):
    return {"base_url": f"http://127.0.0.1:{simulated.http_port}/v1", "api_key": "none", "max_retries": 0}


@pytest.fixture
def client(where):
    with openai.OpenAI(**where) as made:
        yield made


def asynchronously(where, use):
    async def go():
        async with openai.AsyncOpenAI(**where) as made:
            return await use(made)

    return asyncio.run(go())


def test_answers_become_objects(client, where):
    def chat(answer):
        return answer.choices[0].message.parsed

    async def both(made):
        return (
            await made.chat.completions.parse(**CHAT, response_format=Person),
            await made.responses.parse(**RESPONSE, text_format=Person),
        )

    whole, response = asynchronously(where, both)
    found = [chat(whole), response.output_parsed]
    found.append(chat(client.chat.completions.parse(**CHAT, response_format=Person)))
    found.append(client.responses.parse(**RESPONSE, text_format=Person).output_parsed)
    assert [type(one) for one in found] == [Person] * 4


def test_streams_are_joined_to_objects(client, where):
    async def chat(made):
        async with made.chat.completions.stream(**CHAT, response_format=Person) as stream:
            return (await stream.get_final_completion()).choices[0].message.parsed

    async def response(made):
        async with made.responses.stream(**RESPONSE, text_format=Person) as stream:
            return (await stream.get_final_response()).output_parsed

    found = [asynchronously(where, chat), asynchronously(where, response)]
    with client.chat.completions.stream(**CHAT, response_format=Person) as stream:
        found.append(stream.get_final_completion().choices[0].message.parsed)
    with client.responses.stream(**RESPONSE, text_format=Person) as stream:
        found.append(stream.get_final_response().output_parsed)
    assert [type(one) for one in found] == [Person] * 4


def test_streamed_calls_are_joined(client, where):
    async def use(made):
        async with made.chat.completions.stream(**CHAT, **CALLED) as stream:
            return await stream.get_final_completion()

    with client.chat.completions.stream(**CHAT, **CALLED) as stream:
        finals = [stream.get_final_completion(), asynchronously(where, use)]
    for final in finals:
        (call,) = final.choices[0].message.tool_calls
        assert isinstance(call.function.parsed_arguments, Person)


def test_usage_comes_where_it_is_asked_for(client):
    options = {"stream": True, "stream_options": {"include_usage": True}}
    chunks = list(client.chat.completions.create(model="m", messages=HI, max_completion_tokens=5, **options))
    assert (chunks[-1].choices, chunks[-1].usage.completion_tokens) == ([], 5)
    options["stream_options"]["continuous_usage_stats"] = True
    chunks = list(client.chat.completions.create(model="m", messages=HI, max_completion_tokens=5, **options))
    told = [chunk.usage.completion_tokens for chunk in chunks]
    assert (told, told[-1]) == (sorted(told), 5)


def test_models_and_raw_answers(client, where):
    async def use(made):
        names = [model.id async for model in made.models.list()]
        raw = await made.chat.completions.with_raw_response.create(**CHAT)
        async with made.chat.completions.with_streaming_response.create(**CHAT) as answer:
            return (
                names,
                (await made.models.retrieve("m")).id,
                raw.headers["x-request-id"],
                (await answer.parse()).model,
            )

    assert [model.id for model in client.models.list()] == ["m"]
    assert client.models.retrieve("m").id == "m"
    names, one, identity, model = asynchronously(where, use)
    assert (names, one, model) == (["m"], "m", "m")
    assert identity
    with client.chat.completions.with_streaming_response.create(**CHAT) as answer:
        assert answer.parse().model == "m"


def test_errors_are_those_that_programs_look_for(client, where):
    """Of a model that is not there the code; nobody reads the text."""
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="another", messages=HI)
    assert (caught.value.code, caught.value.param, caught.value.type) == ("model_not_found", "model", "not_found_error")

    async def use(made):
        await made.embeddings.create(model="m", input="hi")

    with pytest.raises(openai.BadRequestError):  # a simulated model gives none, and says so
        asynchronously(where, use)


def test_the_best_of_several(client):
    asked = {"model": "m", "prompt": "hello", "max_tokens": 6, "seed": 1, "logprobs": 0}
    best = client.completions.create(**asked, n=1, best_of=4)
    several = client.completions.create(**asked, n=4)
    assert best.usage.completion_tokens == several.usage.completion_tokens
    means = [sum(c.logprobs.token_logprobs) / len(c.logprobs.token_logprobs) for c in several.choices]
    assert best.choices[0].text == several.choices[means.index(max(means))].text


def test_fields_without_effect_are_named_or_refused(client):
    create = client.chat.completions.with_raw_response.create
    answer = create(**CHAT, user="u", store=True, extra_body={"keep_alive": "5m"})
    assert answer.headers["x-argosy-ignored"] == "user, store, keep_alive"
    assert "x-argosy-ignored" not in create(**CHAT).headers
    with pytest.raises(openai.BadRequestError, match="store: has no effect here"):
        create(**CHAT, store=True, extra_headers={"x-argosy-strict": "true"})
