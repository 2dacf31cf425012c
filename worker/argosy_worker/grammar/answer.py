"""One answer's way through its grammar: which tokens may follow it, and what may follow a guess at more of it.

The grammar is a state machine that goes forward by tokens and back by counts. It is kept where the answer is, and
brought there from any other place, so that nothing depends on which steps were computed, twice or never: a resumed
answer is read from its first token, guesses are taken back.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from argosy_api.errors import InvalidArgumentError

if TYPE_CHECKING:
    from llguidance import LLMatcher


class AnswerGrammar:
    """A `core.rules.Grammar`. Owned by the thread that samples."""

    def __init__(self, kept: "LLMatcher", anew: "Callable[[], LLMatcher]", ends: Sequence[int]) -> None:
        """`kept`: the state before the first token, which others share; `anew` compiles one of nobody else's."""
        self.problem = ""
        self._kept, self._anew = kept, anew
        self._ends = frozenset(ends)
        self._matcher: LLMatcher | None = None
        self._taken: list[int] = []
        """Tokens that the matcher has gone over."""
        self._sure = 0
        """How many of them are surely the answer's."""
        self._bits: bytes | None = None
        """What may follow them, once it was asked for."""

    def allowed(self, text: Sequence[int], begin: int, upto: int, ahead: Sequence[int]) -> bytes | None:
        """As the protocol says."""
        if self._matcher is None:
            self._begin(self._kept.deep_copy())
        found = self._after(text, begin, upto, ahead)
        if found == b"":  # an error is for ever; should it come of what others did with the same grammar, this has none
            try:
                self._begin(self._anew())
            except InvalidArgumentError as error:
                self.problem = error.problem
                return b""
            found = self._after(text, begin, upto, ahead)
            self._matcher = self._matcher if found != b"" else None
        return found

    def _begin(self, matcher: "LLMatcher") -> None:
        self._matcher = matcher
        self._taken, self._sure, self._bits = [], 0, None

    def _after(self, text: Sequence[int], begin: int, upto: int, ahead: Sequence[int]) -> bytes | None:
        self.problem = ""
        if not self._go(text, begin, upto):
            return b""
        for token in self._further(ahead):
            mask = self._mask()
            if not mask:
                return b""
            if token in self._ends or not _has(mask, token):
                return None
            self._step(token)
        return self._mask()

    def _go(self, text: Sequence[int], begin: int, upto: int) -> bool:
        """To the place after text[begin:upto], but not back over what agrees with what follows there."""
        count = upto - begin
        self._sure = min(self._sure, count)
        while self._sure < count:
            token = text[begin + self._sure]
            if self._sure < len(self._taken) and self._taken[self._sure] != token:
                self._back(self._sure)
            if self._sure == len(self._taken) and not self._step(token):
                return False
            self._sure += 1
        return True

    def _further(self, ahead: Sequence[int]) -> Sequence[int]:
        """The guesses that are still to be gone over, once those that do not agree are taken back."""
        guessed = self._taken[self._sure :]
        same = 0
        while same < min(len(guessed), len(ahead)) and guessed[same] == ahead[same]:
            same += 1
        if same < len(guessed):
            self._back(self._sure + same)
        return ahead[same:]

    def _step(self, token: int) -> bool:
        matcher = self._matcher
        if matcher is None or token in self._ends or not matcher.consume_token(token):
            self.problem = self.problem or "the answer's tokens do not keep to the constraint"
            return False
        self._taken.append(token)
        self._bits = None
        return True

    def _back(self, count: int) -> None:
        if self._matcher is not None and not self._matcher.rollback(len(self._taken) - count):
            self.problem = "the constraint's state was lost"
        del self._taken[count:]
        self._bits = None

    def _mask(self) -> bytes:
        if self._bits is None and self._matcher is not None:
            self._bits = self._matcher.compute_bitmask()
            if self._matcher.is_error():  # its mask would say that the answer may end
                self.problem = f"the constraint is too complex: {self._matcher.get_error().splitlines()[0][:200]}"
        return b"" if self.problem or self._bits is None else self._bits


def _has(bits: bytes, token: int) -> bool:
    return token >> 3 < len(bits) and bool(bits[token >> 3] >> (token & 7) & 1)
