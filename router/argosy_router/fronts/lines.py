"""A document on one line of a stream."""

from typing import Any

import orjson

_ENDS = ((b"\xc2\x85", b"\\u0085"), (b"\xe2\x80\xa8", b"\\u2028"), (b"\xe2\x80\xa9", b"\\u2029"))
"""U+0085, U+2028 and U+2029 in UTF-8, and as JSON may write them instead."""


def one_line(document: dict[str, Any]) -> bytes:
    """JSON that is one line for every reader: `iter_lines` of httpx, with which the ollama library reads, ends lines as
    Unicode says (`findings/httpx-lines.sh`).
    """
    raw = orjson.dumps(document)
    if not raw.isascii():
        for end, escaped in _ENDS:  # bytes above 127 stand in strings only, and those of a character in no other one
            raw = raw.replace(end, escaped)
    return raw
