"""A request's JSON into checked types: a small one here, one that would hold up the event loop in a child process.

What costs is the number of values more than the bytes: 256 kB of text in one string are parsed in a fraction of a
millisecond, 10 MB of empty arrays in seconds.
"""

import pickle
from array import array
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from argosy_api import limits
from argosy_api.errors import InternalError, InvalidArgumentError, TooLargeError
from argosy_router.children.child import Child, JobFailedError, JobKilledError, JobRefusedError
from argosy_router.fronts import (
    anthropic_parse,
    embeddings_parse,
    oai_parse,
    oip_json,
    ollama_parse,
    responses_parse,
    tokens_parse,
)
from argosy_router.fronts.fields import parse_json
from argosy_router.fronts.text_request import TextRequest

PARSERS: dict[str, Callable[[dict[str, Any]], TextRequest]] = {
    "completions": oai_parse.completions,
    "chat": oai_parse.chat,
    "responses": responses_parse.responses,
    "tokenize": tokens_parse.tokenize,
    "detokenize": tokens_parse.detokenize,
    "messages": anthropic_parse.messages,
    "count_tokens": anthropic_parse.count,
    "ollama_chat": ollama_parse.chat,
    "ollama_generate": ollama_parse.generate,
    "ollama_show": ollama_parse.show,
    "oip_infer": oip_json.infer,
    "oip_generate": oip_json.generate,
    "oip_index": oip_json.index,
    "embeddings": embeddings_parse.embeddings,
    "ollama_embed": embeddings_parse.ollama_embed,
    "ollama_embeddings": embeddings_parse.ollama_embeddings,
}
PATHS = {
    "/v1/completions": "completions",
    "/v1/chat/completions": "chat",
    "/v1/responses": "responses",
    "/v1/messages": "messages",
    "/api/chat": "ollama_chat",
    "/api/generate": "ollama_generate",
}
"""Where those are sent to that a worker can be picked for."""
HERE_BYTES = 256 * 1024
HERE_VALUES = 4096
"""Commas and brackets up to which a body is parsed on the event loop: a few milliseconds."""
JOB_S = 20.0
WORK = "argosy_router.fronts.bodies_work"


class Bodies:
    """Parses bodies."""

    def __init__(self) -> None:
        self._child = Child(WORK, job_s=JOB_S)

    async def parse(self, kind: str, raw: bytes) -> TextRequest:
        """A request of `kind`, a key of PARSERS.

        Raises:
            InvalidArgumentError: naming the field.
            TooLargeError: more arrays and objects than any request has.

        """
        brackets = raw.count(b"[") + raw.count(b"{")
        if brackets > limits.MAX_BRACKETS:
            raise TooLargeError("body", f"has {brackets} brackets and braces; at most {limits.MAX_BRACKETS}")
        if len(raw) <= HERE_BYTES and brackets + raw.count(b",") <= HERE_VALUES:
            return PARSERS[kind](parse_json(raw))
        try:
            header, blobs = await self._child.call({"op": kind}, [raw], long=len(raw) > HERE_BYTES)
        except (JobRefusedError, JobKilledError) as error:
            raise InvalidArgumentError("body", str(error)) from None
        except JobFailedError as error:
            raise InternalError(f"the body could not be parsed: {error}") from None
        if "field" in header:
            raise InvalidArgumentError(header["field"], header["problem"])
        request, *prompts = blobs
        # our own code wrote this, from JSON: no model's file has been near that process
        made: TextRequest = pickle.loads(request)  # noqa: S301
        ids = [array("I", p).tolist() for p in prompts]
        return replace(made, prompts=ids) if prompts else made

    async def close(self) -> None:
        """Ends the child process."""
        await self._child.close()
