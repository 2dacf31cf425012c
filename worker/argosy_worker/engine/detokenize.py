"""From generated tokens to text, piece by piece, and where a stop string ends it.

The pieces of a request joined are exactly the decoding of all its tokens (special ones skipped), cut before the stop
string. To keep that, two kinds of text are held back until more tokens say what they are: the last character while its
UTF-8 is incomplete, and a tail that may become a stop string.
"""

import logging
from collections.abc import Sequence
from functools import lru_cache

from argosy_api.byte_fallback import REPLACEMENT, sound
from argosy_api.errors import InternalError, ModelInvalidError
from argosy_api.faults import is_fault
from argosy_worker import tokenizer

log = logging.getLogger(__name__)

_CONTEXT = 4
"""Prompt tokens decoded before the first generated one: some decoders drop the space before a text's first word."""
_LONG_WINDOW = 8
"""Undecodable tokens after which a shorter window is looked for, so that endless garbage stays cheap."""


class TextVocabulary:
    """A tokenizer, as far as decoding needs it. Shared by all requests."""

    def __init__(self, tokenizer_json: bytes) -> None:
        """Read a document of the tokenizers library.

        Raises:
            ModelInvalidError: the library refuses it.

        """
        try:
            self._tokenizer = tokenizer.parse(tokenizer_json)
            added = self._tokenizer.get_added_tokens_decoder()
        except BaseException as error:
            if not is_fault(error):
                raise
            raise ModelInvalidError(f"the model's tokenizer is not sound: {error}") from error
        self._special = frozenset(token for token, info in added.items() if info.special)
        decoder = self._tokenizer.decoder
        self._of_bytes = decoder if decoder is not None and b'"ByteFallback"' in decoder.__getstate__() else None

    def silent(self, token: int) -> bool:
        """Whether the token never shows in text: a special one, or an id that the vocabulary does not have."""
        return not self._piece(token)

    def _piece(self, token: int) -> str:
        return "" if token in self._special else self._tokenizer.id_to_token(token) or ""

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of tokens; special and unknown ones are skipped. Each invalid sequence of bytes is one U+FFFD.

        Raises:
            InternalError: the library fails on them. Its panics depend on the tokens: other requests may go on.

        """
        try:
            if self._of_bytes is None:
                text: str = self._tokenizer.decode(tokens, skip_special_tokens=True)
            else:
                text = self._of_bytes.decode(list(sound(filter(None, map(self._piece, tokens)))))
        except BaseException as error:
            if not is_fault(error):
                raise
            log.exception("the model's tokenizer failed")
            raise InternalError("the model's tokenizer failed to turn the tokens into text") from error
        return text


@lru_cache(maxsize=2)
def vocabulary(tokenizer_json: bytes) -> TextVocabulary:
    """The vocabulary of a tokenizer, made once."""
    return TextVocabulary(tokenizer_json)


class IncrementalDecoder:
    """Text of a growing list of tokens. Holds back what more tokens may still change.

    Only a window of tokens is decoded again for each one: it begins with tokens whose text is out already (some
    decoders treat the first token of a text differently), and ends with those whose text is not yet final. Of an
    undecodable tail only the last replacement character can change: each stands for one maximal invalid sequence.
    """

    def __init__(self, vocabulary: TextVocabulary, prompt: Sequence[int] = ()) -> None:
        self._vocabulary = vocabulary
        self._window = [t for t in prompt[-_CONTEXT:] if not vocabulary.silent(t)]
        before = vocabulary.decode(self._window)
        if before.endswith(REPLACEMENT):  # the prompt ends within a character: its text and ours cannot be told apart
            self._window, before = [], ""
        self._out = len(before)
        self._clean = len(self._window)  # tokens of the window whose text is out

    def push(self, token: int) -> str:
        """New final text after one more token."""
        if self._vocabulary.silent(token):
            return ""
        self._window.append(token)
        text = self._vocabulary.decode(self._window)
        open_end = text.endswith(REPLACEMENT)
        new = text[self._out : len(text) - open_end]
        self._out += len(new)
        if not open_end and not new:
            # No text: no context for the next token. Only at the very beginning it may be a space before a word.
            if self._clean or len(self._window) > _LONG_WINDOW:
                self._window.pop()
        elif not open_end:
            self._window = self._window[self._clean :]
            self._clean = len(self._window)
            self._out = len(self._vocabulary.decode(self._window))
        elif len(self._window) - self._clean > _LONG_WINDOW:
            self._shorten(text)
        return new

    def finish(self) -> str:
        """The rest, as it is."""
        rest = self._vocabulary.decode(self._window)[self._out :]
        self._out += len(rest)
        return rest

    def _shorten(self, text: str) -> None:
        """Begin the window at the last place where cutting it changes nothing: there a character begins for sure."""
        for cut in range(len(self._window) - 1, 0, -1):
            head, tail = self._vocabulary.decode(self._window[:cut]), self._vocabulary.decode(self._window[cut:])
            if head + tail == text and len(head) <= self._out:
                self._window, self._clean, self._out = self._window[cut:], 0, self._out - len(head)
                return


class StopFinder:
    """Finds the stop string that is complete first, in text that arrives in pieces; the longest, if several are."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self._ignored = 0  # leading characters of `_held` in which a stop string may begin but not end

    def push(self, piece: str, *, armed: bool = True) -> tuple[str, str | None]:
        """Returns text that may go out, and the stop string that ends the request, if one does.

        While not `armed`, a stop string that is complete is passed through and never counts.
        """
        if not self._stops:
            return piece, None
        self._held += piece
        if armed:
            found = self._first()
            if found is not None:
                end, stop = found
                out, self._held = self._held[: end - len(stop)], ""
                return out, stop
        else:
            self._ignored = len(self._held)
        keep = self._possible_start()
        cut = len(self._held) - keep
        out, self._held = self._held[:cut], self._held[cut:]
        self._ignored = max(0, self._ignored - cut)
        return out, None

    def finish(self) -> str:
        """What was held back, since no stop string came of it."""
        out, self._held = self._held, ""
        return out

    def _first(self) -> tuple[int, str] | None:
        found = None
        for stop in self._stops:
            at = self._held.find(stop, max(0, self._ignored - len(stop) + 1))
            if at >= 0:
                candidate = (at + len(stop), -len(stop), stop)
                found = candidate if found is None else min(found, candidate)
        return None if found is None else (found[0], found[2])

    def _possible_start(self) -> int:
        """Length of the longest tail of the held text that is a proper beginning of a stop string."""
        longest = min(len(self._held), max(len(s) for s in self._stops) - 1)
        for length in range(longest, 0, -1):
            tail = self._held[-length:]
            if any(len(s) > length and s.startswith(tail) for s in self._stops):
                return length
        return 0


class Detokenizer:
    """Text of one request's answer."""

    def __init__(
        self, vocabulary: TextVocabulary, stops: Sequence[str], *, min_tokens: int = 0, prompt: Sequence[int] = ()
    ) -> None:
        self._decoder = IncrementalDecoder(vocabulary, prompt)
        self._finder = StopFinder(stops)
        self._min_tokens = min_tokens
        self._count = 0

    def push(self, token: int) -> tuple[str, str | None]:
        """Text that may go out after one more token, and the stop string that ends the request, if one does."""
        self._count += 1
        return self._finder.push(self._decoder.push(token), armed=self._count >= self._min_tokens)

    def finish(self) -> tuple[str, str | None]:
        """What was held back. An incomplete character at the very end may still complete a stop string."""
        text, stop = self._finder.push(self._decoder.finish(), armed=self._count >= self._min_tokens)
        return (text, stop) if stop is not None else (text + self._finder.finish(), None)
