"""A served model's text work, as the router sees it: asked for here, done in a child process of its own."""

import json
from array import array
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from argosy_api import blocks, limits
from argosy_api.errors import InvalidArgumentError, ModelInvalidError
from argosy_api.params import prompt_too_long
from argosy_router.children.child import Child, JobFailedError, JobKilledError, JobRefusedError
from argosy_router.children.frames import Frame
from argosy_router.text.grammars import GrammarTrials
from argosy_router.text.messages import Extras, Message
from argosy_router.text.vocabulary import Vocabulary
from argosy_router.tools.forms import THINK, form_of

LONG_BYTES = 32 * 1024
"""Above this a text goes to the lane of the long ones."""
INLINE_IDS = 4096
"""Prompts of up to so many token ids are addressed here: a millisecond."""
FEW_IDS = 512
"""The largest of so many is found before numpy has begun."""

_NO_EXTRAS = Extras()


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a prompt's encoding is for: `most` is the length at which it is too long, in tokens."""

    most: int
    root: bytes
    block_size: int
    offsets: bool = False
    special: bool = True
    """With what the tokenizer puts around a plain text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoded:
    """A prompt as tokens, with the ids of its full blocks; `offsets`: where each begins in the text, if wanted."""

    tokens: list[int]
    block_ids: list[bytes]
    offsets: list[int]
    largest: int | None = None
    """Of the tokens, where it is known."""
    thinking: bool = False
    """Whether the prompt ends where reasoning has begun."""


class ModelText:
    """One model's tokenizer and template."""

    def __init__(self, child: Child, trials: Child, vocabulary: Vocabulary, template: str) -> None:
        self._child = child
        self.form = form_of(template)
        """How the model writes tool calls."""
        self.chats = bool(template)
        """Whether it takes messages."""
        self.thinks = THINK in template
        """Whether reasoning may stand before its answers."""
        self.grammars = GrammarTrials(trials)
        self.vocabulary = vocabulary

    async def encode(self, text: str, wanted: Wanted, *, field: str) -> Encoded:
        """A plain prompt's tokens.

        Raises:
            InvalidArgumentError: `field` is no Unicode text, is too long, or takes too much time or memory.
            ModelInvalidError: the model's tokenizer fails.

        """
        raw = _utf8(text, field)
        _check_size(len(raw), field)
        return await self._encoded("encode", raw, wanted, field, characters=len(text))

    async def render(
        self, messages: Sequence[Message], wanted: Wanted, *, field: str, extras: Extras = _NO_EXTRAS
    ) -> Encoded:
        """A chat's tokens, by the model's template. Raises as `encode`."""
        given = {"tools": extras.tools, "documents": extras.documents, "variables": extras.variables}
        raw = _utf8(json.dumps({"messages": messages, **given}, ensure_ascii=False), field)
        size = sum(len(m["content"].encode()) for m in messages)
        if extras.tools or extras.documents or extras.variables or any("tool_calls" in m for m in messages):
            size = len(raw)
        _check_size(size, field)
        return await self._encoded("chat", raw, wanted, field, characters=size)

    async def address(self, tokens: list[int], wanted: Wanted, *, field: str) -> Encoded:
        """Given token ids, with their blocks' ids."""
        if len(tokens) <= INLINE_IDS:
            ids = blocks.block_ids(wanted.root, tokens, wanted.block_size)
        else:
            _, (raw,) = await self._ask("blocks", array("I", tokens).tobytes(), wanted, field, long=True)
            ids = _split(raw)
        return Encoded(tokens=tokens, block_ids=ids, offsets=[])

    async def words(self, words: Sequence[str], *, field: str) -> list[tuple[int, ...]]:
        """Sequences of token ids that spell these words. Raises as `encode`."""
        _, (raw,) = await self._ask("words", json.dumps(words).encode(), None, field, long=False)
        found = []
        for i, spellings in enumerate(json.loads(raw)):
            longest = max(map(len, spellings), default=0)
            if not 0 < longest <= limits.MAX_BAD_WORD_IDS:
                problem = f"has {longest} tokens; must have 1 to {limits.MAX_BAD_WORD_IDS}"
                raise InvalidArgumentError(f"{field}[{i}]", problem)
            found += [tuple(ids) for ids in spellings]
        return found

    async def decode(self, tokens: list[int], *, field: str) -> str:
        """The text of token ids, special tokens included."""
        _, (raw,) = await self._ask("decode", array("I", tokens).tobytes(), None, field, long=len(tokens) > INLINE_IDS)
        return raw.decode()

    async def _encoded(self, op: str, raw: bytes, wanted: Wanted, field: str, *, characters: int) -> Encoded:
        header, found = await self._ask(op, raw, wanted, field, long=characters > LONG_BYTES)
        if (least := header.get("at_least")) is not None:
            raise prompt_too_long(field, f"more than {least}", wanted.most)
        if not found:
            raise prompt_too_long(field, str(header["count"]), wanted.most)
        packed, ids, offsets = found
        tokens = array("I", packed).tolist()
        few = len(tokens) <= FEW_IDS
        return Encoded(
            largest=max(tokens, default=0) if few else int(np.frombuffer(packed, np.uint32).max()),
            tokens=tokens,
            block_ids=_split(ids),
            offsets=array("I", offsets).tolist(),
            thinking=bool(header.get("thinking")),
        )

    async def _ask(self, op: str, raw: bytes, wanted: Wanted | None, field: str, *, long: bool) -> Frame:
        header: dict[str, object] = {"op": op}
        if wanted is not None:
            header |= {
                "most": wanted.most, "root": wanted.root.hex(), "block": wanted.block_size, "offsets": wanted.offsets,
                "special": wanted.special,
            }  # fmt: skip
        try:
            return await self._child.call(header, [raw], long=long)
        except (JobRefusedError, JobKilledError) as error:
            raise InvalidArgumentError(field, str(error)) from None
        except JobFailedError as error:
            raise ModelInvalidError(f"the model's tokenizer failed: {error}") from None


def _utf8(text: str, field: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise InvalidArgumentError(field, "is not valid Unicode text") from None


def _check_size(size: int, field: str) -> None:
    if size > limits.MAX_PROMPT_BYTES:
        raise InvalidArgumentError(field, f"has {size} bytes; at most {limits.MAX_PROMPT_BYTES}")


def _split(raw: bytes) -> list[bytes]:
    width = blocks.ID_BYTES
    return [raw[i : i + width] for i in range(0, len(raw), width)]
