"""The SDKs of OpenAI, Anthropic and Ollama, with a real model; the matrix of calls is in tests/integration and tests/router."""

import json

import anthropic
import ollama
import openai
from pydantic import BaseModel, ConfigDict, Field

import kit
from kit import CITY, HTTP, MODEL, QUESTION

ASKED = [{"role": "user", "content": QUESTION}]
COLD = {"temperature": 0}
"""anthropic 2.14 has no argument for it."""
V1 = {"base_url": f"{HTTP}/v1", "api_key": "none", "max_retries": 0}


class Person(BaseModel):
    model_config = ConfigDict(extra="forbid")  # a small model goes on with keys of its own
    name: str = Field(max_length=20)
    age: int = Field(ge=0, le=120)


def weather(city: str) -> str:
    """The weather in a city.

    Args:
        city: Its name.

    """
    return f"sunny in {city}"


def check_openai():
    with openai.OpenAI(**V1) as client:
        asked = {"model": MODEL, "messages": ASKED, "max_tokens": 40, "temperature": 0}
        whole = client.chat.completions.create(**asked).choices[0].message.content
        assert CITY in whole
        chunks = list(client.chat.completions.create(**asked, stream=True))
        assert "".join(c.choices[0].delta.content or "" for c in chunks) == whole
        parsed = client.chat.completions.parse(**{**asked, "max_tokens": 200}, response_format=Person)
        assert isinstance(parsed.choices[0].message.parsed, Person)
        response = client.responses.create(model=MODEL, input=QUESTION, max_output_tokens=40, temperature=0)
        assert response.output_text == whole


async def check_openai_asynchronous():
    async with openai.AsyncOpenAI(**V1) as client:
        response = await client.responses.parse(
            model=MODEL, input="Bob is 5.", text_format=Person, max_output_tokens=200, temperature=0
        )
        assert isinstance(response.output_parsed, Person)
        async with client.chat.completions.stream(
            model=MODEL, messages=ASKED, response_format=Person, max_tokens=200, temperature=0
        ) as stream:
            assert isinstance((await stream.get_final_completion()).choices[0].message.parsed, Person)


def check_openai_embeddings():
    with openai.OpenAI(**V1) as client:
        floats = client.embeddings.create(model=MODEL, input=["a ship", "a boat"], encoding_format="float")
        packed = client.embeddings.create(model=MODEL, input=["a ship", "a boat"])
        assert [d.embedding for d in floats.data] == [d.embedding for d in packed.data]
        assert abs(sum(x * x for x in floats.data[0].embedding) - 1) < 1e-5


def check_anthropic():
    with anthropic.Anthropic(base_url=HTTP, api_key="none", max_retries=0) as client:
        asked = {"model": MODEL, "messages": ASKED, "max_tokens": 40, "extra_body": COLD}
        whole = client.messages.create(**asked)
        assert CITY in whole.content[0].text
        with client.messages.stream(**asked) as stream:
            assert stream.get_final_text() == whole.content[0].text
        counted = client.messages.count_tokens(model=MODEL, messages=ASKED).input_tokens
        assert counted == whole.usage.input_tokens + (whole.usage.cache_read_input_tokens or 0)
        tools = [{"name": "weather", "input_schema": {"type": "object", "properties": {"city": {"type": "string", "maxLength": 20}},
                                                      "required": ["city"], "additionalProperties": False}}]  # fmt: skip
        called = client.messages.create(**{**asked, "max_tokens": 400}, tools=tools, tool_choice={"type": "any"})
        assert called.stop_reason == "tool_use"
        assert all(isinstance(b.input["city"], str) for b in called.content if b.type == "tool_use")
        parsed = client.messages.parse(**{**asked, "max_tokens": 200}, output_format=Person)
        assert isinstance(parsed.parsed_output, Person)


async def check_anthropic_asynchronous():
    async with anthropic.AsyncAnthropic(base_url=HTTP, api_key="none", max_retries=0) as client:
        asked = {"model": MODEL, "messages": ASKED, "max_tokens": 40, "extra_body": COLD}
        async with client.messages.stream(**asked) as stream:
            assert CITY in "".join([text async for text in stream.text_stream])


def check_ollama():
    client = ollama.Client(HTTP)
    asked = {"model": MODEL, "messages": ASKED, "options": {"temperature": 0, "num_predict": 40}}
    whole = client.chat(**asked).message.content
    assert CITY in whole
    assert "".join(part.message.content for part in client.chat(**asked, stream=True)) == whole
    longer = {**asked, "options": {"temperature": 0, "num_predict": 200}}
    told = client.chat(**longer, format=Person.model_json_schema()).message.content
    assert set(json.loads(told)) == {"name", "age"}
    assert client.generate(MODEL, "The capital of France is", raw=True, options={"num_predict": 8}).response
    assert client.chat(**asked, tools=[weather]).message is not None
    assert [m.model for m in client.list().models] == [MODEL]
    assert client.show(MODEL).modelinfo
    assert [m.model for m in client.ps().models] == [MODEL]
    assert len(client.embed(MODEL, ["a ship"]).embeddings[0]) == 576


async def check_ollama_asynchronous():
    client = ollama.AsyncClient(HTTP)
    parts = await client.chat(MODEL, ASKED, stream=True, options={"temperature": 0, "num_predict": 40})
    assert CITY in "".join([part.message.content async for part in parts])


if __name__ == "__main__":
    kit.run(globals())
