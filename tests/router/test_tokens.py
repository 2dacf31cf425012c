"""Texts into tokens and back over HTTP, which models there are and since when, and the best of several completions."""

import json
import time

import anthropic
import pytest
from router_kit import FakeWorker, answer_of, byte_tokenizer, decode, encode, events_of

from argosy_api.v1 import worker_pb2 as pb
from argosy_router.fronts.gathered import Gathered, best

HI = [{"role": "user", "content": "hi"}]
CHAT = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"


async def asked(rig, path, **body):
    response, raw = await rig.post(path, {"model": "m", **body})
    return response, json.loads(raw)


@pytest.mark.parametrize("text", ["hello", "", "é漢 \U0001f600", "<|im_start|>user"])
async def test_a_text_and_its_tokens(rig, text):
    """There and back, and the same tokens as a completion's prompt."""
    if text:
        _, found = await asked(rig, "/tokenize", prompt=text)
        assert found == {"count": len(encode(text)), "max_model_len": 4096, "tokens": encode(text), "token_strs": None}
    _, back = await asked(rig, "/detokenize", tokens=encode(text))
    assert back == {"prompt": text}
    assert not [request for worker in rig.workers for request in worker.requests], "no worker is asked"


async def test_a_chat_and_its_tokens(rig):
    """As the template renders it, with its tools; the answer's own prompt has as many."""
    _, found = await asked(rig, "/tokenize", messages=HI, return_token_strs=True)
    assert found["tokens"] == encode(CHAT)
    assert "".join(found["token_strs"][:2]) == "<|im_start|>u"
    tool = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object", "properties": {}}}}
    _, more = await asked(rig, "/tokenize", messages=HI, tools=[tool])
    _, answer = await asked(rig, "/v1/chat/completions", messages=HI, tools=[tool], max_tokens=1)
    assert more["count"] == answer["usage"]["prompt_tokens"] > found["count"]


async def test_what_the_tokenizer_puts_before_a_text_may_be_left_out(make_rig):
    rig = await make_rig()
    await rig.add(FakeWorker(worker_id="w0", tokenizer_json=byte_tokenizer(bos="<|endoftext|>")))
    _, plain = await asked(rig, "/tokenize", prompt="hello")
    _, bare = await asked(rig, "/tokenize", prompt="hello", add_special_tokens=False)
    assert plain["tokens"] == [*encode("<|endoftext|>"), *bare["tokens"]]


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/tokenize", {}, "prompt"),
        ("/tokenize", {"prompt": 5}, "prompt"),
        ("/tokenize", {"prompt": "x", "temperature": 1}, "temperature"),
        ("/tokenize", {"prompt": "x" * 5000}, "prompt"),
        ("/tokenize", {"messages": []}, "messages"),
        ("/tokenize", {"messages": HI, "add_generation_prompt": False}, "add_generation_prompt"),
        ("/tokenize", {"prompt": "\ud800"}, "prompt"),
        ("/detokenize", {}, "tokens"),
        ("/detokenize", {"tokens": ["a"]}, "tokens[0]"),
        ("/detokenize", {"tokens": [-1]}, "tokens[0]"),
        ("/detokenize", {"tokens": [1], "text": "x"}, "text"),
    ],
)
async def test_what_is_wrong_is_named(rig, path, body, param):
    response, found = await asked(rig, path, **body)
    assert (response.status, found["error"]["param"]) == (400, param)


async def test_an_unknown_model_has_no_tokens(rig):
    for path, body in (("/tokenize", {"prompt": "x"}), ("/detokenize", {"tokens": [1]})):
        response, _ = await rig.post(path, {"model": "another", **body})
        assert response.status == 404


async def test_models_say_since_when_they_are_there(rig):
    """The resource's own date, or since when the router knows of it; Anthropic's clients find their own form."""
    began = time.time() - 60
    (listed,) = json.loads((await rig.get("/v1/models"))[1])["data"]
    assert began < listed["created"] <= time.time()
    async with anthropic.AsyncAnthropic(base_url=rig.base, api_key="none", max_retries=0) as client:
        (model,) = [model async for model in client.models.list()]
        assert (model.id, model.type, model.display_name) == ("m", "model", "m")
        assert int(model.created_at.timestamp()) == listed["created"]
        assert (await client.models.retrieve("m")).id == "m"
        with pytest.raises(anthropic.NotFoundError) as caught:
            await client.models.retrieve("another")
        assert caught.value.body["error"]["type"] == "not_found_error"


async def test_the_version_and_nothing_of_what_it_is_made_of(rig):
    response, raw = await rig.get("/version")
    assert set(json.loads(raw)) == {"version"}
    assert response.headers["server"] == "argosy"


async def test_best_of(rig):
    """So many are generated and counted, and n of them told."""
    _, found = await asked(rig, "/v1/completions", prompt=["hello", "other"], max_tokens=5, n=2, best_of=4, seed=1)
    assert [choice["index"] for choice in found["choices"]] == [0, 1, 2, 3]
    assert [choice["logprobs"] for choice in found["choices"]] == [None] * 4
    assert found["usage"]["completion_tokens"] == 2 * 4 * 5
    seeds = sorted(request.sampling.seed for worker in rig.workers for request in worker.requests)
    assert seeds == [1, 1, 2, 2, 3, 3, 4, 4]
    _, found = await asked(rig, "/v1/completions", prompt="hello", max_tokens=5, best_of=3, logprobs=1)
    (choice,) = found["choices"]
    assert len(choice["logprobs"]["tokens"]) == 5


def test_the_best_has_the_likeliest_tokens():
    """By the mean, so that a long choice is none the worse for its length; of equal ones the earlier."""

    def choice(name, *logprobs):
        return Gathered(text=[name], logprobs=[pb.TokenLogprob(logprob=value) for value in logprobs])

    first = [choice("a", -3.0), choice("b", -1.0, -1.5), choice("c", -2.0), choice("d", -2.0)]
    other = [choice("e", -1.0), choice("f", -0.5), choice("g", -9.0), choice("h", -0.1, -0.1, -0.1)]
    found = best([*first, *other], of=4, n=2)
    assert [one.text[0] for one in found] == ["b", "c", "h", "f"]


async def test_a_text_is_the_same_with_and_without_a_stream(rig):
    """Whichever token it ends with: those that leave a character unfinished, too, which is told at the end."""
    seen = []
    for count in range(20, 36):
        body = {"prompt": "hello", "max_tokens": count}
        _, plain = await asked(rig, "/v1/completions", **body)
        _, raw = await rig.post("/v1/completions", {"model": "m", **body, "stream": True})
        streamed = "".join(choice["text"] for event in events_of(raw) for choice in event["choices"])
        assert streamed == plain["choices"][0]["text"] == decode(answer_of(encode("hello"), count))
        seen.append(streamed.endswith("\ufffd"))
    assert any(seen)
    assert not all(seen)
