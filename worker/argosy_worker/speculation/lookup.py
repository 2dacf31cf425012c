"""Where the last tokens of a sequence stood before: an index that grows with the sequence, in constant time per token.

Hash chains, as in DEFLATE (RFC 1951, section 4): each place is filed under a hash of the three tokens before it, and
linked to the place filed there before. A look-up follows a few links, latest first, and takes the place with the
longest match. What followed there is the guess (prompt lookup decoding, Saxena 2023).
"""

from array import array
from collections.abc import Sequence

from argosy_api import limits

MIN_MATCH = 3
"""Tokens that must be equal before a guess is made."""
MOST_MATCH = 32
"""Tokens that are compared at most."""
_LINKS = 6
"""Places that a look-up compares."""
_CATCH_UP = 4096
"""Tokens that one call indexes at most: some 2 ms. A longer prompt takes several steps."""
_SLOTS = 1 << 13
SEPARATOR = -1
"""Stands between texts that do not follow each other; equal to no token."""


def _slot(a: int, b: int, c: int) -> int:
    return ((a * 0x9E3779B1 ^ b * 0x85EBCA77 ^ c * 0xC2B2AE3D) >> 9) & (_SLOTS - 1)


class TokenIndex:
    """An index over a list of tokens that only grows: its last `limits.MAX_SEARCHED_TOKENS` or up to twice as many."""

    def __init__(self, tokens: list[int]) -> None:
        self._tokens = tokens
        self._begin(max(0, len(tokens) - limits.MAX_SEARCHED_TOKENS))

    def _begin(self, first: int) -> None:
        self._first = first
        self._heads = array("i", bytes(4 * _SLOTS))  # hash -> latest place; 0: none
        self._links = array("i", bytes(4 * MIN_MATCH))  # place - first -> the place before with the same hash

    def catch_up(self) -> bool:
        """Index what has come since; False while there is more than one call may do."""
        tokens, first, links, heads = self._tokens, self._first, self._links, self._heads
        begin = first + len(links)
        if begin - first > 2 * limits.MAX_SEARCHED_TOKENS:
            self._begin(max(0, len(tokens) - limits.MAX_SEARCHED_TOKENS))
            return self.catch_up()
        end = min(len(tokens), begin + _CATCH_UP)
        for place in range(begin, end):
            slot = _slot(tokens[place - 3], tokens[place - 2], tokens[place - 1])
            links.append(heads[slot])
            heads[slot] = place
        return end == len(tokens)

    def find(self, context: Sequence[int]) -> tuple[int, int]:
        """(place, length): the tokens before `place` are the last `length` ones of `context`; (0, 0) for none.

        The longest match of the latest few, at least MIN_MATCH.
        """
        if len(context) < MIN_MATCH:
            return 0, 0
        best, most = 0, MIN_MATCH - 1
        place = self._heads[_slot(context[-3], context[-2], context[-1])]
        for _ in range(_LINKS):
            if not place:
                break
            length = self._common(context, place)
            if length > most:
                best, most = place, length
                if length == MOST_MATCH:
                    break
            place = self._links[place - self._first]
        return (best, most) if best else (0, 0)

    def _common(self, context: Sequence[int], place: int) -> int:
        tokens, end = self._tokens, len(context)
        reach = min(MOST_MATCH, place, end)
        for i in range(1, reach + 1):
            if tokens[place - i] != context[end - i]:
                return i - 1
        return reach

    def following(self, place: int, most: int) -> list[int]:
        """Up to `most` tokens from `place` on. Where they reach the end of the list they go on as they began."""
        found = self._tokens[place : place + most]
        if SEPARATOR in found:
            return found[: found.index(SEPARATOR)]
        for i in range(len(found), most if found else 0):
            found.append(found[i - (len(self._tokens) - place)])
        return found
