"""What one request and all together may take: bytes, places, connections, time to arrive, values in an answer."""

import asyncio
import json
import tracemalloc
from array import array

import aiohttp
import pytest
from aiohttp import web
from router_kit import FakeWorker, decode, encode, events_of, quiet_client, until_cut
from waiting import eventually

from argosy_api import limits
from argosy_api.errors import OverloadedError, TooLargeError
from argosy_api.v1 import worker_pb2 as pb
from argosy_router.admission import Admission
from argosy_router.fronts import exchange, http_body, oai_logprobs
from argosy_router.fronts.connections import Connections
from argosy_router.request import Request
from argosy_router.text.vocabulary import Vocabulary

HELLO = {"model": "m", "prompt": "hello", "max_tokens": 8}


# --- the counts


def test_bytes_and_places_are_given_back_as_a_whole():
    """Refused where there are too many, of one request or of all."""
    admission = Admission(places=4, held=100)
    one, other = admission.account(), admission.account()
    one.place(3)
    one.take(90)
    with pytest.raises(OverloadedError):
        other.place(2)
    with pytest.raises(OverloadedError):
        other.take(11)
    one.close()
    one.close()
    assert (admission.running, admission.held) == (0, 0)
    other.place(4)
    with pytest.raises(TooLargeError, match="prompt: makes the request hold more than"):
        other.take(limits.MAX_REQUEST_BYTES + 1, "prompt")


async def test_a_full_router_says_when_to_come_again(rig):
    """Bytes or places: 429 with Retry-After, also while the body still comes; afterwards all is given back."""
    admission = rig.router.service.admission
    admission.held = limits.MAX_HELD_BYTES - 10
    response, body = await rig.post("/v1/completions", HELLO)
    assert (response.status, response.headers["retry-after"]) == (429, "1"), body
    admission.held = 0
    admission.running = limits.MAX_INFLIGHT - 3
    response, body = await rig.post("/v1/completions", {**HELLO, "n": 4})
    assert (response.status, response.headers["retry-after"]) == (429, "1")
    response, _ = await rig.post("/v1/completions", {**HELLO, "n": 3})
    assert response.status == 200
    admission.running -= limits.MAX_INFLIGHT - 3
    assert (admission.running, admission.held) == (0, 0)


async def test_choices_are_places_only_once_the_body_is_there(rig):
    """A sender that takes its time holds no place."""
    reader, writer = await asyncio.open_connection("127.0.0.1", rig.router.http_port)
    raw = json.dumps(HELLO).encode()
    writer.write(f"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(raw)}\r\n\r\n".encode() + raw[:-1])
    await eventually(lambda: rig.router.service.admission.held == len(raw) - 1)
    assert rig.router.service.running == 0
    writer.write(raw[-1:])
    assert b" 200 " in await asyncio.wait_for(reader.readline(), 30)
    writer.close()
    await eventually(lambda: rig.router.service.admission.held == 0)


async def test_a_collected_answer_is_counted(rig, monkeypatch):
    """What is kept until the answer is whole is held like a prompt; a stream keeps nothing."""
    monkeypatch.setattr(limits, "MAX_REQUEST_BYTES", 20_000)
    request = {**HELLO, "max_tokens": 500}
    response, body = await rig.post("/v1/completions", request)
    assert (response.status, json.loads(body)["error"]["param"]) == (413, "max_tokens")
    response, body = await rig.post("/v1/completions", {**request, "stream": True})
    assert events_of(body)[-1]["choices"][0]["finish_reason"] == "length"
    await eventually(lambda: rig.router.service.admission.held == 0)


@pytest.mark.parametrize("form", ["chat", "prompt", "legacy"])
async def test_log_probabilities_count_as_what_is_made_of_them(form):
    """Their message is a small part of the objects and the text that an answer with them takes."""
    words = [f"tok{i:05d}".encode() for i in range(5000)]
    vocabulary = Vocabulary(array("I", map(len, words)), b"".join(words), [])
    entries = [
        pb.TokenLogprob(
            token=t, logprob=-0.5 - t / 7, top=[pb.Alternative(token=t * 7 + i, logprob=-i / 7) for i in range(20)]
        )
        for t in range(500)
    ]
    taken = Request(Admission().account())
    taken.collect(pb.GenerateChunk(logprobs=entries))
    tracemalloc.start()
    try:
        made = {
            "chat": lambda: oai_logprobs.chat(vocabulary, entries, 20),
            "prompt": lambda: oai_logprobs.prompt(vocabulary, [0] * 501, entries),
            "legacy": lambda: oai_logprobs.LegacyLogprobs(vocabulary, 20).take(entries),
        }
        document = await made[form]()
        size = tracemalloc.get_traced_memory()[0] + len(json.dumps(document))
    finally:
        tracemalloc.stop()
    assert taken.account.held > 0.9 * size


async def test_log_probabilities_of_a_prompt_are_counted_in_a_stream_too(rig, monkeypatch):
    monkeypatch.setattr(limits, "MAX_REQUEST_BYTES", 400_000)
    request = {**HELLO, "prompt": "x" * 2000, "prompt_logprobs": 10, "max_tokens": 1, "stream": True}
    body = await until_cut(rig, "/v1/completions", request)
    assert events_of(body)[-1]["error"]["param"] == "max_tokens"
    await eventually(lambda: rig.router.service.admission.held == 0)


# --- choices


async def test_many_choices_of_one_request_take_turns(rig):
    """No more than MAX_FLYING are asked for at once, streamed or not; all are answered."""
    prompts = [f"prompt {i}" for i in range(12)]
    most = 0

    async def watch():
        nonlocal most
        while True:
            most = max(most, sum(w.running for w in rig.workers))
            await asyncio.sleep(0)

    watching = asyncio.create_task(watch())
    request = {**HELLO, "prompt": prompts, "n": 8}
    _, body = await rig.post("/v1/completions", request)
    whole = [c["text"] for c in json.loads(body)["choices"]]
    streamed = dict.fromkeys(range(96), "")
    _, body = await rig.post("/v1/completions", {**request, "stream": True, "stream_options": {"include_usage": True}})
    events = events_of(body)
    for event in events:
        for choice in event["choices"]:
            streamed[choice["index"]] += choice["text"]
    watching.cancel()
    assert list(streamed.values()) == whole
    assert events[-1]["usage"]["completion_tokens"] == 8 * 96
    assert limits.MAX_FLYING >= most > 1
    assert rig.idle()


# --- log-probabilities and ids


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"prompt": "x" * 3500, "prompt_logprobs": 20}, "prompt_logprobs"),
        ({"prompt": "x" * 500, "prompt_logprobs": 20, "n": 8}, "prompt_logprobs"),
        ({"prompt": "x" * 3500, "logprobs": 20, "echo": True}, "prompt_logprobs"),
        ({"max_tokens": 3500, "logprobs": 20}, "logprobs"),
        ({"max_tokens": 500, "logprobs": 20, "n": 8}, "logprobs"),
        ({"prompt": [list(range(200)) * 20] * 40, "n": 8, "return_token_ids": True}, "return_token_ids"),
    ],
    ids=lambda v: str(v)[:40],
)
async def test_answers_have_a_budget(rig, fields, field):
    """Tokens x alternatives over all choices, refused by name before any worker is asked."""
    response, body = await rig.post("/v1/completions", {**HELLO, **fields})
    assert (response.status, json.loads(body)["error"]["param"]) == (400, field)
    assert not any(w.requests for w in rig.workers)


async def test_a_stream_and_a_chat_without_max_tokens_fit_the_budget(rig):
    """A stream holds nothing; a chat gets what the budget leaves, and says `length`."""
    response, _ = await rig.post("/v1/completions", {**HELLO, "max_tokens": 3500, "logprobs": 20, "stream": True})
    assert response.status == 200
    chat = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "logprobs": True, "top_logprobs": 20}
    response, body = await rig.post("/v1/chat/completions", chat)
    choice = json.loads(body)["choices"][0]
    assert choice["finish_reason"] == "length"
    assert len(choice["logprobs"]["content"]) == limits.MAX_LOGPROB_ENTRIES // 21


# --- echo


async def test_echo_is_the_text_that_was_sent(make_rig):
    """Whatever the tokenizer puts before it or makes of it; streamed or not."""
    from router_kit import byte_tokenizer

    rig = await make_rig()
    await rig.add(FakeWorker(tokenizer_json=byte_tokenizer(bos="<|endoftext|>")))
    request = {**HELLO, "prompt": "cafe\u0301 <|im_end|>", "echo": True, "logprobs": 0}
    for stream in (False, True):
        _, body = await rig.post("/v1/completions", {**request, "stream": stream})
        choices = [e["choices"][0] for e in events_of(body)] if stream else json.loads(body)["choices"]
        text = "".join(c["text"] for c in choices)
        assert text.startswith(request["prompt"])
        assert not text.startswith("<|endoftext|>")
        tokens = [t for c in choices for t in c["logprobs"]["tokens"]]
        offsets = [o for c in choices for o in c["logprobs"]["text_offset"]]
        assert tokens[0] == "<|endoftext|>"
        shown = [(t, o) for t, o in zip(tokens, offsets, strict=True) if not t.startswith(("bytes:", "<|endoftext"))]
        assert all(text[o : o + len(t)] == t for t, o in shown)
    ids = encode("hi <|im_end|>")
    _, body = await rig.post("/v1/completions", {**request, "prompt": ids})
    assert json.loads(body)["choices"][0]["text"].startswith(decode(ids))


# --- decisions


async def test_reasons_are_told_only_where_the_router_is_told_to(make_rig):
    """They tell of other clients' requests."""
    rig = await make_rig(decision_headers=False)
    await rig.add(FakeWorker())
    response, _ = await rig.post("/v1/completions", HELLO)
    assert response.headers["x-argosy-worker"] == "w0"
    assert not [h for h in response.headers if "decision" in h.lower() or "predicted" in h.lower()]


# --- slow senders


async def test_a_body_that_trickles_in_is_refused(rig, monkeypatch):
    """It must come with a least speed, however long it says that it is."""
    monkeypatch.setattr(http_body, "GRACE_S", 0.2)
    reader, writer = await asyncio.open_connection("127.0.0.1", rig.router.http_port)
    writer.write(b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n{")
    assert b" 400 " in await asyncio.wait_for(reader.readline(), 30)
    assert b"comes too slowly" in await asyncio.wait_for(reader.read(), 30)
    writer.close()
    assert rig.router.service.admission.held == 0


async def test_connections_without_a_request_are_closed(rig):
    """The head of a request has its time; an idle connection too; running requests are left alone."""
    connections: Connections = rig.router.connections
    connections.head_s, connections._idle_s = 0.3, 0.6
    for worker in rig.workers:
        worker.script.step_s = 0.02
    running = asyncio.create_task(rig.post("/v1/completions", {**HELLO, "max_tokens": 150, "stream": True}))
    for first in (b"GET /health HT", b""):
        reader, writer = await asyncio.open_connection("127.0.0.1", rig.router.http_port)
        writer.write(first)
        assert await asyncio.wait_for(reader.read(), 30) == b""
        writer.close()
    response, body = await running
    assert response.status == 200
    assert body.endswith(b"[DONE]\n\n")


async def test_too_many_connections_are_closed_at_once(rig):
    """Those that there are go on."""
    rig.router.connections._most = 2
    opened = [await asyncio.open_connection("127.0.0.1", rig.router.http_port) for _ in range(2)]
    await eventually(lambda: len(rig.router.connections) == 2)
    reader, _ = await asyncio.open_connection("127.0.0.1", rig.router.http_port)
    with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
        await asyncio.wait_for(reader.readexactly(1), 30)
    reader, writer = opened[0]
    writer.write(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
    assert b" 200 " in await asyncio.wait_for(reader.readline(), 30)
    for _, writer in opened:
        writer.close()


# --- slow readers


def waiting_to_be_sent(rig) -> int:
    return sum(g.transport.get_write_buffer_size() for g in rig.router.connections._guards.values())


async def test_a_whole_answer_that_nobody_takes_is_held_and_given_up(rig, monkeypatch):
    """What waits for a slow reader counts as held, as while it was collected, and does not wait for ever."""
    monkeypatch.setattr(limits, "MAX_LOGPROB_ENTRIES", 1 << 20)
    monkeypatch.setattr(limits, "MAX_REQUEST_BYTES", 1 << 28)
    request = {**HELLO, "prompt": "x" * 3000, "prompt_logprobs": 20, "n": 4, "max_tokens": 1}
    monkeypatch.setattr(exchange, "WRITE_S", 600)
    client = await quiet_client(rig, request)
    await eventually(lambda: waiting_to_be_sent(rig) > 1_000_000)
    assert rig.router.service.admission.held > 1_000_000
    client.close()
    await eventually(lambda: rig.router.service.admission.held == 0)
    monkeypatch.setattr(exchange, "WRITE_S", 0.1)
    monkeypatch.setattr(exchange, "SLOWEST", 1e9)
    client = await quiet_client(rig, request)
    await eventually(lambda: sum(len(w.requests) for w in rig.workers) == 8)
    await eventually(lambda: rig.router.service.admission.held == 0 and not waiting_to_be_sent(rig))
    await eventually(lambda: len(rig.router.connections) == 0)
    client.close()


async def test_the_end_of_a_stream_that_nobody_takes_is_given_up(rig, monkeypatch):
    """Its last bytes may be those that wait for the reader."""
    real = web.StreamResponse.write_eof

    async def waits(self: web.StreamResponse, data: bytes = b"") -> None:
        if type(self) is web.StreamResponse:
            await asyncio.Event().wait()
        await real(self, data)

    monkeypatch.setattr(web.StreamResponse, "write_eof", waits)
    monkeypatch.setattr(exchange, "WRITE_S", 0.1)
    with pytest.raises(aiohttp.ClientPayloadError):
        await rig.post("/v1/completions", {**HELLO, "stream": True})
    await eventually(rig.idle)
