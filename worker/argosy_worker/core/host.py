"""Evicted blocks in host memory: which slot holds which, whose turn it is to be forgotten, and what is to be copied.

A block that the device's pool evicts goes into a slot; a hit on it brings it back into another block. Nothing is copied
here: what is to be copied becomes a list of moves, in order, that goes with the next step. A block that came back keeps
its slot until another one needs it, and is the first to lose it, since nothing is lost by that; evicted again in the
meantime it need not be copied again.
"""

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from argosy_api.blocks import BlockId


@dataclass(frozen=True, slots=True)
class Move:
    """The content of a block goes out to a slot in host memory, or comes back from there."""

    block: int
    slot: int
    out: bool


class HostTier:
    """Slots 0 .. total - 1, free or holding the content of one block each. Owned by the thread that owns the pool."""

    def __init__(self, total: int = 0) -> None:
        self.total = total
        self.evicted = 0
        """Blocks that were copied here, since the start."""
        self.restored = 0
        """Blocks that were brought back, since the start."""
        self._slots: OrderedDict[BlockId, int] = OrderedDict()  # the next to be forgotten first
        self._free = list(range(total - 1, -1, -1))
        self._moves: list[Move] = []

    @property
    def free(self) -> int:
        """Slots that hold nothing."""
        return len(self._free)

    @property
    def cached(self) -> int:
        """Slots that hold a block."""
        return len(self._slots)

    def __contains__(self, block_id: BlockId) -> bool:
        return block_id in self._slots

    def ids(self) -> list[BlockId]:
        """Of all blocks here, the next to be forgotten first."""
        return list(self._slots)

    def find(self, block_id: BlockId) -> int | None:
        """The slot that holds `block_id`; its content is there once the moves so far are made."""
        return self._slots.get(block_id)

    def put(self, block_id: BlockId, block: int) -> BlockId | None:
        """The device is about to forget a block. Returns the id that is forgotten here for it, if any: maybe itself."""
        if block_id in self._slots:
            self._slots.move_to_end(block_id)
            return None
        lost = None
        if self._free:
            slot = self._free.pop()
        elif self._slots:
            lost, slot = self._slots.popitem(last=False)
        else:
            return block_id
        self._slots[block_id] = slot
        self._moves.append(Move(block, slot, out=True))
        self.evicted += 1
        return lost

    def touch(self, block_id: BlockId) -> None:
        """Make a block that is here the last to be forgotten."""
        self._slots.move_to_end(block_id)

    def doubled(self, block_id: BlockId) -> None:
        """The device holds this block, too: if it is here, it is the first to be forgotten."""
        if block_id in self._slots:
            self._slots.move_to_end(block_id, last=False)

    def withdraw(self, ids: Iterable[BlockId]) -> list[int]:
        """Slots of blocks that are to come back: nobody gets these slots before `restore`."""
        return [self._slots.pop(block_id) for block_id in ids]

    def restore(self, ids: Sequence[BlockId], slots: Sequence[int], blocks: Sequence[int]) -> None:
        """Bring withdrawn blocks back, each into a block of the device."""
        for block_id, slot, block in zip(ids, slots, blocks, strict=True):
            self._moves.append(Move(block, slot, out=False))
            self._slots[block_id] = slot
            self.doubled(block_id)
        self.restored += len(ids)

    def take_moves(self) -> tuple[Move, ...]:
        """What is to be copied, in this order, before anything else is written to a block."""
        moves, self._moves = tuple(self._moves), []
        return moves

    def problems(self) -> dict[str, bool]:
        """Invariants by name, and whether each is broken. For tests: O(total)."""
        return {
            "host: free + cached != total": self.free + self.cached != self.total,
            "host: slots are not each free or held once": sorted([*self._free, *self._slots.values()])
            != list(range(self.total)),
        }
