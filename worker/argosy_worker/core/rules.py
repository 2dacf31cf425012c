"""What a request's parameters say about single tokens, kept ready for whoever samples.

Made once for a request, of the parameters that name tokens or count them. How often each token occurred is counted as
the text grows, never anew from its beginning; the rows of a draft look at the text as if the draft were right so far.
"""

from array import array
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from argosy_api.params import SamplingParams


class Counts(NamedTuple):
    """How often tokens occur in the answer so far. `ids` has those of the prompt, too, where that matters."""

    ids: "array[int]"
    """int64, each once."""
    times: "array[int]"
    """int64; 0 for what only the prompt has."""


class Grammar(Protocol):
    """What a constraint leaves of the vocabulary. Owned by the thread that samples."""

    problem: str
    """Why nothing was left, when it was asked last."""

    def allowed(self, text: Sequence[int], begin: int, upto: int, ahead: Sequence[int]) -> bytes | None:
        """What may follow the answer text[begin:upto] and then `ahead`, which are guesses: bit i is token i's.

        None where the guesses break the grammar, so that nobody needs what follows them. Empty where the answer itself
        has left it, or it has become too complex.
        """
        ...


class TokenRules:
    """Owned by the thread that samples; the scheduler only makes it.

    `text` is the request's known tokens, which are only ever appended to.
    """

    __slots__ = (
        "_from",
        "_ids",
        "_places",
        "_prompt",
        "_text",
        "_times",
        "_upto",
        "allowed",
        "banned",
        "bias",
        "grammar",
        "words",
    )

    def __init__(
        self, params: SamplingParams, text: Sequence[int], prompt_tokens: int, grammar: Grammar | None = None
    ) -> None:
        self.allowed = array("q", params.allowed_token_ids)
        """All that may be drawn; empty for no such limit."""
        self.banned = array("q", (word[0] for word in params.bad_words_ids if len(word) == 1))
        """What may never be drawn."""
        self.bias = (array("q", (t for t, _ in params.logit_bias)), array("f", (b for _, b in params.logit_bias)))
        """Ids, and what is added to their logits."""
        self.words = tuple(tuple(word) for word in params.bad_words_ids if len(word) > 1)
        self.grammar = grammar
        self._text, self._prompt = text, prompt_tokens
        # a prompt's tokens matter to the repetition penalty alone
        self._from = 0 if params.repetition_penalty != 1 else prompt_tokens
        self._reset()

    @classmethod
    def of(
        cls, params: SamplingParams, text: Sequence[int], prompt_tokens: int, grammar: Grammar | None = None
    ) -> "TokenRules | None":
        """None where neither the parameters nor a grammar say anything about single tokens."""
        asked = params.counts_tokens or params.allowed_token_ids or params.bad_words_ids or params.logit_bias
        return cls(params, text, prompt_tokens, grammar) if asked or grammar is not None else None

    def open_after(self, start: int, tokens: Sequence[int], guesses: Sequence[int]) -> bytes | None:
        """As `Grammar.allowed`, after the first `start` known tokens, then `tokens`, then `guesses`.

        None, too, where there is no grammar.
        """
        if self.grammar is None:
            return None
        upto = start + len(tokens)
        if upto <= len(self._text):
            return self.grammar.allowed(self._text, self._prompt, upto, guesses)
        text = (*self._text[:start], *tokens)  # the last of them is not known here yet
        return self.grammar.allowed(text, self._prompt, upto, guesses)

    def banned_after(self, start: int, tokens: Sequence[int]) -> list[int]:
        """Last tokens of longer bad words whose other tokens the answer ends in.

        The answer: the first `start` known tokens without the prompt, and `tokens`.
        """
        found = []
        for word in self.words:
            most = len(word) - 1
            ahead = tokens[-most:]
            if len(ahead) < most:
                ahead = (*self._text[max(0, start - most + len(ahead)) : start], *ahead)
            if start + len(tokens) - most >= self._prompt and tuple(ahead) == word[:-1]:
                found.append(word[-1])
        return found

    def counts_after(self, start: int, tokens: Sequence[int]) -> Counts:
        """Counts over the first `start` known tokens and then `tokens`, which may be guesses and are not kept."""
        if self._upto > start + len(tokens):  # a token that was counted is sampled anew
            self._reset()
        self._advance(start)
        ids, times = self._ids[:], self._times[:]
        new: dict[int, int] = {}
        for position, token in enumerate(tokens[self._upto - start :], self._upto):
            if position < self._from:
                continue
            place = self._places.get(token, new.get(token))
            if place is None:
                place = new[token] = len(ids)
                ids.append(token)
                times.append(0)
            times[place] += position >= self._prompt
        return Counts(ids, times)

    def _reset(self) -> None:
        self._upto = self._from
        self._ids, self._times = array("q"), array("q")
        self._places: dict[int, int] = {}

    def _advance(self, upto: int) -> None:
        for position in range(self._upto, upto):
            token = self._text[position]
            place = self._places.get(token)
            if place is None:
                place = self._places[token] = len(self._ids)
                self._ids.append(token)
                self._times.append(0)
            self._times[place] += position >= self._prompt
        self._upto = max(self._upto, upto)


class RulesAhead(TokenRules):
    """The same rules for who guesses on: the text is the `known` tokens and then `guesses`, which are not kept."""

    __slots__ = ("_guesses", "_known", "_rules")

    def __init__(self, rules: TokenRules, known: int, guesses: Sequence[int]) -> None:  # it shares what rules has made
        self.allowed, self.banned, self.bias, self.words = rules.allowed, rules.banned, rules.bias, rules.words
        self.grammar = rules.grammar
        self._rules, self._known, self._guesses = rules, known, tuple(guesses)

    def banned_after(self, start: int, tokens: Sequence[int]) -> list[int]:
        """As of the rules; `start` is at or after the known tokens."""
        return self._rules.banned_after(self._known, (*self._guesses[: start - self._known], *tokens))

    def open_after(self, start: int, tokens: Sequence[int], guesses: Sequence[int]) -> bytes | None:
        """As of the rules; `start` is at or after the known tokens."""
        return self._rules.open_after(self._known, (), (*self._guesses[: start - self._known], *tokens, *guesses))

    def counts_after(self, start: int, tokens: Sequence[int]) -> Counts:
        """As of the rules; `start` is at or after the known tokens."""
        return self._rules.counts_after(self._known, (*self._guesses[: start - self._known], *tokens))
