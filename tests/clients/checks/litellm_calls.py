"""LiteLLM, by each of its providers that can be pointed at a server of one's own."""

import json

import litellm
from pydantic import BaseModel, Field

import kit
from kit import CITY, HTTP, MODEL, QUESTION

ASKED = [{"role": "user", "content": QUESTION}]
V1 = {"api_base": f"{HTTP}/v1", "api_key": "none"}
PROVIDERS = {
    f"openai/{MODEL}": V1,
    f"hosted_vllm/{MODEL}": V1,
    f"anthropic/{MODEL}": {"api_base": HTTP, "api_key": "none"},
    f"ollama_chat/{MODEL}": {"api_base": HTTP},
    f"ollama/{MODEL}": {"api_base": HTTP},
}
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather in a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 20}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}


class Person(BaseModel):
    name: str = Field(max_length=20)
    age: int = Field(ge=0, le=120)


def check_completion():
    for model, where in PROVIDERS.items():
        answer = litellm.completion(model=model, messages=ASKED, max_tokens=40, temperature=0, **where)
        assert CITY in answer.choices[0].message.content, model
        assert answer.usage.completion_tokens > 0, model


def check_stream():
    for model, where in PROVIDERS.items():
        chunks = list(
            litellm.completion(model=model, messages=ASKED, max_tokens=40, temperature=0, stream=True, **where)
        )
        assert CITY in "".join(c.choices[0].delta.content or "" for c in chunks), model
        assert chunks[-1].choices[0].finish_reason in ("stop", "length"), model


async def check_asynchronous():
    for model, where in PROVIDERS.items():
        answer = await litellm.acompletion(model=model, messages=ASKED, max_tokens=40, temperature=0, **where)
        assert CITY in answer.choices[0].message.content, model
        stream = await litellm.acompletion(
            model=model, messages=ASKED, max_tokens=40, temperature=0, stream=True, **where
        )
        assert CITY in "".join([c.choices[0].delta.content or "" async for c in stream]), model


def check_penalties():
    answer = litellm.completion(
        model=f"openai/{MODEL}", messages=ASKED, max_tokens=20, frequency_penalty=0.5, presence_penalty=0.5, seed=3,
        logit_bias={"5": -1}, drop_params=True, **V1,
    )  # fmt: skip
    assert answer.choices[0].message.content


def check_tools():
    for model in (f"openai/{MODEL}", f"hosted_vllm/{MODEL}", f"anthropic/{MODEL}"):
        answer = litellm.completion(
            model=model, messages=[{"role": "user", "content": "Weather in Oslo?"}], tools=[TOOL],
            tool_choice="required", max_tokens=400, temperature=0, **PROVIDERS[model],
        )  # fmt: skip
        calls = answer.choices[0].message.tool_calls
        assert calls, model
        assert all(isinstance(json.loads(c.function.arguments)["city"], str) for c in calls), model


def check_structured():
    for model in (f"openai/{MODEL}", f"hosted_vllm/{MODEL}", f"ollama_chat/{MODEL}"):
        answer = litellm.completion(
            model=model, messages=[{"role": "user", "content": "Bob is 5."}], response_format=Person, max_tokens=200,
            temperature=0, **PROVIDERS[model],
        )  # fmt: skip
        Person.model_validate_json(answer.choices[0].message.content)


def check_text_completion():
    answer = litellm.text_completion(
        model=f"text-completion-openai/{MODEL}", prompt="The capital of France is", max_tokens=8, temperature=0, **V1
    )
    assert answer.choices[0].text.strip()


def check_embeddings():
    one = litellm.embedding(model=f"openai/{MODEL}", input=["a ship", "a boat"], encoding_format="float", **V1)
    assert [len(d["embedding"]) for d in one.data] == [576, 576]
    other = litellm.embedding(model=f"ollama/{MODEL}", input=["a ship"], api_base=HTTP)
    assert len(other.data[0]["embedding"]) == 576


def check_responses():
    answer = litellm.responses(model=f"openai/{MODEL}", input=QUESTION, max_output_tokens=40, temperature=0, **V1)
    assert CITY in answer.output[-1].content[0].text


def check_errors_are_its_own():
    said = ""
    try:
        litellm.completion(model="openai/nobody", messages=ASKED, **V1)
    except litellm.NotFoundError as error:
        said = str(error)
    assert "served are" in said


if __name__ == "__main__":
    litellm.suppress_debug_info = True
    kit.run(globals())
