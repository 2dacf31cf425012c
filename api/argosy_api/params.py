"""Sampling parameters: one definition, one set of bounds, checked by the router and again by the worker."""

import math
from collections.abc import Sequence
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
        if self.seed is not None:
            _integer("seed", self.seed, 0, limits.MAX_SEED)
        if self.logprobs is not None:
            _integer("logprobs", self.logprobs, 0, limits.MAX_LOGPROBS)
        if self.prompt_logprobs is not None:
            _integer("prompt_logprobs", self.prompt_logprobs, 0, limits.MAX_LOGPROBS)
        check_stops(len(self.stop), len(self.stop_token_ids))
        for i, text in enumerate(self.stop):
            size = len(text.encode("utf-8", "surrogatepass"))
            if not 0 < size <= limits.MAX_STOP_BYTES:
                raise InvalidArgumentError(f"stop[{i}]", f"has {size} bytes; must have 1 to {limits.MAX_STOP_BYTES}")
        top = (vocab_size or limits.MAX_VOCAB) - 1
        for i, token in enumerate(self.stop_token_ids):
            _integer(f"stop_token_ids[{i}]", token, 0, top)


def check_stops(strings: int, ids: int) -> None:
    """Refuse more stop strings, or stop token ids, than a request may have. Raises InvalidArgumentError."""
    if strings > limits.MAX_STOP_STRINGS:
        raise InvalidArgumentError("stop", f"has {strings} strings; at most {limits.MAX_STOP_STRINGS}")
    if ids > limits.MAX_STOP_IDS:
        raise InvalidArgumentError("stop_token_ids", f"has {ids} ids; at most {limits.MAX_STOP_IDS}")


def check_prompt(tokens: Sequence[int], *, vocab_size: int, max_model_len: int) -> None:
    """Refuse an empty prompt, ids outside the vocabulary, and a prompt that leaves no room for one token.

    Raises:
        InvalidArgumentError: field `prompt`, with the numbers. Nothing is ever cut off silently.

    """
    if not tokens:
        raise InvalidArgumentError("prompt", "is empty; at least one token is needed")
    if len(tokens) >= max_model_len:
        raise prompt_too_long("prompt", str(len(tokens)), max_model_len)
    if min(tokens) < 0 or max(tokens) >= vocab_size:
        bad = next(i for i, t in enumerate(tokens) if not 0 <= t < vocab_size)
        raise InvalidArgumentError(f"prompt[{bad}]", f"is token id {tokens[bad]}; must be 0 to {vocab_size - 1}")


def prompt_too_long(field: str, tokens: str, max_model_len: int) -> InvalidArgumentError:
    """The error for a prompt of so many `tokens` ("5000", "more than 8192") that does not fit."""
    return InvalidArgumentError(
        field, f"has {tokens} tokens; the context is {max_model_len}, and at least one must be left to generate"
    )


def _integer(field: str, value: object, low: int, high: int, *, above: str = "") -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidArgumentError(field, f"is {value!r}; must be an integer")
    if not low <= value <= high:
        bound = f"{high} ({above})" if above else str(high)
        raise InvalidArgumentError(field, f"is {value}; must be {low} to {bound}")


def _number(field: str, value: object, low: float, high: float, *, open_below: bool = False) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidArgumentError(field, f"is {value!r}; must be a number")
    if not math.isfinite(value) or not low <= value <= high or (open_below and value == low):
        shown = f"above {low:g} and at most {high:g}" if open_below else f"{low:g} to {high:g}"
        raise InvalidArgumentError(field, f"is {value}; must be {shown}")
