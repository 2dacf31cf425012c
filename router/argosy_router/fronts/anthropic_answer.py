"""Answers in the shape of Anthropic's messages, whole and streamed: blocks of text, thinking and tools used."""

import secrets
from collections.abc import Sequence
from typing import Any

from argosy_api.errors import ArgosyError
from argosy_api.v1 import worker_pb2 as pb
from argosy_router.fronts import dialects
from argosy_router.fronts.gathered import Gathered, finish_reason, stop_reason
from argosy_router.fronts.lines import one_line
from argosy_router.fronts.speech import CALL, REASONING, Saying, Speech, arguments
from argosy_router.fronts.text_request import TextRequest
from argosy_router.prepared import Prepared


class MessageAnswer:
    """Makes the documents of one message."""

    content_type = "text/event-stream; charset=utf-8"

    def __init__(self, request: TextRequest, prepared: Prepared) -> None:
        self.request = request
        self._speech = Speech(request, prepared)
        self._prompt = len(prepared.prompts[0].tokens)
        self._id = f"msg_{secrets.token_hex(12)}"
        self._index = -1
        self._open: tuple[str, int] | None = None
        self._end: dict[str, str | None] = {"stop_reason": None, "stop_sequence": None}

    # --- whole

    async def whole(self, gathered: Sequence[Gathered]) -> dict[str, Any]:
        """The message at once."""
        (one,) = gathered
        content: list[dict[str, Any]] = []
        last: tuple[str, int] | None = None
        for saying in self._speech.sayings(0, "".join(one.text), last=True):
            if last != (saying.kind, saying.number):
                last = (saying.kind, saying.number)
                content.append(_block(saying, begun=False))
            else:
                _add(content[-1], saying)
        for block in content:
            if block["type"] == "tool_use":
                block["input"] = arguments(block["input"])
        ended = self._ended(one.finish, one.stop_reason)
        return {**self._head(content, self._usage(one.cached, one.count)), **ended}

    def _head(self, content: list[dict[str, Any]], usage: dict[str, Any]) -> dict[str, Any]:
        return {
            "id": self._id, "type": "message", "role": "assistant", "model": self.request.model, "content": content,
            "stop_reason": None, "stop_sequence": None, "usage": usage,
        }  # fmt: skip

    def _usage(self, cached: int, count: int) -> dict[str, Any]:
        """Prompt tokens that were in the cache are counted apart, as the protocol has it."""
        return {
            "input_tokens": self._prompt - cached, "cache_read_input_tokens": cached, "cache_creation_input_tokens": 0,
            "output_tokens": count,
        }  # fmt: skip

    def _ended(self, finish: str | None, stopped_by: int | str | None) -> dict[str, str | None]:
        if finish != "stop":
            return {"stop_reason": "max_tokens", "stop_sequence": None}
        if isinstance(stopped_by, str) and stopped_by in self.request.params.stop:
            return {"stop_reason": "stop_sequence", "stop_sequence": stopped_by}
        return {"stop_reason": "tool_use" if self._speech.calls(0) else "end_turn", "stop_sequence": None}

    # --- streamed

    def opening(self, cached: Sequence[int]) -> bytes:
        """The message without its content."""
        message = self._head([], self._usage(cached[0], 0))
        return _event("message_start", message=message) + _event("ping")

    async def event(self, i: int, chunk: pb.GenerateChunk) -> bytes:
        """What a chunk adds to the blocks."""
        finish = finish_reason(chunk)
        events = [self._said(one) for one in self._speech.sayings(i, chunk.text, last=finish is not None)]
        if finish is not None:
            self._end = self._ended(finish, stop_reason(chunk))
        return b"".join(events)

    def _said(self, saying: Saying) -> bytes:
        events = b""
        if self._open != (saying.kind, saying.number):
            events = self._close()
            self._open = (saying.kind, saying.number)
            self._index += 1
            events += _event("content_block_start", index=self._index, content_block=_block(saying, begun=True))
        if not saying.text:
            return events
        if saying.kind == CALL:
            delta = {"type": "input_json_delta", "partial_json": saying.text}
        elif saying.kind == REASONING:
            delta = {"type": "thinking_delta", "thinking": saying.text}
        else:
            delta = {"type": "text_delta", "text": saying.text}
        return events + _event("content_block_delta", index=self._index, delta=delta)

    def _close(self) -> bytes:
        if self._open is None:
            return b""
        self._open = None
        return _event("content_block_stop", index=self._index)

    def ending(self, cached: Sequence[int], delivered: int) -> bytes:
        """Why it ended, and what it took."""
        usage = self._usage(cached[0], delivered)
        return self._close() + _event("message_delta", delta=self._end, usage=usage) + _event("message_stop")

    def failure(self, error: ArgosyError) -> bytes:
        """The error object as an event."""
        return _event("error", **dialects.anthropic(dialects.fault_of(error)))


def _block(saying: Saying, *, begun: bool) -> dict[str, Any]:
    """A block that this begins; `begun`: only its frame, as what is in it follows."""
    text = "" if begun else saying.text
    if saying.kind == CALL:
        name, given = saying.name, {} if begun else text
        return {"type": "tool_use", "id": f"toolu_{secrets.token_hex(12)}", "name": name, "input": given}
    if saying.kind == REASONING:
        return {"type": "thinking", "thinking": text, "signature": ""}
    return {"type": "text", "text": text}


def _add(block: dict[str, Any], saying: Saying) -> None:
    key = {"tool_use": "input", "thinking": "thinking"}.get(block["type"], "text")
    block[key] += saying.text


def _event(kind: str, **more: Any) -> bytes:
    return b"event: " + kind.encode() + b"\ndata: " + one_line({"type": kind, **more}) + b"\n\n"
