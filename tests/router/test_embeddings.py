"""Embeddings through the router, by the openai and the ollama client."""

import ollama
import openai
import pytest
from router_kit import FakeWorker, embedding_of, encode

from argosy_api.errors import InvalidArgumentError
from argosy_router.fronts import embeddings_parse

TEXTS = ["hello", "another"]
WANTED = [embedding_of(encode(text)) for text in TEXTS]


async def test_openai(rig):
    async with openai.AsyncOpenAI(base_url=rig.base + "/v1", api_key="none", max_retries=0) as client:
        for form in ("float", "base64", None):
            more = {} if form is None else {"encoding_format": form}
            for given in (TEXTS, [encode(text) for text in TEXTS]):
                found = await client.embeddings.create(model="m", input=given, **more)
                assert [one.index for one in found.data] == [0, 1]
                if form != "base64":  # the SDK reads it where it chose the form itself
                    assert [one.embedding for one in found.data] == WANTED
                assert found.usage.prompt_tokens == found.usage.total_tokens == sum(map(len, TEXTS))
        assert len((await client.embeddings.create(model="m", input="hello", dimensions=4)).data) == 1
        with pytest.raises(openai.BadRequestError) as caught:
            await client.embeddings.create(model="m", input="hello", dimensions=2)
        assert caught.value.param == "dimensions"
        with pytest.raises(openai.BadRequestError) as caught:
            await client.embeddings.create(model="m", input=["x", "y" * 5000])
        assert caught.value.param == "input[1]"
        many = await client.embeddings.create(model="m", input=["hello"] * 100, encoding_format="float")
        assert [one.embedding for one in many.data] == [WANTED[0]] * 100
    assert all(request.embed for worker in rig.workers for request in worker.requests)
    assert rig.idle()


async def test_ollama(rig):
    client = ollama.AsyncClient(host=rig.base)
    found = await client.embed("m:latest", TEXTS)
    assert [list(one) for one in found.embeddings] == WANTED
    assert found.prompt_eval_count == sum(map(len, TEXTS))
    assert [list(one) for one in (await client.embed("m", "hello")).embeddings] == WANTED[:1]
    assert list((await client.embeddings("m", "hello")).embedding) == WANTED[0]
    with pytest.raises(ollama.ResponseError, match="dimensions"):
        await client.embed("m", "hello", dimensions=3)


async def test_a_model_that_gives_none_says_so(make_rig):
    rig = await make_rig()
    await rig.add(FakeWorker(worker_id="w0", embedding_size=0))
    response, raw = await rig.post("/v1/embeddings", {"model": "m", "input": "x"})
    assert (response.status, b"gives no embeddings" in raw) == (400, True)


@pytest.mark.parametrize(
    ("parse", "fields", "field"),
    [
        ("embeddings", {}, "input"), ("embeddings", {"input": []}, "input"), ("embeddings", {"input": ["x", 1]}, "input[1]"),
        ("embeddings", {"input": ["x"] * 2049}, "input"), ("embeddings", {"input": "x", "encoding_format": "int8"}, "encoding_format"),
        ("embeddings", {"input": "x", "dimensions": 0}, "dimensions"), ("embeddings", {"input": "x", "what": 1}, "what"),
        ("ollama_embed", {"input": [1, 2]}, "input"), ("ollama_embeddings", {}, "prompt"),
    ],
    ids=lambda v: str(v)[:40],
)  # fmt: skip
def test_what_is_wrong_is_named(parse, fields, field):
    with pytest.raises(InvalidArgumentError) as caught:
        getattr(embeddings_parse, parse)({"model": "m", **fields})
    assert caught.value.field == field
