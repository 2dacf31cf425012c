"""Between protobuf messages and the plain types of the contracts."""

from argosy_api.params import SamplingParams, check_stops
from argosy_api.v1 import worker_pb2 as pb

ACCEPTED_KEY = "argosy-accepted"
"""In the initial metadata of a worker's Generate: this submission's number, to be compared with `Load.accepted`."""


def params_from_proto(message: pb.SamplingParams, *, default_max_tokens: int = 16) -> SamplingParams:
    """Unset fields get their defaults. Only what is copied is checked here: call `SamplingParams.check`.

    Raises:
        InvalidArgumentError: there are too many stop strings or ids; a message has room for millions.

    """
    check_stops(len(message.stop), len(message.stop_token_ids))
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
    )


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
    )
