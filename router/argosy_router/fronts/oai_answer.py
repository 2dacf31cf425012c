"""The two shapes of an OpenAI answer, whole and streamed, for completions and for chat."""

import json
import secrets
import time
from collections.abc import Sequence
from typing import Any

from argosy_api.v1 import worker_pb2 as pb
from argosy_router.fronts import oai_format as fmt
from argosy_router.fronts.oai_parse import OaiRequest
from argosy_router.text.models import ModelCard

SSE_DONE = b"data: [DONE]\n\n"


def sse(document: dict[str, Any]) -> bytes:
    """One server-sent event."""
    return (
        b"data: " + json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace") + b"\n\n"
    )


class Answer:
    """Makes the documents of one client request. Choice i is prompt `i // n`, sample `i % n`."""

    def __init__(self, request: OaiRequest, card: ModelCard, prompts: Sequence[list[int]]) -> None:
        self.request = request
        self._text = card.text
        self._prompts = prompts
        self._chat = bool(request.messages)
        self.id = ("chatcmpl-" if self._chat else "cmpl-") + secrets.token_hex(12)
        self._created = int(time.time())
        self._legacy: dict[int, fmt.LegacyLogprobs] = {}
        self._begun: set[int] = set()

    # --- whole

    def whole(self, gathered: Sequence[fmt.Gathered]) -> dict[str, Any]:
        """The answer that is not streamed."""
        choices = [self._chat_choice(i, g) if self._chat else self._choice(i, g) for i, g in enumerate(gathered)]
        return {**self._head(chunk=False), "choices": choices, "usage": self.usage(
            [g.cached for g in gathered], 0 if self.request.only_prompt else sum(len(g.token_ids) for g in gathered)
        )}  # fmt: skip

    def usage(self, cached: Sequence[int], completion: int) -> dict[str, Any]:
        """Usage over all choices: a prompt counts once, whatever n is. `cached` by choice."""
        return fmt.usage(sum(map(len, self._prompts)), sum(cached[:: self.request.n]), completion)

    def _choice(self, i: int, g: fmt.Gathered) -> dict[str, Any]:
        request, prompt = self.request, self._prompt(i)
        text = "" if request.only_prompt else "".join(g.text)
        choice: dict[str, Any] = {
            "index": i,
            "text": (self._text.decode(prompt) if request.echo else "") + text,
            "logprobs": self._legacy_logprobs(i, g, prompt),
            "finish_reason": "length" if request.only_prompt else g.finish,
            "stop_reason": g.stop_reason,
        }
        self._extras(choice, prompt, g.prompt_logprobs)
        if request.return_token_ids:
            choice["token_ids"] = [] if request.only_prompt else g.token_ids
        return choice

    def _legacy_logprobs(self, i: int, g: fmt.Gathered, prompt: list[int]) -> dict[str, Any] | None:
        request = self.request
        if request.params.logprobs is None:
            return None
        legacy = self._legacy_of(i)
        echoed = legacy.take(g.prompt_logprobs, first_token=prompt[0]) if request.echo else legacy.take(())
        made = legacy.take(() if request.only_prompt else g.logprobs)
        return {key: (echoed[key] or []) + (made[key] or []) if made[key] is not None else None for key in made}

    def _legacy_of(self, i: int) -> fmt.LegacyLogprobs:
        return self._legacy.setdefault(i, fmt.LegacyLogprobs(self._text, self.request.params.logprobs or 0))

    def _chat_choice(self, i: int, g: fmt.Gathered) -> dict[str, Any]:
        params = self.request.params
        choice: dict[str, Any] = {
            "index": i,
            "message": {"role": "assistant", "content": "".join(g.text), "refusal": None},
            "logprobs": None if params.logprobs is None else fmt.chat_logprobs(self._text, g.logprobs, params.logprobs),
            "finish_reason": g.finish,
            "stop_reason": g.stop_reason,
        }
        self._extras(choice, self._prompt(i), g.prompt_logprobs)
        if self.request.return_token_ids:
            choice["token_ids"] = g.token_ids
        return choice

    def _extras(self, choice: dict[str, Any], prompt: list[int], entries: Sequence[pb.TokenLogprob]) -> None:
        """The vLLM extensions about the prompt."""
        if self.request.return_token_ids:
            choice["prompt_token_ids"] = prompt
        if self.request.wants_prompt_logprobs and (entries or len(prompt) == 1):
            choice["prompt_logprobs"] = fmt.prompt_logprobs(self._text, prompt, entries)

    def _prompt(self, i: int) -> list[int]:
        return self._prompts[i // self.request.n]

    # --- streamed

    def opening(self, i: int) -> bytes:
        """What precedes a choice's first chunk: chat streams begin with the role."""
        if not self._chat:
            return b""
        delta = {"role": "assistant", "content": ""}
        return self._event([{"index": i, "delta": delta, "logprobs": None, "finish_reason": None}])

    def event(self, i: int, chunk: pb.GenerateChunk) -> bytes:
        """The event for one chunk; empty when there is nothing to say (its text is still held back)."""
        request = self.request
        first = i not in self._begun
        finish = fmt.finish_reason(chunk)
        wants_tokens = (request.params.logprobs is not None or request.return_token_ids) and chunk.token_ids
        if not (chunk.text or finish or wants_tokens or chunk.prompt_logprobs or (first and request.echo)):
            return b""
        self._begun.add(i)
        choice = self._chat_delta(i, chunk) if self._chat else self._delta(i, chunk, first=first)
        choice["finish_reason"] = finish
        if finish:
            choice["stop_reason"] = fmt.stop_reason(chunk)
        if request.return_token_ids:
            choice["token_ids"] = [] if request.only_prompt else list(chunk.token_ids)
            if first:
                choice["prompt_token_ids"] = self._prompt(i)
        if chunk.prompt_logprobs and request.wants_prompt_logprobs:
            choice["prompt_logprobs"] = fmt.prompt_logprobs(self._text, self._prompt(i), chunk.prompt_logprobs)
        return self._event([choice])

    def _delta(self, i: int, chunk: pb.GenerateChunk, *, first: bool) -> dict[str, Any]:
        request, prompt = self.request, self._prompt(i)
        text = "" if request.only_prompt else chunk.text
        logprobs = None
        if request.params.logprobs is not None:
            legacy = self._legacy_of(i)
            echoed = first and request.echo
            start = legacy.take(chunk.prompt_logprobs, first_token=prompt[0]) if echoed else legacy.take(())
            made = legacy.take(() if request.only_prompt else chunk.logprobs)
            logprobs = {k: (start[k] or []) + (made[k] or []) if made[k] is not None else None for k in made}
        if first and request.echo:
            text = self._text.decode(prompt) + text
        return {"index": i, "text": text, "logprobs": logprobs}

    def _chat_delta(self, i: int, chunk: pb.GenerateChunk) -> dict[str, Any]:
        top = self.request.params.logprobs
        logprobs = None if top is None else fmt.chat_logprobs(self._text, chunk.logprobs, top)
        return {"index": i, "delta": {"content": chunk.text} if chunk.text else {}, "logprobs": logprobs}

    def usage_event(self, cached: Sequence[int], completion: int) -> bytes:
        """The last event before [DONE], for stream_options.include_usage: no choices."""
        return sse({**self._head(chunk=True), "choices": [], "usage": self.usage(cached, completion)})

    def _event(self, choices: list[dict[str, Any]]) -> bytes:
        document = {**self._head(chunk=True), "choices": choices}
        if self.request.include_usage:
            document["usage"] = None
        return sse(document)

    def _head(self, *, chunk: bool) -> dict[str, Any]:
        kind = ("chat.completion.chunk" if chunk else "chat.completion") if self._chat else "text_completion"
        return {"id": self.id, "object": kind, "created": self._created, "model": self.request.model}
