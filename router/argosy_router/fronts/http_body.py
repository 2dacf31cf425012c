"""Reading a request's body within its limit."""

import asyncio

from aiohttp import web

from argosy_api import limits
from argosy_api.errors import InvalidArgumentError, TooLargeError

READ_S = 60.0


async def read_body(request: web.Request) -> bytes:
    """The body, refused as soon as it is known to be too large: by its announced length, or while it comes in.

    Raises:
        TooLargeError: more than limits.MAX_BODY_BYTES.
        InvalidArgumentError: the transfer was broken.

    """
    try:
        async with asyncio.timeout(READ_S):
            return await _read(request, limits.MAX_BODY_BYTES)
    except TimeoutError:
        raise InvalidArgumentError("body", f"did not arrive within {READ_S:g} s") from None


async def _read(request: web.Request, limit: int) -> bytes:
    if request.content_length is not None and request.content_length > limit:
        raise TooLargeError("body", f"has {request.content_length} bytes; at most {limit}")
    parts: list[bytes] = []
    size = 0
    try:
        async for part in request.content.iter_any():
            size += len(part)
            if size > limit:
                raise TooLargeError("body", f"has more than {limit} bytes")
            parts.append(part)
    except (web.RequestPayloadError, ValueError) as error:
        raise InvalidArgumentError("body", "could not be read: the transfer or its encoding is broken") from error
    return b"".join(parts)
