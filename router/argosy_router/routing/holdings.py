"""Which blocks are held by whom. Pure.

A holder is a mark, a power of two. Blocks lie in shards (`shard.py`) by a byte of their ids, each with the number of
the set of its holders (`holders.py`).
"""

from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np

from argosy_api.blocks import ID_BYTES
from argosy_router.routing.holders import NOTHING, Changes, Holders
from argosy_router.routing.shard import Shard

SHARDS = 256
SWEPT = 8
"""Shards that are merged in one turn of the event loop, to sweep."""
MERGED = 16
"""The same, of those that are full."""
LOOKED_AT = 1024
"""Changes after which it is looked whether some are."""


class Holdings:
    """Block ids have 16 bytes; others are passed over."""

    def __init__(self) -> None:
        self._shards = [Shard() for _ in range(SHARDS)]
        self._by_byte = [shard.changes for shard in self._shards]
        self._told = 0  # since shards were looked at
        self._holders = Holders()
        self._changes = Changes()
        self._marks = 0
        self._held: dict[int, int] = {}
        self._used: set[int] = set()  # marks of which something may be known
        self._unswept = 0
        """So many shards may have blocks that nobody holds."""

    def __len__(self) -> int:
        """Blocks in the arrays: exact after `settle`."""
        return sum(map(len, self._shards))

    @property
    def nbytes(self) -> int:
        """Memory of the arrays."""
        return sum(shard.nbytes for shard in self._shards)

    # --- holders

    def new_mark(self) -> int:
        """A mark for a holder that holds nothing yet."""
        mark = ~self._marks & (self._marks + 1)
        self._marks |= mark
        self._held[mark] = 0
        return mark

    def give_back(self, mark: int) -> None:
        """The holder is no more, and holds nothing any more."""
        self.clear(mark)
        self._marks &= ~mark
        del self._held[mark]

    def clear(self, mark: int) -> None:
        """Nothing is held by it any more, at once; the memory of its blocks goes with `sweep`."""
        if mark in self._used:
            self._used.remove(mark)
            self._holders.clear(mark)
            self._changes.clear(mark)
            self._held[mark] = 0
            self._unswept = SHARDS

    def held(self, mark: int) -> int:
        """Blocks that it holds; exact after `settle`.

        Before, each thing told is taken for news: which it is, where everything was told once.
        """
        return max(0, self._held[mark])

    # --- blocks

    def change(self, mark: int, ids: Sequence[bytes], *, more: bool) -> None:
        """`mark` holds these blocks (`more`), or not any more."""
        if not ids:
            return
        if set(map(len, ids)) != {ID_BYTES}:  # what stands in Redis may be anything
            ids = [block for block in ids if len(block) == ID_BYTES]
        self._used.add(mark)
        steps, by_byte, news = self._changes.steps(mark, more=more), self._by_byte, 0
        for block in ids:
            changes = by_byte[block[-1]]
            before = changes.get(block, NOTHING)
            after = steps[before]
            if after is not before:
                changes[block] = after
                news += 1
        self._held[mark] += news if more else -news
        self._told += news
        if self._told >= LOOKED_AT:
            self._told = 0
            for shard in islice((shard for shard in self._shards if shard.full), MERGED):
                self._merge(shard)

    def _merge(self, shard: Shard, *, sweep: bool = False) -> None:
        for before, change, after, times in shard.merge(self._holders, sweep=sweep):
            more, less = change.counted
            for mark in marks_of(more & ~(after & ~before)):  # was no news after all
                self._held[mark] -= times
            for mark in marks_of(less & ~(before & ~after)):
                self._held[mark] += times
            for mark in marks_of(after & ~before & ~more):  # was, after all
                self._held[mark] += times
            for mark in marks_of(before & ~after & ~less):
                self._held[mark] -= times

    def settle(self) -> None:
        """Merge all that has changed."""
        for shard in self._shards:
            if shard.changes:
                self._merge(shard)

    def sweep(self) -> Iterator[None]:
        """Gives back the memory of what nobody holds any more, with a pause after some shards."""
        while self._unswept > 0:
            end = self._unswept
            self._unswept = max(0, end - SWEPT)
            for shard in self._shards[self._unswept : end]:
                if len(shard) or shard.changes:
                    self._merge(shard, sweep=True)
            yield
        if self._holders.crowded:
            used = np.zeros(len(self._holders.masks), bool)
            for shard in self._shards:
                used[shard.numbers] = True
            self._holders.keep(used.tolist())

    # --- questions

    def mask(self, block: bytes) -> int:
        """The marks of a block's holders."""
        return self._shards[block[-1]].mask(block, self._holders)

    def leading(self, ids: Sequence[bytes]) -> list[tuple[int, int]]:
        """Pairs of a depth and the marks that hold the first `depth` blocks, and not the next one.

        Whoever holds a block is taken to hold those before it, since a cache forgets children before their parents: so
        a prompt costs a few looks for each different depth, however long it is.
        """
        if not ids:
            return []
        found: list[tuple[int, int]] = []
        first, end = self.mask(ids[0]), len(ids) - 1
        if not first:
            return []
        last = first & self.mask(ids[end])
        parts = [(0, first, end, last)]
        while parts:
            low, its, high, those = parts.pop()
            if not its & ~those:
                continue
            if high - low == 1:
                found.append((high, its & ~those))
                continue
            middle = (low + high) // 2
            between = its & self.mask(ids[middle])
            parts += [(low, its, middle, between), (middle, between, high, those & between)]
        if last:
            found.append((len(ids), last))
        return found


def marks_of(mask: int) -> Iterator[int]:
    """The marks of a sum of marks, the smallest first."""
    while mask:
        lowest = mask & -mask
        yield lowest
        mask ^= lowest
