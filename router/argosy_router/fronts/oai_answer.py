"""The two shapes of an OpenAI answer, whole and streamed, for completions and for chat."""

import secrets
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

from argosy_api.errors import ArgosyError
from argosy_api.v1 import worker_pb2 as pb
from argosy_router.fronts import dialects, oai_logprobs
from argosy_router.fronts import oai_format as fmt
from argosy_router.fronts.gathered import Gathered, best, finish_reason, stop_reason
from argosy_router.fronts.lines import one_line
from argosy_router.fronts.oai_logprobs import LegacyLogprobs
from argosy_router.fronts.oai_voice import Voices
from argosy_router.fronts.text_request import TextRequest
from argosy_router.prepared import Prepared

SSE_DONE = b"data: [DONE]\n\n"


def sse(document: dict[str, Any]) -> bytes:
    """One server-sent event."""
    return b"data: " + one_line(document) + b"\n\n"


class Answer:
    """Makes the documents of one client request. Choice i is prompt `i // n`, sample `i % n`."""

    content_type = "text/event-stream; charset=utf-8"

    def __init__(self, request: TextRequest, prepared: Prepared) -> None:
        self.request = request
        self._vocabulary = prepared.card.text.vocabulary
        self._prompts = [p.tokens for p in prepared.prompts]
        self._offsets = [p.offsets for p in prepared.prompts]
        self._texts = prepared.texts
        self._chat = bool(request.messages)
        self.id = ("chatcmpl-" if self._chat else "cmpl-") + secrets.token_hex(12)
        self._created = int(time.time())
        self._legacy: dict[int, LegacyLogprobs] = {}
        self._begun: set[int] = set()
        self._sent: Counter[int] = Counter()
        self._cached: dict[int, int] = {}
        self._voices = Voices(request, prepared)

    # --- whole

    async def whole(self, gathered: Sequence[Gathered]) -> dict[str, Any]:
        """The answer that is not streamed."""
        usage = self.usage(
            [g.cached for g in gathered], 0 if self.request.only_prompt else sum(g.count for g in gathered)
        )
        if self.request.best_of:
            gathered = best(gathered, of=self.request.best_of, n=self.request.n)
        choices = []
        for i, g in enumerate(gathered):
            choices.append(await (self._chat_choice(i, g) if self._chat else self._choice(i, g)))
        return {**self._head(chunk=False), "choices": choices, "usage": usage}

    def usage(self, cached: Sequence[int], completion: int) -> dict[str, Any]:
        """Usage over all choices: a prompt counts once, whatever n is. `cached` by choice."""
        return fmt.usage(sum(map(len, self._prompts)), sum(cached[:: self.request.each]), completion)

    async def _choice(self, i: int, g: Gathered) -> dict[str, Any]:
        request, prompt = self.request, self._prompt(i)
        text = "" if request.only_prompt else "".join(g.text)
        choice: dict[str, Any] = {
            "index": i,
            "text": self._echo(i) + text,
            "logprobs": await self._legacy_logprobs(i, g.prompt_logprobs, g.logprobs, first=True),
            "finish_reason": "length" if request.only_prompt else g.finish,
            "stop_reason": g.stop_reason,
        }
        await self._extras(choice, prompt, g.prompt_logprobs)
        if request.return_token_ids:
            choice["token_ids"] = [] if request.only_prompt else g.token_ids
        return choice

    def _echo(self, i: int) -> str:
        """The prompt's own text, as it was sent."""
        return self._texts[i // self.request.n] if self.request.echo else ""

    async def _legacy_logprobs(
        self, i: int, prompt: Sequence[pb.TokenLogprob], made: Sequence[pb.TokenLogprob], *, first: bool
    ) -> dict[str, Any] | None:
        """The arrays of what a choice got; with `first` and echo they begin with the prompt."""
        request = self.request
        if request.params.logprobs is None or not request.told.get("logprobs", True):
            return None
        if i not in self._legacy:
            self._legacy[i] = LegacyLogprobs(self._vocabulary, request.params.logprobs)
        legacy, generated = self._legacy[i], () if request.only_prompt else made
        if not (first and request.echo):
            return await legacy.take(generated)
        echoed = await legacy.take_prompt(self._prompt(i), prompt, self._offsets[i // request.n], self._echo(i))
        after = await legacy.take(generated)
        return {key: [*echoed[key], *after[key]] if after[key] is not None else None for key in after}

    async def _chat_choice(self, i: int, g: Gathered) -> dict[str, Any]:
        message, finish = self._voices.message(i, "".join(g.text), g.finish)
        choice: dict[str, Any] = {
            "index": i,
            "message": message,
            "logprobs": await self._chat_logprobs(g.logprobs),
            "finish_reason": finish,
            "stop_reason": g.stop_reason,
        }
        await self._extras(choice, self._prompt(i), g.prompt_logprobs)
        if self.request.return_token_ids:
            choice["token_ids"] = g.token_ids
        return choice

    async def _chat_logprobs(self, entries: Sequence[pb.TokenLogprob]) -> dict[str, Any] | None:
        top = self.request.params.logprobs
        return None if top is None else await oai_logprobs.chat(self._vocabulary, entries, top)

    async def _extras(self, choice: dict[str, Any], prompt: list[int], entries: Sequence[pb.TokenLogprob]) -> None:
        """The vLLM extensions about the prompt."""
        if self.request.return_token_ids:
            choice["prompt_token_ids"] = prompt
        if self.request.wants_prompt_logprobs and (entries or len(prompt) == 1):
            choice["prompt_logprobs"] = await oai_logprobs.prompt(self._vocabulary, prompt, entries)

    def _prompt(self, i: int) -> list[int]:
        return self._prompts[i // self.request.n]

    # --- streamed

    def opening(self, cached: Sequence[int]) -> bytes:
        """What precedes the first chunk: chat streams begin with the role, of each choice."""
        if not self._chat:
            return b""
        delta = {"role": "assistant", "content": ""}
        choices = [{"index": i, "delta": delta, "logprobs": None, "finish_reason": None} for i in range(len(cached))]
        return b"".join(self._event([choice]) for choice in choices)

    async def event(self, i: int, chunk: pb.GenerateChunk) -> bytes:
        """The event for one chunk; empty when there is nothing to say (its text is still held back)."""
        request = self.request
        first = i not in self._begun
        self._sent[i] += len(chunk.token_ids)
        if chunk.HasField("usage"):
            self._cached[i] = chunk.usage.cached_tokens
        finish = finish_reason(chunk)
        wants_tokens = (request.params.logprobs is not None or request.return_token_ids) and chunk.token_ids
        delta: dict[str, Any] = {"content": chunk.text} if chunk.text else {}
        if self._chat:
            delta, finish = self._voices.delta(i, chunk.text, finish)
        if not (
            (delta if self._chat else chunk.text)
            or finish
            or wants_tokens
            or chunk.prompt_logprobs
            or (first and request.echo)
        ):
            return b""
        self._begun.add(i)
        choice = await (self._chat_delta(i, delta, chunk) if self._chat else self._delta(i, chunk, first=first))
        choice["finish_reason"] = finish
        if finish:
            choice["stop_reason"] = stop_reason(chunk)
        if request.return_token_ids:
            choice["token_ids"] = [] if request.only_prompt else list(chunk.token_ids)
            if first:
                choice["prompt_token_ids"] = self._prompt(i)
        if chunk.prompt_logprobs and request.wants_prompt_logprobs:
            choice["prompt_logprobs"] = await oai_logprobs.prompt(
                self._vocabulary, self._prompt(i), chunk.prompt_logprobs
            )
        return self._event([choice])

    async def _delta(self, i: int, chunk: pb.GenerateChunk, *, first: bool) -> dict[str, Any]:
        text = "" if self.request.only_prompt else chunk.text
        logprobs = await self._legacy_logprobs(i, chunk.prompt_logprobs, chunk.logprobs, first=first)
        return {"index": i, "text": (self._echo(i) if first else "") + text, "logprobs": logprobs}

    async def _chat_delta(self, i: int, delta: dict[str, Any], chunk: pb.GenerateChunk) -> dict[str, Any]:
        return {"index": i, "delta": delta, "logprobs": await self._chat_logprobs(chunk.logprobs)}

    def ending(self, cached: Sequence[int], delivered: int) -> bytes:
        """[DONE]; before it, for stream_options.include_usage, an event without choices."""
        if not self.request.include_usage:
            return SSE_DONE
        usage = self.usage(cached, 0 if self.request.only_prompt else delivered)
        return sse({**self._head(chunk=True), "choices": [], "usage": usage}) + SSE_DONE

    def failure(self, error: ArgosyError) -> bytes:
        """The last event of a stream that failed."""
        return sse(dialects.openai(dialects.fault_of(error)))

    def _event(self, choices: list[dict[str, Any]]) -> bytes:
        document = {**self._head(chunk=True), "choices": choices}
        if self.request.usage_always:
            i = choices[0]["index"]
            document["usage"] = fmt.usage(len(self._prompt(i)), self._cached.get(i, 0), self._sent[i])
        elif self.request.include_usage:
            document["usage"] = None
        return sse(document)

    def _head(self, *, chunk: bool) -> dict[str, Any]:
        kind = ("chat.completion.chunk" if chunk else "chat.completion") if self._chat else "text_completion"
        return {"id": self.id, "object": kind, "created": self._created, "model": self.request.model}
