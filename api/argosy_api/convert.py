"""Between protobuf messages and the plain types of the contracts."""

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from argosy_api.params import COUNTED, SamplingParams, check_counts, check_word
from argosy_api.v1 import worker_pb2 as pb

ACCEPTED_KEY = "argosy-accepted"
"""In the initial metadata of a worker's Generate: this submission's number, to be compared with `Load.accepted`."""

_ALWAYS = ("max_tokens", "temperature", "top_p", "typical_p", "repetition_penalty")
_SELDOM = {field.name: field.default for field in fields(SamplingParams) if field.name not in _ALWAYS}
"""What most requests leave as it is, and how that is."""


def params_from_proto(message: pb.SamplingParams, *, default_max_tokens: int = 16) -> SamplingParams:
    """Unset fields get their defaults. Only what is copied is checked here: call `SamplingParams.check`.

    Raises:
        InvalidArgumentError: there are too many of what is repeated; a message has room for millions.

    """
    # most requests set two or three of twenty
    given: dict[str, Any] = {field.name: value for field, value in message.ListFields()}
    given.setdefault("max_tokens", default_max_tokens)
    if not given.keys().isdisjoint(COUNTED):
        check_counts({name: len(given[name]) for name in COUNTED if name in given})
        for name in given.keys() & {"stop", "stop_token_ids", "allowed_token_ids"}:
            given[name] = tuple(given[name])
        if "logit_bias" in given:
            given["logit_bias"] = tuple(sorted(message.logit_bias.items()))
        if "bad_words_ids" in given:
            given["bad_words_ids"] = tuple(_word(i, word.ids) for i, word in enumerate(message.bad_words_ids))
    return SamplingParams(**given)


def _word(i: int, ids: Sequence[int]) -> tuple[int, ...]:
    check_word(i, len(ids))
    return tuple(ids)


def params_to_proto(params: SamplingParams) -> pb.SamplingParams:
    """The inverse; call it on checked parameters (proto integers cannot hold negative values)."""
    message = pb.SamplingParams()
    message.max_tokens, message.temperature, message.top_p = params.max_tokens, params.temperature, params.top_p
    message.typical_p, message.repetition_penalty = params.typical_p, params.repetition_penalty
    for name, default in _SELDOM.items():
        value = getattr(params, name)
        if value == default:
            continue
        if name == "logit_bias":
            message.logit_bias.update(value)
        elif name == "bad_words_ids":
            message.bad_words_ids.extend(pb.TokenIds(ids=word) for word in value)
        elif name in COUNTED:
            getattr(message, name).extend(value)
        else:
            setattr(message, name, value)
    return message
