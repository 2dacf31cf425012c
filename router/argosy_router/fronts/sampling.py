"""Sampling parameters out of JSON: the OpenAI names and vLLM's extensions, for the HTTP front and for OIP."""

from typing import Any

from argosy_api import limits
from argosy_api.errors import InvalidArgumentError
from argosy_api.params import SamplingParams, check_counts, check_word
from argosy_router.fronts.fields import Fields


def take_sampling(fields: Fields, *, max_tokens: int | None, logprobs: int | None) -> tuple[SamplingParams, bool]:
    """What the fields say, with defaults; `max_tokens` and `logprobs` were taken by the caller.

    Returns the parameters and whether max_tokens was given (where not, they hold a placeholder of 1).
    Ranges are checked later, by `SamplingParams.check`.
    """
    top_k = fields.integer("top_k")
    params = SamplingParams(
        max_tokens=1 if max_tokens is None else max_tokens,
        min_tokens=fields.integer("min_tokens") or 0,
        temperature=_number(fields, "temperature", 1.0),
        # -1 is how vLLM spells "all"
        top_k=0 if top_k in (None, -1) else top_k,
        top_p=_number(fields, "top_p", 1.0),
        seed=fields.integer("seed"),
        stop=take_stop(fields, "stop"),
        stop_token_ids=_ids(fields, "stop_token_ids") or (),
        ignore_eos=fields.boolean("ignore_eos") or False,
        logprobs=logprobs,
        prompt_logprobs=fields.integer("prompt_logprobs"),
        min_p=_number(fields, "min_p", 0.0),
        typical_p=_number(fields, "typical_p", 1.0),
        repetition_penalty=_number(fields, "repetition_penalty", 1.0),
        presence_penalty=_number(fields, "presence_penalty", 0.0),
        frequency_penalty=_number(fields, "frequency_penalty", 0.0),
        logit_bias=_bias(fields),
        allowed_token_ids=_allowed(fields),
        bad_words_ids=_words(fields),
    )
    for name, *allowed in _NEUTRAL_SAMPLING:
        fields.neutral(name, *allowed)
    return params, max_tokens is not None


_NEUTRAL_SAMPLING: tuple[tuple[Any, ...], ...] = (
    ("length_penalty", 1), ("best_of", 1), ("use_beam_search", False),
    ("skip_special_tokens", True), ("spaces_between_special_tokens", True), ("include_stop_str_in_output", False),
    ("truncate_prompt_tokens",), ("detokenize", True), ("logits_processors", []),
)  # fmt: skip


def take_stop(fields: Fields, name: str) -> tuple[str, ...]:
    """Texts that end an answer; how many and how long they may be is checked with the other parameters."""
    value = fields.raw(name)
    if value is None:
        return ()
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list):
        raise fields.wrong(name, value, "a string or an array of strings")
    for i, text in enumerate(value[: limits.MAX_STOP_STRINGS + 1]):
        if not isinstance(text, str):
            raise fields.wrong(f"{name}[{i}]", text, "a string")
        fields.check_unicode(f"{name}[{i}]", text)
    return tuple(value)


def _number(fields: Fields, name: str, default: float) -> float:
    value = fields.number(name)
    return default if value is None else value


def _bias(fields: Fields) -> tuple[tuple[int, float], ...]:
    """OpenAI's object of token ids (as JSON's keys: texts) and biases."""
    value = fields.raw("logit_bias")
    if value is None:
        return ()
    if not isinstance(value, dict):
        raise fields.wrong("logit_bias", value, "an object of token ids and numbers")
    check_counts({"logit_bias": len(value)})
    found: dict[int, float] = {}
    for key, bias in value.items():
        path = f"logit_bias.{key[:_SHOWN]}"
        if not (key.isascii() and key.isdigit() and len(key) <= _MAX_DIGITS):
            raise InvalidArgumentError(fields.path(path), "is no token id")
        if isinstance(bias, bool) or not isinstance(bias, int | float):
            raise fields.wrong(path, bias, "a number")
        if int(key) in found:
            raise InvalidArgumentError(fields.path(path), "names a token id that is there already")
        found[int(key)] = bias
    return tuple(sorted(found.items()))


_SHOWN = 20
_MAX_DIGITS = 10


def take_bad_words(fields: Fields) -> tuple[str, ...]:
    """Texts that an answer may not have; whoever has the tokenizer turns them into ids."""
    value = fields.array("bad_words")
    if value is None:
        return ()
    if len(value) > limits.MAX_BAD_WORDS:
        raise InvalidArgumentError(fields.path("bad_words"), f"has {len(value)} words; at most {limits.MAX_BAD_WORDS}")
    for i, word in enumerate(value):
        path = f"bad_words[{i}]"
        if not isinstance(word, str):
            raise fields.wrong(path, word, "a string")
        size = len(word.encode("utf-8", "surrogatepass"))
        if not 0 < size <= limits.MAX_BAD_WORD_BYTES:
            problem = f"has {size} bytes; must have 1 to {limits.MAX_BAD_WORD_BYTES}"
            raise InvalidArgumentError(fields.path(path), problem)
        fields.check_unicode(path, word)
    return tuple(value)


def _allowed(fields: Fields) -> tuple[int, ...]:
    value = _ids(fields, "allowed_token_ids")
    if value is not None and not value:
        raise InvalidArgumentError(fields.path("allowed_token_ids"), "is an empty array: nothing could be generated")
    return value or ()


def _words(fields: Fields) -> tuple[tuple[int, ...], ...]:
    value = fields.array("bad_words_ids")
    if value is None:
        return ()
    check_counts({"bad_words_ids": len(value)})
    words = []
    for i, word in enumerate(value):
        path = f"bad_words_ids[{i}]"
        if not isinstance(word, list):
            raise fields.wrong(path, word, "an array of token ids")
        check_word(i, len(word))
        words.append(_integers(fields, path, word))
    return tuple(words)


def _ids(fields: Fields, name: str) -> tuple[int, ...] | None:
    value = fields.array(name)
    if value is None:
        return None
    check_counts({name: len(value)})
    return _integers(fields, name, value)


def _integers(fields: Fields, path: str, value: list[Any]) -> tuple[int, ...]:
    for i, token in enumerate(value):
        if isinstance(token, bool) or not isinstance(token, int):
            raise fields.wrong(f"{path}[{i}]", token, "an integer")
    return tuple(value)
