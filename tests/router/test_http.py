"""The OpenAI HTTP front over fake workers."""

import asyncio
import json
import logging

import pytest
from router_kit import FakeWorker, answer_of, byte_tokenizer, decode, encode, events_of
from waiting import LIMIT_S, eventually

from argosy_api import limits

HELLO = {"model": "m", "prompt": "hello", "max_tokens": 8}
TEXT = decode(answer_of(encode("hello"), 8))


async def test_completion_whole(rig):
    """A completion has the worker's text, usage and the decision in its headers."""
    response, body = await rig.post("/v1/completions", HELLO, headers={"x-request-id": "my-id.1"})
    assert response.status == 200
    answer = json.loads(body)
    assert answer["object"] == "text_completion"
    assert answer["choices"][0]["text"] == TEXT
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"] == {
        "prompt_tokens": 5, "completion_tokens": 8, "total_tokens": 13, "prompt_tokens_details": {"cached_tokens": 0},
    }  # fmt: skip
    assert response.headers["x-argosy-worker"] in ("w0", "w1")
    assert response.headers["x-request-id"] == "my-id.1"
    assert response.headers["x-argosy-cached-tokens-predicted"] == "0"
    assert "kvAware" in response.headers["x-argosy-decision"]
    assert rig.idle()


@pytest.mark.parametrize("per_chunk", [1, 3, 50])
async def test_completion_stream(rig, per_chunk):
    """Streamed text adds up to the whole text, and the stream ends with usage and [DONE]."""
    for worker in rig.workers:
        worker.script.tokens_per_chunk = per_chunk
    request = {**HELLO, "max_tokens": 40, "stream": True, "stream_options": {"include_usage": True}}
    response, body = await rig.post("/v1/completions", request)
    assert response.status == 200
    assert response.headers["content-type"].startswith("text/event-stream")
    assert body.endswith(b"data: [DONE]\n\n")
    events = events_of(body)
    assert "".join(e["choices"][0]["text"] for e in events[:-1]) == decode(answer_of(encode("hello"), 40))
    assert all(e["usage"] is None for e in events[:-1])
    assert events[-1]["choices"] == []
    assert events[-1]["usage"]["completion_tokens"] == 40
    assert events[-2]["choices"][0]["finish_reason"] == "length"


async def test_prompts_of_all_kinds(rig):
    """Text, texts, ids and lists of ids; n choices each; indexes in order."""
    ids = encode("hello")
    for prompt in ("hello", ids):
        _, body = await rig.post("/v1/completions", {**HELLO, "prompt": prompt})
        assert json.loads(body)["choices"][0]["text"] == TEXT
    other = decode(answer_of(encode("other"), 8))
    for prompt in (["hello", "other"], [ids, encode("other")]):
        _, body = await rig.post("/v1/completions", {**HELLO, "prompt": prompt, "n": 2, "seed": 5})
        answer = json.loads(body)
        assert [(c["index"], c["text"]) for c in answer["choices"]] == [(0, TEXT), (1, TEXT), (2, other), (3, other)]
        assert answer["usage"]["prompt_tokens"] == 10
        assert answer["usage"]["completion_tokens"] == 32
    seeds = [r.sampling.seed for w in rig.workers for r in w.requests if len(w.requests)]
    assert seeds.count(5) == seeds.count(6) == 4
    drawn = [s for s in seeds if s not in (5, 6)]
    assert len(drawn) == len(set(drawn)) == 2, "the router draws a seed where the request has none"


async def test_many_choices_streamed(rig):
    """Chunks of several choices come side by side, each choice whole."""
    request = {**HELLO, "prompt": ["hello", "other"], "n": 2, "stream": True}
    _, body = await rig.post("/v1/completions", request)
    texts = ["", "", "", ""]
    for event in events_of(body):
        for choice in event["choices"]:
            texts[choice["index"]] += choice["text"]
    other = decode(answer_of(encode("other"), 8))
    assert texts == [TEXT, TEXT, other, other]
    assert rig.idle()


async def test_chat(rig):
    """The template's prompt, a message back; without max_tokens what the context leaves."""
    messages = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": [{"type": "text", "text": "hi"}]},
    ]
    _, body = await rig.post("/v1/chat/completions", {"model": "m", "messages": messages, "max_tokens": 6})
    rendered = "<|im_start|>system\nbe brief<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    answer = json.loads(body)
    assert answer["object"] == "chat.completion"
    assert answer["choices"][0]["message"] == {
        "role": "assistant", "content": decode(answer_of(encode(rendered), 6)), "refusal": None,
    }  # fmt: skip
    assert answer["usage"]["prompt_tokens"] == len(encode(rendered))
    assert len(encode(rendered)) < len(rendered) - 30, "special tokens are single tokens"
    await rig.post("/v1/chat/completions", {"model": "m", "messages": messages, "stream": False})
    biggest = max(r.sampling.max_tokens for w in rig.workers for r in w.requests)
    assert biggest == 4096 - len(encode(rendered))


async def test_chat_stream(rig):
    """The first delta has the role; the rest adds up."""
    request = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 30, "stream": True}
    _, body = await rig.post("/v1/chat/completions", request)
    events = events_of(body)
    assert events[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    text = "".join(e["choices"][0]["delta"].get("content", "") for e in events)
    rendered = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    assert text == decode(answer_of(encode(rendered), 30))
    assert events[-1]["choices"][0]["finish_reason"] == "length"


async def test_completion_logprobs_and_echo(rig):
    """Parallel arrays over prompt and answer; the prompt's first token has none; offsets point into the text."""
    request = {**HELLO, "prompt": "hé", "max_tokens": 3, "logprobs": 2, "echo": True}
    _, body = await rig.post("/v1/completions", request)
    choice = json.loads(body)["choices"][0]
    prompt = encode("hé")
    assert choice["text"] == "hé" + decode(answer_of(prompt, 3))
    logprobs = choice["logprobs"]
    assert len(logprobs["tokens"]) == len(prompt) + 3
    assert logprobs["tokens"][:3] == ["h", "bytes:\\xc3", "bytes:\\xa9"]
    assert logprobs["token_logprobs"] == [None] + [-0.5] * (len(prompt) + 2)
    assert logprobs["top_logprobs"][0] is None
    assert all(len(t) == 2 for t in logprobs["top_logprobs"][1:])
    assert logprobs["text_offset"] == [0, 1, 2, 2, 3, 4]
    assert "prompt_logprobs" not in choice


async def test_only_the_prompt_is_scored(rig):
    """max_tokens 0 with echo: the prompt and its log-probabilities, no new token."""
    request = {**HELLO, "max_tokens": 0, "logprobs": 1, "echo": True}
    for stream in (False, True):
        _, body = await rig.post("/v1/completions", {**request, "stream": stream})
        choice = events_of(body)[0]["choices"][0] if stream else json.loads(body)["choices"][0]
        assert choice["text"] == "hello"
        assert len(choice["logprobs"]["tokens"]) == 5
    assert json.loads((await rig.post("/v1/completions", request))[1])["usage"]["completion_tokens"] == 0


async def test_streamed_logprobs_equal_whole(rig):
    """Arrays of all chunks together are those of the whole answer."""
    request = {**HELLO, "max_tokens": 30, "logprobs": 1, "echo": True}
    _, whole = await rig.post("/v1/completions", request)
    _, streamed = await rig.post("/v1/completions", {**request, "stream": True})
    expected = json.loads(whole)["choices"][0]
    parts = [e["choices"][0] for e in events_of(streamed)]
    assert "".join(p["text"] for p in parts) == expected["text"]
    for key, values in expected["logprobs"].items():
        assert [v for p in parts for v in p["logprobs"][key]] == values


async def test_chat_logprobs(rig):
    """Objects with token, bytes and alternatives."""
    request = {
        "model": "m",
        "messages": [{"role": "user", "content": "hi"}],
        "max_tokens": 4,
        "logprobs": True,
        "top_logprobs": 2,
    }
    _, body = await rig.post("/v1/chat/completions", request)
    content = json.loads(body)["choices"][0]["logprobs"]["content"]
    assert len(content) == 4
    for entry in content:
        assert bytes(entry["bytes"]).decode("utf-8", "replace") == entry["token"]
        assert entry["logprob"] == -0.5
        assert len(entry["top_logprobs"]) == 2
    del request["top_logprobs"]
    _, body = await rig.post("/v1/chat/completions", request)
    assert all(e["top_logprobs"] == [] for e in json.loads(body)["choices"][0]["logprobs"]["content"])


async def test_token_ids_and_prompt_logprobs(rig):
    """vLLM's extensions, whole and streamed."""
    request = {**HELLO, "return_token_ids": True, "prompt_logprobs": 1}
    _, body = await rig.post("/v1/completions", request)
    choice = json.loads(body)["choices"][0]
    assert choice["prompt_token_ids"] == encode("hello")
    assert choice["token_ids"] == answer_of(encode("hello"), 8)
    assert choice["prompt_logprobs"][0] is None
    assert [str(t) in entry for t, entry in zip(encode("hello")[1:], choice["prompt_logprobs"][1:], strict=True)] == [
        True
    ] * 4
    _, body = await rig.post("/v1/completions", {**request, "stream": True})
    parts = [e["choices"][0] for e in events_of(body)]
    assert [t for p in parts for t in p["token_ids"]] == answer_of(encode("hello"), 8)
    assert parts[0]["prompt_token_ids"] == encode("hello")
    assert len(parts[0]["prompt_logprobs"]) == 5


async def test_bos_when_the_model_wants_it(make_rig):
    """A plain prompt begins with bos once, given ids are taken as they are."""
    rig = await make_rig()
    await rig.add(FakeWorker(tokenizer_json=byte_tokenizer(bos="<|endoftext|>")))
    for prompt in ("a", "<|endoftext|>a", encode("a")):
        await rig.post("/v1/completions", {**HELLO, "prompt": prompt, "max_tokens": 1})
    bos = encode("<|endoftext|>")
    assert [list(r.prompt_tokens) for r in rig.workers[0].requests] == [
        bos + encode("a"),
        bos + encode("a"),
        encode("a"),
    ]


async def test_models(rig):
    """Listed and found; unknown ones are 404 and tell what there is."""
    async with rig.http.get(rig.base + "/v1/models") as response:
        listed = await response.json()
    assert [(m["id"], m["object"], m["max_model_len"]) for m in listed["data"]] == [("m", "model", 4096)]
    async with rig.http.get(rig.base + "/v1/models/m") as response:
        assert (await response.json())["id"] == "m"
    async with rig.http.get(rig.base + "/v1/models/default/m") as response:
        assert response.status == 200
    async with rig.http.get(rig.base + "/v1/models/nope") as response:
        assert response.status == 404
    response, body = await rig.post("/v1/completions", {**HELLO, "model": "nope"})
    assert response.status == 404
    message = json.loads(body)["error"]["message"]
    assert "'nope'" in message
    assert "served are: m" in message


async def test_ready_once_the_membership_is_known(make_rig):
    """Health at once, readiness with the first membership."""
    rig = await make_rig()
    for path, status in (("/health", 200), ("/ready", 503)):
        async with rig.http.get(rig.base + path) as response:
            assert response.status == status
    response, _ = await rig.post("/v1/completions", HELLO)
    assert response.status == 503
    rig.announce()
    await eventually(lambda: rig.router.fleet.known)
    async with rig.http.get(rig.base + "/ready") as response:
        assert response.status == 200


BAD = [
    ({"prompt": "x" * 5000}, 400, "prompt"), ({"prompt": ""}, 400, "prompt"), ({"prompt": [99999]}, 400, "prompt[0]"),
    ({"prompt": [-1]}, 400, "prompt[0]"), ({"prompt": [2**40]}, 400, "prompt[0]"), ({"prompt": []}, 400, "prompt"),
    ({"prompt": ["ok", "x" * 5000]}, 400, "prompt[1]"), ({"prompt": "\ud800"}, 400, "prompt"),
    ({"temperature": -1}, 400, "temperature"), ({"max_tokens": -5}, 400, "max_tokens"), ({"n": 100}, 400, "n"),
    ({"stop_token_ids": [10**6]}, 400, "stop_token_ids[0]"), ({"model": "x" * 1000}, 400, "model"),
    ({"cache_salt": "\ud800"}, 400, "cache_salt"), ({"logit_bias": 5}, 400, "logit_bias"),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "status", "field"), BAD, ids=lambda v: str(v)[:40])
async def test_bad_fields(rig, fields, status, field):
    """4xx with the field's name; the next request is served by the same process."""
    response, body = await rig.post("/v1/completions", {**HELLO, **fields})
    error = json.loads(body)["error"]
    assert (response.status, error["param"], error["type"]) == (status, field, "invalid_request_error")
    assert error["message"].startswith(field)
    assert all(not w.requests for w in rig.workers)
    response, _ = await rig.post("/v1/completions", HELLO)
    assert response.status == 200


async def test_chat_too_long_names_messages(rig):
    """The prompt of a chat is its messages."""
    request = {"model": "m", "messages": [{"role": "user", "content": "x" * 5000}]}
    response, body = await rig.post("/v1/chat/completions", request)
    assert (response.status, json.loads(body)["error"]["param"]) == (400, "messages")


@pytest.mark.parametrize("raw", [b"{", b"", b"[]", b'{"model": NaN}', b"\xff", b"[" * 50_000])
async def test_broken_json(rig, raw):
    """400, naming the body."""
    async with rig.http.post(rig.base + "/v1/completions", data=raw) as response:
        assert response.status == 400
        assert (await response.json())["error"]["param"] == "body"


async def test_huge_body_is_refused_unread(rig):
    """100 MB: 413, by the announced length and also without one, and nothing of it is kept."""
    size = 100 * 1024 * 1024

    async def pieces(sent: list[int]):
        for _ in range(size // 65536):
            sent.append(65536)
            yield b"x" * 65536

    for headers in ({"content-length": str(size)}, {}):
        sent: list[int] = []
        try:
            async with rig.http.post(rig.base + "/v1/completions", data=pieces(sent), headers=headers) as response:
                assert response.status == 413
                assert (await response.json())["error"]["param"] == "body"
        except (ConnectionError, OSError):
            pass  # the connection may close before the client has read the answer
        assert sum(sent) < size
        assert rig.router.service.running == 0
    reader, writer = await asyncio.open_connection("127.0.0.1", rig.router.http_port)
    writer.write(b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 104857600\r\n\r\n")
    status = await asyncio.wait_for(reader.readline(), 5)
    assert b" 413 " in status
    writer.close()
    response, _ = await rig.post("/v1/completions", HELLO)
    assert response.status == 200


async def test_body_just_within_the_limit_is_read(rig):
    """A body below the limit fails for what is in it, not for its size."""
    raw = json.dumps({**HELLO, "prompt": "x" * (limits.MAX_BODY_BYTES - 200)})
    async with rig.http.post(rig.base + "/v1/completions", data=raw) as response:
        assert response.status == 400
        assert "bytes; at most" in (await response.json())["error"]["message"]


async def test_wrong_paths_and_methods(rig):
    """404 and 405 as error objects."""
    async with rig.http.get(rig.base + "/v2/nothing") as response:
        assert response.status == 404
        assert "error" in await response.json()
    async with rig.http.get(rig.base + "/v1/completions") as response:
        assert response.status == 405
        assert "POST" in response.headers["allow"]
    for given, kept in (
        ("host/abc-000001", True),
        ("q83vEjRWeJA=", True),
        ("x" * 200, False),
    ):  # as gateways write them
        response, _ = await rig.post("/v1/completions", HELLO, headers={"x-request-id": given})
        assert response.status == 200
        assert (response.headers["x-request-id"] == given) is kept


async def test_what_is_not_there_is_named(rig):
    """A path in the answer, a model in the words of OpenAI's API, by which clients fall back on another one."""
    response, body = await rig.post("/v1/chat/completion", {})
    assert (response.status, json.loads(body)["error"]["message"]) == (404, "POST /v1/chat/completion: Not Found")
    response, body = await rig.post("/v1/completions", {**HELLO, "model": "another"})
    error = json.loads(body)["error"]
    assert (response.status, error["code"], error["param"]) == (404, "model_not_found", "model")
    assert error["message"] == "model: 'another' is not served here; served are: m"


async def test_a_client_of_another_protocol_costs_one_line_of_the_log(rig, caplog):
    """Such as one of gRPC that was given this port."""
    with caplog.at_level(logging.INFO):
        reader, writer = await asyncio.open_connection("127.0.0.1", rig.router.http_port)
        writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9))
        answer = await asyncio.wait_for(reader.read(), LIMIT_S)
        writer.close()
    assert answer.startswith(b"HTTP/1.")
    assert b" 400 " in answer.splitlines()[0]
    assert [r.exc_info for r in caplog.records if r.levelno >= logging.WARNING and r.exc_info] == []
    assert len([r for r in caplog.records if r.levelno >= logging.WARNING]) <= 1


async def test_special_tokens_in_a_plain_prompt(rig):
    """Written-out special tokens are their ids, as with llama.cpp and vLLM."""
    _, body = await rig.post("/v1/completions", {**HELLO, "prompt": "<|im_start|>a", "return_token_ids": True})
    assert len(json.loads(body)["choices"][0]["prompt_token_ids"]) == 2


async def test_metrics(rig):
    """Counted by model, api and code; an unknown model makes no new series."""
    await rig.post("/v1/completions", HELLO)
    await rig.post("/v1/completions", {**HELLO, "model": "evil"})
    async with rig.http.get(f"http://127.0.0.1:{rig.router.metrics_port}/metrics") as response:
        text = await response.text()
    assert 'argosy_router_requests_total{api="http",code="OK",model="m"} 1.0' in text
    assert 'argosy_router_requests_total{api="http",code="NOT_FOUND",model="-"} 1.0' in text
    assert "evil" not in text
    assert 'argosy_router_generated_tokens_total{model="m"} 8.0' in text
    assert 'argosy_router_requests_in_flight{model="m"} 0.0' in text


async def test_two_models_and_one_name_twice(make_rig):
    """The request's model picks; of two that want one name one has it, the other is asked for by its full name."""
    from argosy_api.membership import Deployment

    rig = await make_rig()
    a, b = FakeWorker(worker_id="a"), FakeWorker(worker_id="b", fingerprint="1" * 32)
    for worker in (a, b):
        await worker.start()
        rig.workers.append(worker)
    rig.cluster.announce(
        a.member(), others=(Deployment(namespace="default", name="n", served_name="n", workers=(b.member(),)),)
    )
    await eventually(lambda: rig.router.fleet.known and all(d.card for d in rig.router.fleet.deployments))
    for model, worker in (("m", "a"), ("n", "b"), ("default/n", "b")):
        response, _ = await rig.post("/v1/completions", {**HELLO, "model": model})
        assert response.headers["x-argosy-worker"] == worker
    rig.cluster.announce(
        a.member(), others=(Deployment(namespace="x", name="m", served_name="m", workers=(b.member(),)),)
    )
    await eventually(lambda: any(d.spec.namespace == "x" for d in rig.router.fleet.deployments))
    await eventually(lambda: rig.router.fleet.resolve("x/m").card)
    for model, worker in (("m", "a"), ("default/m", "a"), ("x/m", "b")):
        response, _ = await rig.post("/v1/completions", {**HELLO, "model": model})
        assert response.headers["x-argosy-worker"] == worker


async def test_usage_counts_a_prompt_once(rig):
    """With n choices the prompt, and what was cached of it, count once."""
    await rig.until_indexed()
    request = {**HELLO, "prompt": "a beginning of several blocks, " * 4}
    await rig.post("/v1/completions", request)
    await rig.until_indexed()
    for stream in (False, True):
        more = {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
        _, body = await rig.post("/v1/completions", {**request, "n": 3, **more})
        usage = events_of(body)[-1]["usage"] if stream else json.loads(body)["usage"]
        assert (usage["prompt_tokens"], usage["prompt_tokens_details"]["cached_tokens"]) == (124, 112)
        assert usage["completion_tokens"] == 24
