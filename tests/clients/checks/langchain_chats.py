"""LangChain over its three integrations: chats, streams, tools, structured answers, embeddings."""

from typing import Annotated

from langchain_anthropic import ChatAnthropic
from langchain_core.messages import HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from langchain_ollama import ChatOllama, OllamaEmbeddings
from langchain_openai import ChatOpenAI, OpenAI, OpenAIEmbeddings
from pydantic import BaseModel, Field

import kit
from kit import CITY, HTTP, MODEL, QUESTION


class Person(BaseModel):
    """A person."""

    name: str = Field(max_length=20)
    age: int = Field(ge=0, le=120)


@tool
def weather(city: Annotated[str, Field(max_length=20)]) -> str:
    """The weather in a city."""
    return f"sunny in {city}"


openai = ChatOpenAI(base_url=f"{HTTP}/v1", api_key="none", model=MODEL, temperature=0, max_tokens=60, max_retries=0)
anthropic = ChatAnthropic(base_url=HTTP, api_key="none", model=MODEL, temperature=0, max_tokens=60, max_retries=0)
ollama = ChatOllama(base_url=HTTP, model=MODEL, temperature=0, num_predict=60)
CHATS = {"openai": openai, "anthropic": anthropic, "ollama": ollama}


def check_invoke():
    for name, chat in CHATS.items():
        answer = chat.invoke([SystemMessage("Answer in one sentence."), HumanMessage(QUESTION)])
        assert CITY in answer.text, (name, answer)
        assert answer.usage_metadata["output_tokens"] > 0, name


def check_stream_equals_invoke():
    for name, chat in CHATS.items():
        whole = chat.invoke(QUESTION).text
        pieces = [chunk.text for chunk in chat.stream(QUESTION)]
        assert "".join(pieces) == whole, name
        assert len(pieces) > 3, name


def check_batch():
    answers = openai.batch([QUESTION, "What is two and two?"])
    assert [bool(a.text) for a in answers] == [True, True]
    assert CITY in answers[0].text


async def check_asynchronous():
    for name, chat in CHATS.items():
        assert CITY in (await chat.ainvoke(QUESTION)).text, name
        assert CITY in "".join([chunk.text async for chunk in chat.astream(QUESTION)]), name


def check_completions():
    model = OpenAI(base_url=f"{HTTP}/v1", api_key="none", model=MODEL, temperature=0, max_tokens=12)
    assert model.invoke("The capital of France is").strip()
    assert "".join(model.stream("The capital of France is")) == model.invoke("The capital of France is")


def check_bind_tools():
    """A call comes where one is asked for, its arguments keep to the function's schema, and its result goes back."""
    for name, chat in {"openai": openai, "anthropic": anthropic}.items():
        for choice in ("any", "weather"):
            bound = chat.bind_tools([weather], tool_choice=choice, strict=True)
            asked = HumanMessage("What is the weather in Oslo?")
            answer = bound.bind(max_tokens=400).invoke([asked])
            assert answer.tool_calls, (name, answer)
            assert {c["name"] for c in answer.tool_calls} == {"weather"}, name
            assert all(isinstance(c["args"]["city"], str) for c in answer.tool_calls), name
            results = [ToolMessage(weather.invoke(c["args"]), tool_call_id=c["id"]) for c in answer.tool_calls]
            after = chat.bind_tools([weather]).invoke([asked, answer, *results])
            assert after.text or after.tool_calls, name


def check_tools_streamed():
    for name, chat in {"openai": openai, "anthropic": anthropic}.items():
        bound = chat.bind_tools([weather], tool_choice="any", strict=True).bind(max_tokens=400)
        joined = None
        for chunk in bound.stream("What is the weather in Oslo?"):
            joined = chunk if joined is None else joined + chunk
        assert {c["name"] for c in joined.tool_calls} == {"weather"}, name
        assert all(isinstance(c["args"]["city"], str) for c in joined.tool_calls), name


def check_tools_left_to_the_model():
    for name, chat in CHATS.items():
        answer = chat.bind_tools([weather]).invoke("Say hello.")
        assert answer.text or answer.tool_calls, name


def check_structured_output():
    for method in ("json_schema", "function_calling"):
        found = openai.bind(max_tokens=400).bound.with_structured_output(Person, method=method).invoke("Bob is 5.")
        assert isinstance(found, Person), method
    assert isinstance(ollama.with_structured_output(Person, method="json_schema").invoke("Bob is 5."), Person)
    assert isinstance(anthropic.with_structured_output(Person).invoke("Bob is 5."), Person)


def check_structured_output_as_any_json():
    raw = ChatOpenAI(base_url=f"{HTTP}/v1", api_key="none", model=MODEL, temperature=0, max_tokens=900)
    found = raw.with_structured_output(None, method="json_mode").invoke('Repeat: {"name": "Bob", "age": 5}')
    assert isinstance(found, dict)


async def check_structured_output_streamed():
    parts = [part async for part in openai.with_structured_output(Person, method="json_schema").astream("Bob is 5.")]
    assert isinstance(parts[-1], Person)


def check_responses_api():
    chat = ChatOpenAI(
        base_url=f"{HTTP}/v1", api_key="none", model=MODEL, temperature=0, max_tokens=60, use_responses_api=True
    )
    assert CITY in chat.invoke(QUESTION).text
    assert CITY in "".join(chunk.text for chunk in chat.stream(QUESTION))


def check_embeddings():
    """Texts, and token ids, which this client sends unless it is told not to."""
    texts = OpenAIEmbeddings(base_url=f"{HTTP}/v1", api_key="none", model=MODEL, check_embedding_ctx_length=False)
    one, two = texts.embed_documents(["a ship", "a boat"])
    assert (len(one), one == two) == (576, False)
    assert OllamaEmbeddings(base_url=HTTP, model=MODEL).embed_query("a ship") == one


if __name__ == "__main__":
    kit.run(globals())
