"""Reading a request's body: within its size, within its time, and within what all requests may hold."""

import asyncio
from collections.abc import Callable

from aiohttp import web

from argosy_api import limits
from argosy_api.errors import InvalidArgumentError, TooLargeError

GRACE_S = 10.0
"""Time for a body's first bytes, and its slack later."""
SLOWEST = 64 * 1024
"""Bytes per second that a sender must reach, beyond the grace; and a reader."""


async def read_body(request: web.Request, take: Callable[[int], None]) -> bytes:
    """The body, refused as soon as it is known to be too large: by its announced length, or while it comes in.

    `take` is told of each piece's size, and may refuse it.

    Raises:
        TooLargeError: more than limits.MAX_BODY_BYTES.
        OverloadedError: from `take`.
        InvalidArgumentError: the transfer was broken, or too slow.

    """
    limit = limits.MAX_BODY_BYTES
    if request.content_length is not None and request.content_length > limit:
        raise TooLargeError("body", f"has {request.content_length} bytes; at most {limit}")
    parts: list[bytes] = []
    size = 0
    begun = asyncio.get_running_loop().time()
    try:
        if request.content.is_eof():  # it came with its head, as small ones do, and needs no clock
            whole = request.content.read_nowait()
            if len(whole) > limit:
                raise TooLargeError("body", f"has more than {limit} bytes")
            take(len(whole))
            return whole
        async with asyncio.timeout_at(begun + GRACE_S) as deadline:
            async for part in request.content.iter_any():
                size += len(part)
                if size > limit:
                    raise TooLargeError("body", f"has more than {limit} bytes")
                take(len(part))
                parts.append(part)
                deadline.reschedule(begun + GRACE_S + size / SLOWEST)
    except TimeoutError:
        problem = f"comes too slowly: {size} bytes in {GRACE_S + size / SLOWEST:.0f} s"
        raise InvalidArgumentError("body", problem) from None
    except (web.RequestPayloadError, ValueError) as error:
        raise InvalidArgumentError("body", "could not be read: the transfer or its encoding is broken") from error
    return b"".join(parts)
