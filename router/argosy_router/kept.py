"""What a stream must know of its answer to go on at another worker: the tokens, and how much text the client has."""

from array import array
from collections.abc import Callable, Sequence

TOKEN_BYTES = 8
"""Of a kept token: here, and in the message of another attempt."""
STEP = 128
"""Tokens for which room is taken at a time."""


class Kept:
    """The delivered part of one answer.

    What it takes is counted among the bytes that requests hold. Where there is no room left the stream runs on, but
    nothing is kept of it any more: it can't go on elsewhere.
    """

    def __init__(self, hold: Callable[[int], bool]) -> None:
        """`hold` takes so many bytes (or gives them back, where it is negative), and says whether there was room."""
        self._hold = hold
        self._tokens = array("I")
        self._room = 0
        self.count = 0
        """Tokens of the answer so far, kept or not."""
        self.text_bytes = 0
        """UTF-8 bytes of its text so far."""
        self.whole = True
        """Whether all tokens are here."""

    @property
    def tokens(self) -> Sequence[int]:
        """All tokens of the answer so far, where `whole`."""
        return self._tokens

    def add(self, tokens: Sequence[int], text: str) -> None:
        """More of the answer."""
        self.count += len(tokens)
        self.text_bytes += len(text) if text.isascii() else len(text.encode())
        if not self.whole:
            return
        while self._room < self.count:
            if not self._hold(STEP * TOKEN_BYTES):
                self.whole = False
                self.forget()
                return
            self._room += STEP
        if len(tokens) == 1:  # as nearly always
            self._tokens.append(tokens[0])
        else:
            self._tokens.extend(tokens)

    def forget(self) -> None:
        """Give the room back. May be called twice."""
        del self._tokens[:]
        if self._room:
            self._hold(-self._room * TOKEN_BYTES)
            self._room = 0
