"""What each token of a model stands for, as its child process told: the router itself needs no tokenizer for it."""

from array import array
from collections.abc import Iterable
from functools import lru_cache
from itertools import accumulate


class Vocabulary:
    """By token id: its bytes. Ids that have no token have none."""

    def __init__(self, lengths: Iterable[int], data: bytes, special: Iterable[int]) -> None:
        self._ends = array("Q", accumulate(lengths, initial=0))
        self._data = data
        if self._ends[-1] != len(data):
            raise ValueError("the lengths of the tokens do not add up")
        self.size = len(data) + self._ends.itemsize * len(self._ends)
        """Bytes that it takes."""
        self.special = frozenset(special)
        """Control tokens, which an answer's text does not show."""
        self.token_text = lru_cache(maxsize=65_536)(self._token_text)

    def token_bytes(self, token: int) -> bytes:
        """The bytes that one token stands for."""
        if not 0 <= token < len(self._ends) - 1:
            return b""
        return self._data[self._ends[token] : self._ends[token + 1]]

    def _token_text(self, token: int) -> str:
        """The token alone as text; one that is not whole characters as escaped bytes, as the OpenAI API writes it."""
        raw = self.token_bytes(token)
        try:
            return raw.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{b:02x}" for b in raw)
