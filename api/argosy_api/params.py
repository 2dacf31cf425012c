"""Sampling parameters: one definition, one set of bounds, checked by the router and again by the worker."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from argosy_api import limits
from argosy_api.errors import InvalidArgumentError


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How tokens are picked and when a request ends. Names and meanings are those of vLLM and the OpenAI API."""

    max_tokens: int = 16
    """Most tokens to generate."""
    min_tokens: int = 0
    """End-of-sequence and stop tokens are not drawn among the first so many, nor does a stop string end the request."""
    temperature: float = 1.0
    """0 is greedy."""
    top_k: int = 0
    """Keep the k most likely tokens; 0 keeps all."""
    top_p: float = 1.0
    """Keep the smallest set of tokens whose probability reaches this."""
    min_p: float = 0.0
    """Keep tokens at least so probable as this part of the most likely one's probability; 0 keeps all."""
    typical_p: float = 1.0
    """Keep the tokens whose information is nearest to the distribution's entropy, until their probability reaches this
    (Meister et al. 2022: Locally Typical Sampling)."""
    repetition_penalty: float = 1.0
    """Logits of tokens in prompt or answer are divided by this where positive, else multiplied (Keskar et al. 2019:
    CTRL)."""
    presence_penalty: float = 0.0
    """Taken off the logit of each token that the answer has."""
    frequency_penalty: float = 0.0
    """Taken off the logit of a token for each time that the answer has it."""
    logit_bias: Sequence[tuple[int, float]] = ()
    """(token id, what is added to its logit), by id."""
    allowed_token_ids: Sequence[int] = ()
    """Only these are drawn; empty for all."""
    bad_words_ids: Sequence[Sequence[int]] = ()
    """Sequences of tokens that an answer never has: the last one is not drawn where the answer ends in the others."""
    seed: int | None = None
    """Same request and same seed: same tokens. Without one the router draws a seed, and a worker where nobody has."""
    stop: Sequence[str] = ()
    """Text that ends the request; not part of the answer."""
    stop_token_ids: Sequence[int] = ()
    """Tokens that end the request, beside the model's own end-of-sequence tokens."""
    ignore_eos: bool = False
    """Go on after end-of-sequence tokens, until max_tokens."""
    logprobs: int | None = None
    """Log-probability of each generated token and of this many alternatives; None for none."""
    prompt_logprobs: int | None = None
    """The same for the prompt's tokens (the first has none)."""

    @property
    def greedy(self) -> bool:
        """Whether the most likely token is always taken."""
        return self.temperature == 0

    @property
    def counts_tokens(self) -> bool:
        """Whether a token's chance depends on how often it occurred."""
        return self.repetition_penalty != 1 or self.presence_penalty != 0 or self.frequency_penalty != 0

    def check(self, *, vocab_size: int | None = None) -> None:
        """Refuse what is out of bounds.

        Raises:
            InvalidArgumentError: naming the first field that is wrong, its value and what would be right.

        """
        _integer("max_tokens", self.max_tokens, 1, limits.MAX_TOKENS)
        _integer("min_tokens", self.min_tokens, 0, self.max_tokens, above="max_tokens")
        _number("temperature", self.temperature, 0.0, limits.MAX_TEMPERATURE)
        _integer("top_k", self.top_k, 0, limits.MAX_VOCAB)
        _number("top_p", self.top_p, 0.0, 1.0, open_below=True)
        _number("min_p", self.min_p, 0.0, 1.0)
        _number("typical_p", self.typical_p, 0.0, 1.0, open_below=True)
        least, most = limits.MIN_REPETITION_PENALTY, limits.MAX_REPETITION_PENALTY
        _number("repetition_penalty", self.repetition_penalty, least, most)
        for name in ("presence_penalty", "frequency_penalty"):
            _number(name, getattr(self, name), -limits.MAX_PENALTY, limits.MAX_PENALTY)
        if self.seed is not None:
            _integer("seed", self.seed, 0, limits.MAX_SEED)
        if self.logprobs is not None:
            _integer("logprobs", self.logprobs, 0, limits.MAX_LOGPROBS)
        if self.prompt_logprobs is not None:
            _integer("prompt_logprobs", self.prompt_logprobs, 0, limits.MAX_LOGPROBS)
        for name in COUNTED:
            if values := getattr(self, name):
                check_counts({name: len(values)})
        for i, text in enumerate(self.stop):
            size = len(text.encode("utf-8", "surrogatepass"))
            if not 0 < size <= limits.MAX_STOP_BYTES:
                raise InvalidArgumentError(f"stop[{i}]", f"has {size} bytes; must have 1 to {limits.MAX_STOP_BYTES}")
        self._check_ids((vocab_size or limits.MAX_VOCAB) - 1)

    def _check_ids(self, top: int) -> None:
        for name in ("stop_token_ids", "allowed_token_ids"):
            for i, token in enumerate(getattr(self, name)):
                _integer(f"{name}[{i}]", token, 0, top)
        for token, bias in self.logit_bias:
            _integer("logit_bias", token, 0, top)
            _number(f"logit_bias.{token}", bias, -limits.MAX_BIAS, limits.MAX_BIAS)
        for i, word in enumerate(self.bad_words_ids):
            check_word(i, len(word))
            for j, token in enumerate(word):
                _integer(f"bad_words_ids[{i}][{j}]", token, 0, top)

    def check_drawable(self, *, vocab_size: int, eos_token_ids: Sequence[int]) -> None:
        """Refuse parameters that may leave no token to draw.

        Raises:
            InvalidArgumentError: naming the narrowest of the fields that do it.

        """
        ends = {*self.stop_token_ids, *(() if self.ignore_eos else eos_token_ids)} if self.min_tokens else set()
        taken = {word[-1] for word in self.bad_words_ids} | ends
        if any(token not in taken for token in self.allowed_token_ids or range(vocab_size)):
            return
        field = "allowed_token_ids" if self.allowed_token_ids else "min_tokens" if ends else "bad_words_ids"
        what = "beside the ends of bad_words_ids and, before min_tokens, what would end the answer"
        raise InvalidArgumentError(field, f"leaves no token to draw {what}")


COUNTED = {
    "stop": (limits.MAX_STOP_STRINGS, "strings"),
    "stop_token_ids": (limits.MAX_STOP_IDS, "ids"),
    "logit_bias": (limits.MAX_BIASES, "ids"),
    "allowed_token_ids": (limits.MAX_ALLOWED_IDS, "ids"),
    "bad_words_ids": (limits.MAX_BAD_WORDS, "words"),
}
"""Of what a request may have several: how many, and what they are."""


def check_counts(counts: Mapping[str, int]) -> None:
    """Refuse more of a field's values than a request may have. Raises InvalidArgumentError."""
    for name, count in counts.items():
        most, what = COUNTED[name]
        if count > most:
            raise InvalidArgumentError(name, f"has {count} {what}; at most {most}")


def check_word(i: int, ids: int) -> None:
    """Refuse a bad word of no ids or of too many. Raises InvalidArgumentError."""
    if not 0 < ids <= limits.MAX_BAD_WORD_IDS:
        raise InvalidArgumentError(f"bad_words_ids[{i}]", f"has {ids} ids; must have 1 to {limits.MAX_BAD_WORD_IDS}")


def check_ending(params: SamplingParams, constraint: object) -> None:
    """Refuse `ignore_eos` with a constraint: an answer is one when it has ended. Raises InvalidArgumentError."""
    if constraint and params.ignore_eos:
        raise InvalidArgumentError("ignore_eos", "must be false where the answer is constrained")


def check_priority(priority: int) -> None:
    """Refuse a priority out of bounds. Raises InvalidArgumentError."""
    _integer("priority", priority, -limits.MAX_PRIORITY, limits.MAX_PRIORITY)


def check_prompt(tokens: Sequence[int], *, vocab_size: int, max_model_len: int, largest: int | None = None) -> None:
    """Refuse an empty prompt, ids outside the vocabulary, and a prompt that leaves no room for one token.

    `largest`: of the ids, of which none is negative, where that is known: to look at each takes its time.

    Raises:
        InvalidArgumentError: field `prompt`, with the numbers. Nothing is ever cut off silently.

    """
    if not tokens:
        raise InvalidArgumentError("prompt", "is empty; at least one token is needed")
    if len(tokens) >= max_model_len:
        raise prompt_too_long("prompt", str(len(tokens)), max_model_len)
    if largest is not None and largest < vocab_size:
        return
    if min(tokens) < 0 or max(tokens) >= vocab_size:
        bad = next(i for i, t in enumerate(tokens) if not 0 <= t < vocab_size)
        raise InvalidArgumentError(f"prompt[{bad}]", f"is token id {tokens[bad]}; must be 0 to {vocab_size - 1}")


def check_resumed(tokens: Sequence[int], text_bytes: int, *, vocab_size: int, most: int) -> None:
    """Refuse tokens that no answer of at most `most` tokens can begin with.

    Raises:
        InvalidArgumentError: field `resumed_tokens` or `resumed_text_bytes`.

    """
    if text_bytes and not tokens:
        raise InvalidArgumentError("resumed_text_bytes", f"is {text_bytes}, without resumed_tokens")
    if len(tokens) > most:
        raise InvalidArgumentError("resumed_tokens", f"has {len(tokens)} tokens; the answer has {most} at most")
    if tokens and max(tokens) >= vocab_size:
        at = next(i for i, token in enumerate(tokens) if token >= vocab_size)
        raise InvalidArgumentError(f"resumed_tokens[{at}]", f"is {tokens[at]}; ids are 0 to {vocab_size - 1}")


def prompt_too_long(field: str, tokens: str, max_model_len: int) -> InvalidArgumentError:
    """The error for a prompt of so many `tokens` ("5000", "more than 8192") that does not fit."""
    return InvalidArgumentError(
        field, f"has {tokens} tokens; the context is {max_model_len}, and at least one must be left to generate"
    )


def _integer(field: str, value: object, low: int, high: int, *, above: str = "") -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidArgumentError(field, f"is {_shown(value)}; must be an integer")
    if not low <= value <= high:
        bound = f"{high} ({above})" if above else str(high)
        raise InvalidArgumentError(field, f"is {_shown(value)}; must be {low} to {bound}")


def _number(field: str, value: object, low: float, high: float, *, open_below: bool = False) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidArgumentError(field, f"is {_shown(value)}; must be a number")
    # NaN fails both comparisons; an integer too large for a float can be compared, but not converted
    if not low <= value <= high or (open_below and value == low):
        shown = f"above {low:g} and at most {high:g}" if open_below else f"{low:g} to {high:g}"
        raise InvalidArgumentError(field, f"is {_shown(value)}; must be {shown}")


def _shown(value: object) -> str:
    if isinstance(value, int) and value.bit_length() > 128:
        return "an integer of very many digits"
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


_SHOWN = 40
"""Characters of a wrong value that are repeated."""
