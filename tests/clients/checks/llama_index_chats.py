"""llama-index: chats, streams, tools, structured answers, embeddings."""

from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.embeddings.openai_like import OpenAILikeEmbedding
from llama_index.llms.ollama import Ollama
from llama_index.llms.openai_like import OpenAILike
from pydantic import BaseModel, Field

import kit
from kit import CITY, HTTP, MODEL, QUESTION

V1 = {"api_base": f"{HTTP}/v1", "api_key": "none", "temperature": 0, "max_tokens": 60, "max_retries": 0}
chat = OpenAILike(
    model=MODEL, is_chat_model=True, is_function_calling_model=True, should_use_structured_outputs=True, **V1
)
plain = OpenAILike(model=MODEL, is_chat_model=False, **V1)
ollama = Ollama(model=MODEL, base_url=HTTP, temperature=0, additional_kwargs={"num_predict": 60}, request_timeout=120)
ASKED = [ChatMessage(role="system", content="Answer in one sentence."), ChatMessage(role="user", content=QUESTION)]


class Person(BaseModel):
    name: str = Field(max_length=20)
    age: int = Field(ge=0, le=120)


def weather(city: str) -> str:
    """The weather in a city."""
    return f"sunny in {city}"


def check_chat():
    for llm in (chat, ollama):
        assert CITY in llm.chat(ASKED).message.content, llm
        assert CITY in "".join(part.delta or "" for part in llm.stream_chat(ASKED)), llm


async def check_asynchronous():
    assert CITY in (await chat.achat(ASKED)).message.content
    assert CITY in "".join([part.delta or "" async for part in await chat.astream_chat(ASKED)])


def check_complete():
    assert plain.complete("The capital of France is").text.strip()
    whole = plain.complete("The capital of France is").text
    assert "".join(part.delta or "" for part in plain.stream_complete("The capital of France is")) == whole


def check_tools():
    tool = FunctionTool.from_defaults(weather)
    answer = chat.chat_with_tools([tool], "What is the weather in Oslo?", tool_required=True, max_tokens=400)
    calls = chat.get_tool_calls_from_response(answer)
    assert {c.tool_name for c in calls} == {"weather"}
    assert all(isinstance(c.tool_kwargs["city"], str) for c in calls)


def check_structured():
    llm = chat.as_structured_llm(Person)
    assert isinstance(llm.complete("Bob is 5.").raw, Person)


def check_embeddings():
    model = OpenAILikeEmbedding(model_name=MODEL, api_base=f"{HTTP}/v1", api_key="none")
    one, two = model.get_text_embedding_batch(["a ship", "a boat"])
    assert (len(one), one == two) == (576, False)


if __name__ == "__main__":
    kit.run(globals())
