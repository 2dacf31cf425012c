"""What guidellm, aiperf and inference-perf send and look at, request by request (`make test-clients` runs them themselves)."""

import json

import pytest
from router_kit import encode, events_of

HI = [{"role": "user", "content": "hi"}]
PARTS = [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]
USAGE = {"stream": True, "stream_options": {"include_usage": True}}
EACH_USAGE = {"stream": True, "stream_options": {"include_usage": True, "continuous_usage_stats": True}}
SENT = {
    "guidellm, chats": ("/v1/chat/completions", {
        "messages": PARTS, "max_completion_tokens": 6, "max_tokens": 6, "ignore_eos": True, "stop": None, **EACH_USAGE}),
    "guidellm, texts": ("/v1/completions", {"prompt": "hi", "max_tokens": 6, "ignore_eos": True, "stop": None, **EACH_USAGE}),
    "aiperf": ("/v1/chat/completions", {"messages": HI, "max_completion_tokens": 6, "ignore_eos": True, **USAGE}),
    "inference-perf, chats": ("/v1/chat/completions", {"messages": HI, "max_tokens": 6, "ignore_eos": True, **USAGE}),
    "inference-perf, texts": ("/v1/completions", {"prompt": "hi", "max_tokens": 6, "ignore_eos": True, **USAGE}),
}  # fmt: skip
"""Paths and fields beside the model."""
HEADERS = {"x-correlation-id": "c-1", "x-session-affinity": "s-1", "x-request-id": "r-1", "accept": "text/event-stream"}


@pytest.mark.parametrize("who", SENT)
async def test_a_request_is_answered_with_as_many_tokens_as_it_asks_for(rig, who):
    path, fields = SENT[who]
    response, body = await rig.post(path, {"model": "m", **fields}, headers=HEADERS)
    assert (response.status, response.headers["x-request-id"]) == (200, "r-1")
    assert response.content_type == "text/event-stream"
    events = events_of(body)
    assert body.endswith(b"data: [DONE]\n\n")
    # usage is in the last event, which has no choice: the SDKs' helpers look for it nowhere else
    assert events[-1]["choices"] == []
    assert events[-1]["usage"]["completion_tokens"] == 6
    counts = [e["usage"]["completion_tokens"] for e in events if e.get("usage")]
    assert counts == sorted(counts)
    assert (len(counts) == len(events)) is who.startswith("guidellm")
    assert all(line.startswith(b"data: ") for line in body.split(b"\n\n") if line)


async def test_what_is_looked_at_before(rig):
    """guidellm ends where /health is not at the root; aiperf asks whether there are metrics by HEAD."""
    response, _ = await rig.get("/health")
    assert response.status == 200
    _, body = await rig.get("/v1/models")
    assert [model["id"] for model in json.loads(body)["data"]] == ["m"]
    async with rig.http.head(rig.base + "/metrics") as head, rig.http.get(rig.base + "/metrics") as whole:
        assert head.status == whole.status


async def test_prompts_of_random_tokens(rig):
    """inference-perf makes them of random ids: broken characters are characters as any others."""
    text = "\ufffd\ufffd a\ufffd"
    _, body = await rig.post("/v1/completions", {"model": "m", "prompt": text, "max_tokens": 2})
    assert json.loads(body)["usage"]["prompt_tokens"] == len(encode(text))
