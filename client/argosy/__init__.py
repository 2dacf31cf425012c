"""The Python client: answers that survive their router.

    from argosy import Client, SamplingParams

    with Client("router-a:8001", "router-b:8001") as client:
        for piece in client.generate("my-model", "Once upon a time", params=SamplingParams(max_tokens=64)):
            print(piece.text, end="")

`AsyncClient` is the same for asyncio. docs/client.md tells what both do when something dies.
"""

from argosy.aio import AsyncClient
from argosy.answer import Answer, FinishReason, Piece
from argosy.question import Message, Prompt
from argosy.sync import Client
from argosy_api.errors import (
    ArgosyError,
    DeadlineError,
    InvalidArgumentError,
    NotFoundError,
    OverloadedError,
    UnavailableError,
)
from argosy_api.params import SamplingParams

__all__ = [
    "Answer",
    "ArgosyError",
    "AsyncClient",
    "Client",
    "DeadlineError",
    "FinishReason",
    "InvalidArgumentError",
    "Message",
    "NotFoundError",
    "OverloadedError",
    "Piece",
    "Prompt",
    "SamplingParams",
    "UnavailableError",
]
