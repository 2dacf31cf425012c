"""One answer's way through its grammar: which tokens may follow it, and what may follow a guess at more of it.

The grammar is a state machine that goes forward by tokens and back by counts. It is kept where the answer is, and
brought there from any other place, so that nothing depends on which steps were computed, twice or never: a resumed
answer is read from its first token, guesses are taken back.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from argosy_api.errors import InvalidArgumentError
from argosy_worker.grammar.matchers import Habits, Matchers

if TYPE_CHECKING:
    from llguidance import LLMatcher


class AnswerGrammar:
    """A `core.rules.Grammar`. Owned by the thread that samples."""

    def __init__(
        self,
        kept: "LLMatcher",
        anew: "Callable[[], LLMatcher]",
        ends: Sequence[int],
        habits: Habits | None = None,
    ) -> None:
        """`kept`: the state before the first token, which others share, as they do `habits`; `anew` compiles one of
        nobody else's.
        """
        self.problem = ""
        self._kept, self._anew = kept, anew
        self._ends = frozenset(ends)
        self._habits = Habits() if habits is None else habits
        self._matchers: Matchers | None = None
        self._sure = 0
        """How many of the tokens that they have gone over are surely the answer's."""
        self._bits: bytes | None = None
        """What may follow them, once it was asked for."""

    def allowed(self, text: Sequence[int], begin: int, upto: int, ahead: Sequence[int]) -> bytes | None:
        """As the protocol says."""
        matchers = self._matchers or self._begin(self._kept.deep_copy())
        found = self._after(matchers, text, begin, upto, ahead)
        if found == b"":  # an error is for ever; should it come of what others did with the same grammar, this has none
            try:
                matchers = self._begin(self._anew())
            except InvalidArgumentError as error:
                self.problem = error.problem
                return b""
            found = self._after(matchers, text, begin, upto, ahead)
            self._matchers = matchers if found != b"" else None
        return found

    def _begin(self, matcher: "LLMatcher") -> Matchers:
        self._matchers = Matchers(matcher, self._habits)
        self._sure, self._bits = 0, None
        return self._matchers

    def _after(
        self, matchers: Matchers, text: Sequence[int], begin: int, upto: int, ahead: Sequence[int]
    ) -> bytes | None:
        self.problem = ""
        if not self._go(matchers, text, begin, upto):
            return b""
        for token in self._further(matchers, ahead):
            mask = self._mask(matchers)
            if not mask:
                return b""
            if token in self._ends or not _has(mask, token):
                return None
            self._step(matchers, token)
        return self._mask(matchers)

    def _go(self, matchers: Matchers, text: Sequence[int], begin: int, upto: int) -> bool:
        """To the place after text[begin:upto], but not back over what agrees with what follows there."""
        count = upto - begin
        self._sure = min(self._sure, count)
        while self._sure < count:
            token = text[begin + self._sure]
            if self._sure < len(matchers.taken) and matchers.taken[self._sure] != token:
                self._back(matchers, self._sure)
            if self._sure == len(matchers.taken) and not self._step(matchers, token):
                return False
            self._sure += 1
        return True

    def _further(self, matchers: Matchers, ahead: Sequence[int]) -> Sequence[int]:
        """The guesses that are still to be gone over, once those that do not agree are taken back."""
        guessed = matchers.taken[self._sure :]
        same = 0
        while same < min(len(guessed), len(ahead)) and guessed[same] == ahead[same]:
            same += 1
        if same < len(guessed):
            self._back(matchers, self._sure + same)
        return ahead[same:]

    def _step(self, matchers: Matchers, token: int) -> bool:
        if token in self._ends or not matchers.step(token):
            self.problem = self.problem or "the answer's tokens do not keep to the constraint"
            return False
        self._bits = None
        return True

    def _back(self, matchers: Matchers, count: int) -> None:
        if not matchers.back(count):
            self.problem = "the constraint's state was lost"
        self._bits = None

    def _mask(self, matchers: Matchers) -> bytes:
        if self._bits is None:
            self._bits = matchers.mask()
            if error := matchers.error:  # the mask would say that the answer may end
                self.problem = f"the constraint is too complex: {error.splitlines()[0][:200]}"
        return b"" if self.problem else self._bits


def _has(bits: bytes, token: int) -> bool:
    return token >> 3 < len(bits) and bool(bits[token >> 3] >> (token & 7) & 1)
