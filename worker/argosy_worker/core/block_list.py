"""A list of blocks that costs nothing to change: the order in which they are given away."""


class BlockList:
    """A doubly-linked list of block numbers: O(1) to append, to pop the front and to remove from the middle.

    Intrusive: the links are two arrays indexed by block number, so nothing is allocated per operation. Index 0 (the
    null block, which is never in a list) is the sentinel.
    """

    __slots__ = ("_next", "_prev", "size")

    def __init__(self, num_blocks: int) -> None:
        self._next = [0] * (num_blocks + 1)
        self._prev = [0] * (num_blocks + 1)
        self.size = 0

    def append(self, block: int) -> None:
        """Put it at the end."""
        last = self._prev[0]
        self._next[last], self._prev[block], self._next[block], self._prev[0] = block, last, 0, block
        self.size += 1

    def remove(self, block: int) -> None:
        """Take it out, wherever it is."""
        before, after = self._prev[block], self._next[block]
        self._next[before], self._prev[after] = after, before
        self.size -= 1

    def pop_front(self) -> int:
        """Take the first one out."""
        block = self._next[0]
        self.remove(block)
        return block

    def to_list(self) -> list[int]:
        """All of them, in order."""
        blocks, block = [], self._next[0]
        while block:
            blocks.append(block)
            block = self._next[block]
        return blocks
