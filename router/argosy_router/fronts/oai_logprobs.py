"""Log-probabilities in the three forms that clients of the OpenAI API know.

One answer may hold tens of thousands of them, which takes a good part of a second: so they are made in slices of a few
milliseconds, between which the event loop turns to everyone else.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from argosy_api.v1 import worker_pb2 as pb
from argosy_router.text.vocabulary import Vocabulary

SLICE = 1024
"""Log-probabilities made at a time."""


async def _slices(entries: Sequence[pb.TokenLogprob], top: int) -> AsyncIterator[Sequence[pb.TokenLogprob]]:
    step = max(1, SLICE // (1 + top))
    for at in range(0, len(entries), step):
        if at:
            await asyncio.sleep(0)
        yield entries[at : at + step]


async def chat(vocabulary: Vocabulary, entries: Sequence[pb.TokenLogprob], top: int) -> dict[str, Any]:
    """The chat form: token strings with their bytes, `top` alternatives each."""

    def one(token: int, logprob: float) -> dict[str, Any]:
        raw = vocabulary.token_bytes(token)
        return {"token": raw.decode("utf-8", "replace"), "logprob": logprob, "bytes": list(raw)}

    content: list[dict[str, Any]] = []
    async for some in _slices(entries, top):
        content += [
            {**one(e.token, e.logprob), "top_logprobs": [one(a.token, a.logprob) for a in e.top[:top]]} for e in some
        ]
    return {"content": content, "refusal": None}


async def prompt(
    vocabulary: Vocabulary, tokens: Sequence[int], entries: Sequence[pb.TokenLogprob]
) -> list[dict[str, Any] | None]:
    """By prompt token, as vLLM has it: null for the first, else token id -> log-probability, rank and text."""
    out: list[dict[str, Any] | None] = [None] if tokens else []
    async for some in _slices(entries, len(entries[0].top) if entries else 0):
        for entry in some:
            both = {str(a.token): a.logprob for a in entry.top} | {str(entry.token): entry.logprob}
            ranks = {str(a.token): rank for rank, a in enumerate(entry.top, start=1)}
            out.append({
                token: {"logprob": value, "rank": ranks.get(token), "decoded_token": vocabulary.token_text(int(token))}
                for token, value in both.items()
            })  # fmt: skip
    return out


@dataclass(slots=True)
class LegacyLogprobs:
    """The completions form: parallel arrays. `offset` is where the next token's text begins in the answer's text."""

    vocabulary: Vocabulary
    top: int
    offset: int = 0

    async def take(self, entries: Sequence[pb.TokenLogprob]) -> dict[str, Any]:
        """The arrays for generated tokens. A control token is not shown: it has the place where it would stand."""
        made = await self._arrays(entries)
        offsets = []
        for entry in entries:
            offsets.append(self.offset)
            if entry.token not in self.vocabulary.special:
                self.offset += _characters(self.vocabulary.token_bytes(entry.token))
        return {**made, "text_offset": offsets}

    async def take_prompt(
        self, tokens: Sequence[int], entries: Sequence[pb.TokenLogprob], offsets: Sequence[int], text: str
    ) -> dict[str, Any]:
        """The arrays for a prompt, whose first token has no log-probability, and whose text stands first in the answer.

        `offsets` are those in `text` where the prompt came as text; ids are placed by what their tokens stand for.
        """
        made = await self._arrays(entries)
        places = list(offsets) or _places([self.vocabulary.token_bytes(t) for t in tokens], len(text))
        self.offset = len(text)
        return {
            "tokens": [self.vocabulary.token_text(tokens[0]), *made["tokens"]],
            "token_logprobs": [None, *made["token_logprobs"]],
            "top_logprobs": [None, *made["top_logprobs"]] if self.top else None,
            "text_offset": places[: 1 + len(entries)],
        }

    async def _arrays(self, entries: Sequence[pb.TokenLogprob]) -> dict[str, Any]:
        tokens: list[str] = []
        values: list[float] = []
        tops: list[dict[str, float]] = []
        async for some in _slices(entries, self.top):
            for entry in some:
                tokens.append(self.vocabulary.token_text(entry.token))
                values.append(entry.logprob)
                tops.append(self._top(entry))
        return {"tokens": tokens, "token_logprobs": values, "top_logprobs": tops if self.top else None}

    def _top(self, entry: pb.TokenLogprob) -> dict[str, float]:
        # the token itself is always among them, as in the OpenAI API
        found = {self.vocabulary.token_text(a.token): a.logprob for a in entry.top[: self.top]}
        found.setdefault(self.vocabulary.token_text(entry.token), entry.logprob)
        return found


def _places(pieces: Sequence[bytes], length: int) -> list[int]:
    """Where each piece begins in a text of `length` characters, of which a decoder may have taken some at the start."""
    starts = list(accumulate(map(_characters, pieces), initial=0))
    shift = max(0, starts[-1] - length)
    return [min(max(0, at - shift), length) for at in starts[:-1]]


def _characters(raw: bytes) -> int:
    """Characters that begin in these bytes; continuation bytes of UTF-8 belong to the one before."""
    return sum(1 for b in raw if b & 0xC0 != 0x80)
