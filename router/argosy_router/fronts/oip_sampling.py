"""Sampling parameters of the Open Inference Protocol."""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from argosy_api.errors import InvalidArgumentError
from argosy_api.params import SamplingParams
from argosy_api.structured.constraint import Constraint
from argosy_router.ask import DEFAULT_MAX_TOKENS
from argosy_router.fronts.fields import Fields, parse_json
from argosy_router.fronts.sampling import take_bad_words, take_sampling
from argosy_router.fronts.structured import take_constraint

_SAMPLING = "sampling_parameters."


class Asked(NamedTuple):
    """What `sampling_parameters` say."""

    params: SamplingParams
    cache_salt: str
    priority: int
    bad_words: tuple[str, ...]
    constraint: Constraint | None
    constraint_field: str


def sampling_parameters(text: str, parameters: Mapping[str, Any]) -> Asked:
    """Out of the JSON of the `sampling_parameters` tensor, and the request's `parameters`.

    Numbers may be texts there: Triton's clients send them so. A name may stand in both with one value: its
    sample client sends all of them twice.

    Raises:
        InvalidArgumentError: with the field's path below `sampling_parameters` or `parameters`.

    """
    document = parse_json(text, field="sampling_parameters")
    both = document.keys() & parameters.keys()
    if differing := [name for name in both if json.dumps(document[name]) != json.dumps(parameters[name])]:
        raise InvalidArgumentError(f"parameters.{min(differing)}", "has another value in sampling_parameters")
    fields = Fields(
        {**document, **parameters}, path=_SAMPLING, paths=dict.fromkeys(parameters, "parameters."), texts=True
    )
    max_tokens = fields.integer("max_tokens")
    fields.neutral("n", 1)
    fields.neutral("logprobs")
    params, _ = take_sampling(
        fields, max_tokens=DEFAULT_MAX_TOKENS if max_tokens is None else max_tokens, logprobs=None
    )
    if params.prompt_logprobs is not None:
        raise InvalidArgumentError(f"{_SAMPLING}prompt_logprobs", "has no output tensor in this protocol")
    salt, priority = fields.string("cache_salt") or "", fields.integer("priority") or 0
    bad_words = take_bad_words(fields)
    constraint, constraint_field = take_constraint(fields)
    fields.end()
    return Asked(params, salt, priority, bad_words, constraint, constraint_field)


def take_timeout(parameters: dict[str, Any]) -> float | None:
    """Triton's `timeout` out of the request's parameters, in seconds; there it is in microseconds.

    Raises:
        InvalidArgumentError: it is no such number.

    """
    value = parameters.pop("timeout", None)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InvalidArgumentError("parameters.timeout", "must be an integer above 0 (microseconds)")
    return value / 1e6
