"""Answers in Ollama's shape: one object, or one a line."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from argosy_api.errors import ArgosyError
from argosy_api.v1 import worker_pb2 as pb
from argosy_router.clock import now
from argosy_router.fronts import dialects, oai_logprobs
from argosy_router.fronts.gathered import Gathered, finish_reason
from argosy_router.fronts.lines import one_line
from argosy_router.fronts.speech import CALL, REASONING, Saying, Speech, arguments
from argosy_router.fronts.text_request import TextRequest
from argosy_router.prepared import Prepared


class OllamaAnswer:
    """Makes the documents of one answer to /api/chat or /api/generate."""

    content_type = "application/x-ndjson"

    def __init__(self, request: TextRequest, prepared: Prepared) -> None:
        self.request = request
        self._speech = Speech(request, prepared)
        self._prompt = len(prepared.prompts[0].tokens)
        self._vocabulary = prepared.card.text.vocabulary
        self._generates = bool(request.told["generates"])
        self._received_at = prepared.jobs[0].received_at or now()
        self._begun_at = self._received_at
        self._call: list[Saying] = []
        self._reason = "stop"

    # --- whole

    async def whole(self, gathered: Sequence[Gathered]) -> dict[str, Any]:
        """The answer at once."""
        (one,) = gathered
        sayings = self._speech.sayings(0, "".join(one.text), last=True)
        content = "".join(s.text for s in sayings if s.kind not in (CALL, REASONING))
        reasoning = "".join(s.text for s in sayings if s.kind == REASONING)
        numbers = sorted({s.number for s in sayings if s.kind == CALL})
        calls = [_call([s for s in sayings if s.kind == CALL and s.number == number]) for number in numbers]
        document = self._said(content, reasoning, calls) | await self._logprobs(one.logprobs)
        self._begun_at, self._reason = one.begun_at, one.finish or "stop"
        return {**document, **self._done(one.count)}

    # --- streamed

    def opening(self, _: Sequence[int]) -> bytes:
        """Nothing: the first line is the answer's first."""
        self._begun_at = now()
        return b""

    async def event(self, i: int, chunk: pb.GenerateChunk) -> bytes:
        """A line for each piece of a kind; a call is one piece."""
        finish = finish_reason(chunk)
        lines = []
        for saying in self._speech.sayings(i, chunk.text, last=finish is not None):
            if self._call and (saying.kind != CALL or saying.number != self._call[0].number):
                lines.append(self._called())
            if saying.kind == CALL:
                self._call.append(saying)
            elif saying.kind == REASONING:
                lines.append(self._said("", saying.text, []))
            else:
                lines.append(self._said(saying.text, "", []))
        if finish is not None:
            self._reason = finish
            if self._call:
                lines.append(self._called())
        told = await self._logprobs(chunk.logprobs)
        if told and chunk.logprobs:
            lines = lines or [self._said("", "", [])]
            lines[0] |= told
        return b"".join(_line({**line, "done": False}) for line in lines)

    def ending(self, _: Sequence[int], delivered: int) -> bytes:
        """The last line: how it ended, and what it took."""
        return _line({**self._said("", "", []), **self._done(delivered)})

    def failure(self, error: ArgosyError) -> bytes:
        """The error as a line."""
        return _line(dialects.ollama(dialects.fault_of(error)))

    # --- parts

    def _called(self) -> dict[str, Any]:
        call, self._call = self._call, []
        return self._said("", "", [_call(call)])

    def _said(self, content: str, reasoning: str, calls: list[dict[str, Any]]) -> dict[str, Any]:
        head = {"model": self.request.model, "created_at": stamp(datetime.now(UTC))}
        more: dict[str, Any] = {"thinking": reasoning} if reasoning else {}
        if self._generates:
            return {**head, "response": content, **more}
        if calls:
            more["tool_calls"] = calls
        return {**head, "message": {"role": "assistant", "content": content, **more}}

    def _done(self, count: int) -> dict[str, Any]:
        """Times in nanoseconds. Nothing is loaded for a request."""
        ended = now()
        return {
            "done": True, "done_reason": self._reason,
            "total_duration": _ns(ended - self._received_at), "load_duration": 0,
            "prompt_eval_count": self._prompt, "prompt_eval_duration": _ns(self._begun_at - self._received_at),
            "eval_count": count, "eval_duration": _ns(ended - self._begun_at),
        }  # fmt: skip

    async def _logprobs(self, entries: Sequence[pb.TokenLogprob]) -> dict[str, Any]:
        top = self.request.params.logprobs
        if top is None:
            return {}
        return {"logprobs": (await oai_logprobs.chat(self._vocabulary, entries, top))["content"]}


def stamp(moment: datetime) -> str:
    """A moment as Ollama writes it."""
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _call(sayings: Sequence[Saying]) -> dict[str, Any]:
    given = arguments("".join(s.text for s in sayings))
    return {"function": {"index": sayings[0].number, "name": sayings[0].name, "arguments": given}}


def _ns(seconds: float) -> int:
    return max(0, round(seconds * 1e9))


def _line(document: dict[str, Any]) -> bytes:
    return one_line(document) + b"\n"
