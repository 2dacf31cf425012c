"""Decoding where a vocabulary falls back to bytes: tokens such as `<0xE2>` stand for one each."""

import re
from collections.abc import Iterable, Iterator

REPLACEMENT = "\ufffd"
_BYTE = re.compile("<0x([0-9A-Fa-f]{2})>")


def sound(pieces: Iterable[str]) -> Iterator[str]:
    """The same pieces of text, with one U+FFFD in place of each run of bytes that begins no character.

    Left to the library, one such byte would make a U+FFFD of every byte of its run: of those, too, that are characters.
    """
    run = bytearray()
    for piece in (*pieces, ""):
        if byte := _BYTE.fullmatch(piece):
            run.append(int(byte[1], 16))
            continue
        for character in run.decode(errors="replace"):
            yield from [REPLACEMENT] if character == REPLACEMENT else map("<0x{:02X}>".format, character.encode())
        run.clear()
        if piece:
            yield piece
