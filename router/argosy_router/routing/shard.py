"""A part of all blocks: most in two sorted arrays, what changed lately in a dict until it is merged into them. Pure.

12 bytes a block, and about 150 for one that has changed. An id is a hash already, and 64 bits of it tell 10 million
blocks apart but for one chance in 350,000; whom two ids that meet mislead loses time, no more.
"""

import random
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable
from math import isqrt
from struct import Struct

import numpy as np
from numpy.typing import NDArray

from argosy_router.routing.holders import NOBODY, Change, Holders

LEAST_CHANGES = 256
SHARE = 16
"""Changes are merged when there are more than one for so many blocks, about: not in all shards at once."""
_BELOW_THE_BYTE = (1 << 56) - 1
"""Of a key; the byte above is the same in all of a shard."""
key_of: Callable[[bytes], tuple[int]] = Struct("<8xQ").unpack


class Shard:
    """Block -> number of the set of its holders."""

    __slots__ = ("_astray", "_keys", "_most", "_views", "changes", "numbers")

    def __init__(self) -> None:
        self.changes: dict[bytes, Change] = {}
        """By block id: what is to come to its set. Always the same dict."""
        self.numbers: NDArray[np.uint32] = np.empty(0, np.uint32)
        self._take(np.empty(0, np.uint64), self.numbers)

    def _take(self, keys: NDArray[np.uint64], numbers: NDArray[np.uint32]) -> None:
        self._keys, self.numbers = keys, numbers
        self._views = memoryview(keys), memoryview(numbers)  # type: ignore[arg-type]
        self._astray = 2 * isqrt(len(keys)) + 8  # by which equally spread keys are hardly ever off
        self._most = int(random.uniform(0.5, 1.5) * max(LEAST_CHANGES, len(keys) // SHARE))

    def __len__(self) -> int:
        """Blocks in the arrays."""
        return len(self._keys)

    @property
    def nbytes(self) -> int:
        """Memory of the arrays."""
        return self._keys.nbytes + self.numbers.nbytes

    @property
    def full(self) -> bool:
        """Whether it is time to merge."""
        return len(self.changes) > self._most

    def mask(self, block: bytes, holders: Holders) -> int:
        """The marks of a block's holders."""
        (key,) = key_of(block)
        keys, numbers = self._views
        guess = ((key & _BELOW_THE_BYTE) * len(keys)) >> 56
        low, high = max(0, guess - self._astray), min(len(keys), guess + self._astray)
        at = bisect_left(keys, key, low, high)
        if at in (low, high):  # perhaps further astray: ids from Redis may be anybody's
            at = bisect_left(keys, key)
        found = holders.masks[numbers[at]] if at < len(keys) and keys[at] == key else 0
        change = self.changes.get(block)
        return found if change is None else change.of(found)

    def merge(self, holders: Holders, *, sweep: bool = False) -> list[tuple[int, Change, int, int]]:
        """Brings the changes into the arrays, and drops blocks that nobody holds: with `sweep` all of them.

        Returns the mask to which a change came, the change, what came of it, and how often.
        """
        ids, changes = list(self.changes), list(self.changes.values())
        self.changes.clear()
        keys, first = np.unique(np.frombuffer(b"".join(ids), np.uint64).reshape(-1, 2)[:, 1], return_index=True)
        places = np.searchsorted(self._keys, keys)
        known = places < len(self._keys)
        known[known] = self._keys[places[known]] == keys[known]
        before = np.zeros(len(keys), np.uint32)
        before[known] = self.numbers[places[known]]
        pairs = list(zip(before.tolist(), map(changes.__getitem__, first.tolist()), strict=True))
        counts = Counter(pairs)
        became = {pair: _after(*pair, holders) for pair in counts}
        after = np.array(list(map(became.__getitem__, pairs)), np.uint32)
        self.numbers[places[known]] = after[known]
        held = np.array(holders.masks, bool)[self.numbers] if sweep else self.numbers != NOBODY
        old_keys, numbers = self._keys[held], self.numbers[held]
        new = ~known & (after != NOBODY)
        at = np.searchsorted(old_keys, keys[new])
        self._take(np.insert(old_keys, at, keys[new]), np.insert(numbers, at, after[new]))
        masks = holders.masks
        return [(masks[n], change, masks[became[n, change]], times) for (n, change), times in counts.items()]


def _after(number: int, change: Change, holders: Holders) -> int:
    """The number of the set that a set becomes; that of the same, where there is no room for another one."""
    return holders.number(change.of(holders.masks[number]), instead=number)
