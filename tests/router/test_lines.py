"""Streams whose pieces are lines, for readers that end a line where Unicode does."""

import json

import pytest
from router_kit import Script
from saying_kit import KNOWING, Saying

from argosy_router.fronts.lines import one_line

TEXT = "It\u2028rains\u2029in\x85Kiel,\x0b\x0c\x1c\x1d\x1e früh\r\num 5 ⨨ 🌧."


def test_one_line():
    for value in (TEXT, "It rains.", "früh", "\\u2028", "\\\u2028"):
        raw = one_line({"text": value, value: 1})
        assert len(raw.decode().splitlines()) == 1
        assert json.loads(raw) == {"text": value, value: 1}


HI = [{"role": "user", "content": "hi"}]
ASK = {"model": "m", "messages": HI, "max_tokens": 100, "stream": True}


@pytest.mark.parametrize(
    ("path", "body", "text_of"),
    [
        ("/api/chat", {"model": "m", "messages": HI}, lambda piece: piece["message"]["content"]),
        ("/v1/chat/completions", ASK, lambda piece: piece["choices"][0]["delta"].get("content")),
        ("/v1/messages", ASK, lambda piece: piece.get("delta", {}).get("text")),
        (
            "/v1/responses", {"model": "m", "input": "hi", "stream": True},
            lambda piece: piece["delta"] if piece["type"] == "response.output_text.delta" else "",
        ),
        ("/v2/models/m/generate_stream", {"text_input": "hi"}, lambda piece: piece["text_output"]),
    ],
)  # fmt: skip
async def test_a_piece_is_one_line_for_every_reader(make_rig, path, body, text_of):
    worker = Saying(template=KNOWING, script=Script())
    worker.text = TEXT
    rig = await make_rig()
    await rig.add(worker)
    response, raw = await rig.post(path, body)
    assert response.status == 200, raw
    lines = [line.removeprefix("data: ") for line in raw.decode().splitlines()]
    pieces = [json.loads(line) for line in lines if line and not line.startswith("event: ") and line != "[DONE]"]
    assert "".join(text_of(piece) or "" for piece in pieces) == TEXT
