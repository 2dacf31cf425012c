"""Sampling parameters out of JSON: the OpenAI names and vLLM's extensions, for the HTTP front and for OIP."""

from typing import Any

from argosy_api import limits
from argosy_api.errors import InvalidArgumentError
from argosy_api.params import SamplingParams
from argosy_router.fronts.fields import Fields


def take_sampling(fields: Fields, *, max_tokens: int | None, logprobs: int | None) -> tuple[SamplingParams, bool]:
    """What the fields say, with defaults; `max_tokens` and `logprobs` were taken by the caller.

    Returns the parameters and whether max_tokens was given (where not, they hold a placeholder of 1).
    Ranges are checked later, by `SamplingParams.check`.
    """
    temperature, top_p, top_k = fields.number("temperature"), fields.number("top_p"), fields.integer("top_k")
    params = SamplingParams(
        max_tokens=1 if max_tokens is None else max_tokens,
        min_tokens=fields.integer("min_tokens") or 0,
        temperature=1.0 if temperature is None else temperature,
        # -1 is how vLLM spells "all"
        top_k=0 if top_k in (None, -1) else top_k,
        top_p=1.0 if top_p is None else top_p,
        seed=fields.integer("seed"),
        stop=_stop(fields),
        stop_token_ids=_ids(fields, "stop_token_ids", limits.MAX_STOP_IDS),
        ignore_eos=fields.boolean("ignore_eos") or False,
        logprobs=logprobs,
        prompt_logprobs=fields.integer("prompt_logprobs"),
    )
    for name, *allowed in _NEUTRAL_SAMPLING:
        fields.neutral(name, *allowed)
    return params, max_tokens is not None


_NEUTRAL_SAMPLING: tuple[tuple[Any, ...], ...] = (
    ("frequency_penalty", 0), ("presence_penalty", 0), ("repetition_penalty", 1), ("length_penalty", 1), ("min_p", 0),
    ("logit_bias", {}), ("best_of", 1), ("use_beam_search", False), ("bad_words", []), ("allowed_token_ids",),
    ("skip_special_tokens", True), ("spaces_between_special_tokens", True), ("include_stop_str_in_output", False),
    ("truncate_prompt_tokens",), ("detokenize", True), ("guided_json",), ("guided_regex",), ("guided_choice",),
    ("guided_grammar",), ("structured_outputs",), ("logits_processors", []),
)  # fmt: skip


def _stop(fields: Fields) -> tuple[str, ...]:
    value = fields.raw("stop")
    if value is None:
        return ()
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list):
        raise fields.wrong("stop", value, "a string or an array of strings")
    for i, text in enumerate(value[: limits.MAX_STOP_STRINGS + 1]):
        if not isinstance(text, str):
            raise fields.wrong(f"stop[{i}]", text, "a string")
        try:
            text.encode()
        except UnicodeEncodeError:
            raise InvalidArgumentError(fields.path(f"stop[{i}]"), "is not valid Unicode text") from None
    return tuple(value)


def _ids(fields: Fields, name: str, limit: int) -> tuple[int, ...]:
    value = fields.array(name)
    if value is None:
        return ()
    if len(value) > limit:
        raise InvalidArgumentError(fields.path(name), f"has {len(value)} ids; at most {limit}")
    for i, token in enumerate(value):
        if isinstance(token, bool) or not isinstance(token, int):
            raise fields.wrong(f"{name}[{i}]", token, "an integer")
    return tuple(value)
