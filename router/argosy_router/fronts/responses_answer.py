"""Answers in the shape of OpenAI's responses, whole and as typed events: reasoning, messages and calls as items."""

import secrets
import time
from collections.abc import Sequence
from typing import Any

from argosy_api.errors import ArgosyError
from argosy_api.v1 import worker_pb2 as pb
from argosy_router.fronts import dialects
from argosy_router.fronts.gathered import Gathered, finish_reason
from argosy_router.fronts.lines import one_line
from argosy_router.fronts.speech import CALL, REASONING, Saying, Speech
from argosy_router.fronts.text_request import TextRequest
from argosy_router.prepared import Prepared

_PARTS = {REASONING: "reasoning_text", "content": "output_text"}


class ResponseAnswer:
    """Makes the documents of one response."""

    content_type = "text/event-stream; charset=utf-8"

    def __init__(self, request: TextRequest, prepared: Prepared) -> None:
        self.request = request
        self._speech = Speech(request, prepared)
        self._prompt = len(prepared.prompts[0].tokens)
        self._id = f"resp_{secrets.token_hex(16)}"
        self._created = int(time.time())
        self._output: list[dict[str, Any]] = []
        self._open: tuple[str, int] | None = None
        self._thought = False
        self._finish = "stop"
        self._number = -1

    # --- the object

    async def whole(self, gathered: Sequence[Gathered]) -> dict[str, Any]:
        """The response at once: what a stream's events would make."""
        (one,) = gathered
        self._finish = one.finish or "stop"
        for saying in self._speech.sayings(0, "".join(one.text), last=True):
            self._said(saying)
        self._close(self._status())
        return self._response(self._status(), one.cached, one.count)

    def _response(self, status: str, cached: int = 0, count: int | None = None) -> dict[str, Any]:
        told, params = self.request.told, self.request.params
        return {
            "id": self._id, "object": "response", "created_at": self._created, "status": status, "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "instructions": told["instructions"], "max_output_tokens": told["max_output_tokens"],
            "model": self.request.model, "output": self._output, "parallel_tool_calls": told["parallel"],
            "previous_response_id": None, "reasoning": {"effort": None, "summary": None}, "store": False,
            "temperature": params.temperature, "text": {"format": told["format"]}, "tool_choice": told["choice"],
            "tools": told["tools"], "top_p": params.top_p, "truncation": "disabled", "metadata": told["metadata"],
            "usage": None if count is None else self._usage(cached, count),
        }  # fmt: skip

    def _usage(self, cached: int, count: int) -> dict[str, Any]:
        """How many tokens were reasoning is known only where none were."""
        return {
            "input_tokens": self._prompt, "input_tokens_details": {"cached_tokens": cached, "cache_write_tokens": 0},
            "output_tokens": count, "output_tokens_details": None if self._thought else {"reasoning_tokens": 0},
            "total_tokens": self._prompt + count,
        }  # fmt: skip

    def _status(self) -> str:
        return "completed" if self._finish == "stop" else "incomplete"

    # --- streamed

    def opening(self, _: Sequence[int]) -> bytes:
        """The response before it says anything."""
        response = self._response("in_progress")
        return self._event("response.created", response=response) + self._event(
            "response.in_progress", response=response
        )

    async def event(self, i: int, chunk: pb.GenerateChunk) -> bytes:
        """What a chunk adds to the items."""
        finish = finish_reason(chunk)
        self._finish = finish or self._finish
        sayings = self._speech.sayings(i, chunk.text, last=finish is not None)
        return b"".join(self._said(saying) for saying in sayings)

    def ending(self, cached: Sequence[int], delivered: int) -> bytes:
        """The end of the last item, and the whole response."""
        status = self._status()
        return self._close(status) + self._event(
            f"response.{status}", response=self._response(status, cached[0], delivered)
        )

    def failure(self, error: ArgosyError) -> bytes:
        """An error as clients of all of OpenAI's streams look for it."""
        told = dialects.openai(dialects.fault_of(error))["error"]
        return self._event("error", code=told["code"], message=told["message"], param=told["param"], error=told)

    # --- items

    def _said(self, saying: Saying) -> bytes:
        events = b""
        if self._open != (saying.kind, saying.number):
            events = self._close()
            self._open = (saying.kind, saying.number)
            events += self._begin(saying)
        if not saying.text:
            return events
        item = self._output[-1]
        if saying.kind == CALL:
            item["arguments"] += saying.text
            return events + self._of_item("response.function_call_arguments.delta", delta=saying.text)
        item["content"][0]["text"] += saying.text
        more: dict[str, Any] = {} if saying.kind == REASONING else {"logprobs": []}
        kind = f"response.{_PARTS[saying.kind]}.delta"
        return events + self._of_item(kind, content_index=0, delta=saying.text, **more)

    def _begin(self, saying: Saying) -> bytes:
        identity, item = secrets.token_hex(16), dict[str, Any]()
        if saying.kind == CALL:
            item = {
                "id": f"fc_{identity}", "type": "function_call", "status": "in_progress", "name": saying.name,
                "call_id": f"call_{secrets.token_hex(12)}", "arguments": "",
            }  # fmt: skip
        elif saying.kind == REASONING:
            self._thought = True
            item = {"id": f"rs_{identity}", "type": "reasoning", "summary": [], "content": [], "status": "in_progress"}
        else:
            item = {
                "id": f"msg_{identity}",
                "type": "message",
                "role": "assistant",
                "content": [],
                "status": "in_progress",
            }
        self._output.append(item)
        events = self._event("response.output_item.added", output_index=len(self._output) - 1, item=item)
        if saying.kind == CALL:
            return events
        part: dict[str, Any] = {"type": _PARTS[saying.kind], "text": ""}
        if saying.kind != REASONING:
            part |= {"annotations": [], "logprobs": []}
        item["content"].append(part)
        return events + self._of_item("response.content_part.added", content_index=0, part=part)

    def _close(self, status: str = "completed") -> bytes:
        """The end of the item that is open; the last one may have been cut off."""
        if self._open is None:
            return b""
        (kind, _), self._open = self._open, None
        item = self._output[-1]
        if kind == CALL:
            name, given = item["name"], item["arguments"]
            events = self._of_item("response.function_call_arguments.done", name=name, arguments=given)
        else:
            part = item["content"][0]
            more: dict[str, Any] = {} if kind == REASONING else {"logprobs": []}
            events = self._of_item(f"response.{part['type']}.done", content_index=0, text=part["text"], **more)
            events += self._of_item("response.content_part.done", content_index=0, part=part)
        item["status"] = status
        return events + self._event("response.output_item.done", output_index=len(self._output) - 1, item=item)

    def _of_item(self, kind: str, **more: Any) -> bytes:
        item = self._output[-1]
        return self._event(kind, item_id=item["id"], output_index=len(self._output) - 1, **more)

    def _event(self, kind: str, **more: Any) -> bytes:
        if not self.request.stream:
            return b""
        self._number += 1
        document = {"type": kind, "sequence_number": self._number, **more}
        return b"event: " + kind.encode() + b"\ndata: " + one_line(document) + b"\n\n"
