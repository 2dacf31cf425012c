"""How the router and its children talk over a socket: frames of a JSON object and any number of byte strings.

    u32 length of the object, the object, then the byte strings, whose lengths the object has under "sizes"

A child works on what strangers wrote, so nothing that it says is ever unpickled or trusted further than JSON.
"""

import struct
from collections.abc import Iterator, Sequence
from typing import Any

import orjson

_HEAD = struct.Struct(">II")
"""Length of the object; length of all byte strings together."""

Frame = tuple[dict[str, Any], list[bytes]]


def pack(header: dict[str, Any], blobs: Sequence[bytes] = ()) -> bytes:
    """One frame as bytes."""
    raw = orjson.dumps({**header, "sizes": [len(b) for b in blobs]})
    return b"".join([_HEAD.pack(len(raw), sum(map(len, blobs))), raw, *blobs])


class Unpacker:
    """Takes bytes as they come, and gives whole frames."""

    def __init__(self, *, limit: int) -> None:
        self._buffer = bytearray()
        self._limit = limit

    def feed(self, data: bytes | memoryview) -> Iterator[Frame]:
        """The frames that `data` completes.

        Raises:
            ValueError: what came is no frame, or one above the limit.

        """
        self._buffer += data
        while len(self._buffer) >= _HEAD.size:
            head, body = _HEAD.unpack_from(self._buffer)
            if head + body > self._limit:
                raise ValueError(f"a frame of {head + body} bytes; at most {self._limit}")
            end = _HEAD.size + head + body
            if len(self._buffer) < end:
                return
            with memoryview(self._buffer) as whole:
                frame = bytes(whole[_HEAD.size : end])
            del self._buffer[:end]
            yield _frame(frame, head)


def _frame(frame: bytes, head: int) -> Frame:
    header = orjson.loads(frame[:head])
    if not isinstance(header, dict) or not isinstance(sizes := header.get("sizes"), list):
        raise ValueError("a frame without sizes")  # noqa: TRY004 - what came is wrong, not how we were called
    blobs, at = [], head
    for size in sizes:
        blobs.append(frame[at : at + size])
        at += size
    if at != len(frame):
        raise ValueError("a frame whose sizes do not add up")
    return header, blobs
