"""Between protobuf messages and the plain types of the contracts."""

from collections.abc import Sequence

from argosy_api.params import COUNTED, SamplingParams, check_counts, check_word
from argosy_api.v1 import worker_pb2 as pb

ACCEPTED_KEY = "argosy-accepted"
"""In the initial metadata of a worker's Generate: this submission's number, to be compared with `Load.accepted`."""


def params_from_proto(message: pb.SamplingParams, *, default_max_tokens: int = 16) -> SamplingParams:
    """Unset fields get their defaults. Only what is copied is checked here: call `SamplingParams.check`.

    Raises:
        InvalidArgumentError: there are too many of what is repeated; a message has room for millions.

    """
    check_counts({name: len(getattr(message, name)) for name in COUNTED})
    return SamplingParams(
        max_tokens=message.max_tokens if message.HasField("max_tokens") else default_max_tokens,
        min_tokens=message.min_tokens,
        temperature=message.temperature if message.HasField("temperature") else 1.0,
        top_k=message.top_k,
        top_p=message.top_p if message.HasField("top_p") else 1.0,
        seed=message.seed if message.HasField("seed") else None,
        stop=tuple(message.stop),
        stop_token_ids=tuple(message.stop_token_ids),
        ignore_eos=message.ignore_eos,
        logprobs=message.logprobs if message.HasField("logprobs") else None,
        prompt_logprobs=message.prompt_logprobs if message.HasField("prompt_logprobs") else None,
        min_p=message.min_p,
        typical_p=message.typical_p if message.HasField("typical_p") else 1.0,
        repetition_penalty=message.repetition_penalty if message.HasField("repetition_penalty") else 1.0,
        presence_penalty=message.presence_penalty,
        frequency_penalty=message.frequency_penalty,
        logit_bias=tuple(sorted(message.logit_bias.items())),
        allowed_token_ids=tuple(message.allowed_token_ids),
        bad_words_ids=tuple(_word(i, word.ids) for i, word in enumerate(message.bad_words_ids)),
    )


def _word(i: int, ids: Sequence[int]) -> tuple[int, ...]:
    check_word(i, len(ids))
    return tuple(ids)


def params_to_proto(params: SamplingParams) -> pb.SamplingParams:
    """The inverse; call it on checked parameters (proto integers cannot hold negative values)."""
    return pb.SamplingParams(
        max_tokens=params.max_tokens,
        min_tokens=params.min_tokens,
        temperature=params.temperature,
        top_k=params.top_k,
        top_p=params.top_p,
        seed=params.seed,
        stop=params.stop,
        stop_token_ids=params.stop_token_ids,
        ignore_eos=params.ignore_eos,
        logprobs=params.logprobs,
        prompt_logprobs=params.prompt_logprobs,
        min_p=params.min_p,
        typical_p=params.typical_p,
        repetition_penalty=params.repetition_penalty,
        presence_penalty=params.presence_penalty,
        frequency_penalty=params.frequency_penalty,
        logit_bias=dict(params.logit_bias),
        allowed_token_ids=params.allowed_token_ids,
        bad_words_ids=[pb.TokenIds(ids=word) for word in params.bad_words_ids],
    )
