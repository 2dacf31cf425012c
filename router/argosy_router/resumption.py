"""What an answer that began at another router needs to go on here, and the token that carries it there.

A client of the native protocol that loses its router sends its request to another one, with the tokens that it has and
the token from the stream's first chunk. That says what is in no request: the seed that was drawn, the bits that the
answer is made of. It is not signed, since it lets nobody have what could not be asked for without it: a seed may be
chosen, and whoever alters the tokens gets an answer to a prompt of his own.
"""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass

from google.protobuf.message import DecodeError

from argosy_api import limits
from argosy_api.errors import InvalidArgumentError
from argosy_api.params import SamplingParams
from argosy_api.v1 import worker_pb2 as pb

VERSION = 1
WAIT_S = 1.0
"""A router that does not know its workers yet says so after this time: another one may know them."""
MAX_FINGERPRINT = 128
MAX_ATTEMPT = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Resumption:
    """The delivered part of an answer, and what decides its rest besides the request itself."""

    fingerprint: str
    """Only workers with this one compute the same bits."""
    seed: int | None
    max_tokens: int
    digest: bytes
    """Of the prompt's tokens: a template may say today's date."""
    cached_tokens: int
    """That the first worker found; told again at the end."""
    tokens: Sequence[int]
    text_bytes: int
    attempt: int
    """The last one so far."""


def token(*, fingerprint: str, params: SamplingParams, digest: bytes, cached_tokens: int) -> bytes:
    """For the first chunk of a stream."""
    return pb.ResumeToken(
        version=VERSION,
        fingerprint=fingerprint,
        seed=params.seed,
        max_tokens=params.max_tokens,
        prompt_digest=digest,
        cached_tokens=cached_tokens,
    ).SerializeToString()


def parse(message: pb.Resume) -> Resumption:
    """Read what a client sends.

    Raises:
        InvalidArgumentError: it is not what a router said, or more than any answer has.

    """
    try:
        told = pb.ResumeToken.FromString(message.token)
    except DecodeError:
        raise InvalidArgumentError("resume.token", "is not what a router sent") from None
    if told.version != VERSION:
        raise InvalidArgumentError("resume.token", "is of another version, or empty")
    if not 0 < len(told.fingerprint) <= MAX_FINGERPRINT:
        raise InvalidArgumentError("resume.token", "is not what a router sent")
    count = len(message.tokens)
    if not count:
        raise InvalidArgumentError("resume.tokens", "is empty: an answer of which nothing came begins anew")
    if count > limits.MAX_PROMPT_IDS:
        raise InvalidArgumentError("resume.tokens", f"has {count} token ids; at most {limits.MAX_PROMPT_IDS}")
    if count > told.max_tokens:
        raise InvalidArgumentError("resume.tokens", f"has {count} token ids, more than max_tokens")
    if message.attempt > MAX_ATTEMPT:
        raise InvalidArgumentError("resume.attempt", f"is {message.attempt}; at most {MAX_ATTEMPT}")
    return Resumption(
        fingerprint=told.fingerprint,
        seed=told.seed if told.HasField("seed") else None,
        max_tokens=told.max_tokens,
        digest=told.prompt_digest,
        cached_tokens=told.cached_tokens,
        tokens=array("I", message.tokens),
        text_bytes=message.text_bytes,
        attempt=message.attempt,
    )


def check_same_prompt(resumption: Resumption, digest: bytes) -> None:
    """Raises InvalidArgumentError where the request's prompt came to other tokens than it did at the first router."""
    if resumption.digest != digest:
        raise InvalidArgumentError("resume", "the prompt comes to other tokens than those that the answer began with")
