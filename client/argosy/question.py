"""What is asked: a prompt in one of three forms, and how it is to be answered."""

from collections.abc import Sequence
from typing import TypedDict

from argosy_api.convert import params_to_proto
from argosy_api.errors import InvalidArgumentError
from argosy_api.params import SamplingParams
from argosy_api.v1 import worker_pb2 as pb


class Message(TypedDict):
    """One turn of a chat."""

    role: str
    """`system`, `user` or `assistant`."""
    content: str


Prompt = str | Sequence[int] | Sequence[Message]
"""A text, token ids, or the turns of a chat."""


def question(
    model: str,
    prompt: Prompt,
    *,
    params: SamplingParams | None = None,
    cache_salt: str = "",
    priority: int = 0,
    request_id: str = "",
) -> pb.InferenceRequest:
    """The message that a router takes.

    Without `params` the router's defaults hold: 16 tokens, and for a chat what the context leaves. `cache_salt`:
    requests with another one share no cached blocks. `priority`: -10 to 10, larger goes first.

    Raises:
        InvalidArgumentError: naming the field. A router checks the rest.

    """
    request = pb.InferenceRequest(model=model, request_id=request_id, cache_salt=cache_salt)
    if isinstance(prompt, str):
        request.text = prompt
    elif all(isinstance(item, int) for item in prompt):
        try:
            request.tokens.ids.extend(prompt)  # type: ignore[arg-type]
        except ValueError:
            raise InvalidArgumentError("prompt", "has a token id that is negative or above 4294967295") from None
    else:
        for i, turn in enumerate(prompt):
            if not isinstance(turn, dict) or not all(isinstance(turn.get(k), str) for k in ("role", "content")):
                raise InvalidArgumentError(f"prompt[{i}]", "must be {'role': text, 'content': text}, or all token ids")
            request.chat.messages.add(role=turn["role"], content=turn["content"])
    if params is not None:
        params.check(vocab_size=1 << 31)
        request.sampling.CopyFrom(params_to_proto(params))
    if not -(1 << 31) <= priority < 1 << 31:
        raise InvalidArgumentError("priority", f"is {priority}; must be -10 to 10")
    request.priority = priority
    return request
