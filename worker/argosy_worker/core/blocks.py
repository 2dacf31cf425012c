"""The block pool: which physical blocks are free, cached or used, and which prefixes the cached ones hold.

Each block is in exactly one state, so `free + cached + used == total` holds after every call:

    free     holds nothing worth keeping: never written, forgotten, or only partly filled
    cached   nobody uses it, but it holds the keys and values of a known full block: evictable, least recently used
             first
    used     in the block table of at least one request (it may hold a known full block too)

Physical block 0 is the null block: padding points at it, and tables have it in the place of blocks that no row needs
any more; it is never handed out and not counted.

Where every layer of a model sees a window of positions only, `window_blocks` says how many blocks before its own a row
may still read. A hit then needs the last so many of its blocks, whatever became of those before.

With slots in host memory (`host.py`) an evicted block is still known, and a hit may count on it: `acquire` brings it
back. What is said of known blocks, to routers too, is true of both tiers.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from argosy_api.blocks import BlockId
from argosy_worker.core.block_list import BlockList
from argosy_worker.core.host import HostTier

NULL_BLOCK = 0
ON_HOST = -1
"""In a hit: the block is in host memory only."""


def common_window(windows: Collection[int]) -> int:
    """Positions up to its own that a row sees where each of `windows` is seen; 0 for all of them."""
    return max(windows) if all(windows) else 0


def blocks_of_window(window: int, block_size: int) -> int | None:
    """Blocks before its own that a row reads which sees `window` positions, its own too; None for all (window 0)."""
    return -(-(window - 1) // block_size) if window else None


@dataclass(frozen=True, slots=True)
class CacheChange:
    """Net change of the set of known ids: no id is in both. `stored` is in the order of storing."""

    stored: tuple[BlockId, ...]
    removed: tuple[BlockId, ...]

    def __bool__(self) -> bool:
        return bool(self.stored or self.removed)


class BlockPool:
    """All physical blocks of one KV cache. Owned by one thread."""

    def __init__(
        self, total: int, *, caching: bool = True, window_blocks: int | None = None, host_blocks: int = 0
    ) -> None:
        if total < 1:
            raise ValueError(f"a pool needs at least one block, not {total}")
        self.total = total
        self.caching = caching
        self.window_blocks = window_blocks
        """Blocks before its own that a row reads; None: all."""
        self.host = HostTier(host_blocks)
        """Where evicted blocks go."""
        self._refs = [0] * (total + 1)
        self._id_of: list[BlockId | None] = [None] * (total + 1)
        self._block_of: dict[BlockId, int] = {}
        self._free = BlockList(total)
        self._cached = BlockList(total)
        for block in range(1, total + 1):
            self._free.append(block)
        # dicts as ordered sets: what changed since `take_change`
        self._stored: dict[BlockId, None] = {}
        self._removed: dict[BlockId, None] = {}

    # --- counts

    @property
    def free(self) -> int:
        """Blocks that hold nothing."""
        return self._free.size

    @property
    def cached(self) -> int:
        """Evictable blocks that hold a known prefix."""
        return self._cached.size

    @property
    def used(self) -> int:
        """Blocks in some request's table. Counted as the rest: `check` verifies it against the reference counts."""
        return self.total - self._free.size - self._cached.size

    @property
    def available(self) -> int:
        """Blocks that `allocate` could hand out now."""
        return self._free.size + self._cached.size

    # --- prefix cache

    def match(self, ids: Sequence[BlockId], most: int) -> list[int]:
        """Physical blocks of the longest usable prefix of `ids[:most]`. Takes no reference: call `acquire` next.

        Blocks that nobody will read, those out of the window, are null blocks: known or not. `ON_HOST` stands for
        those that are to come back.
        """
        first, end = self.hit(ids, most)
        return [NULL_BLOCK] * first + [self._block_of.get(i, ON_HOST) for i in ids[first:end]]

    def hit(self, ids: Sequence[BlockId], most: int) -> tuple[int, int]:
        """(first block needed, blocks) of the longest usable prefix of `ids[:most]`: all from the first one are known.

        Looks at each id twice at most; where nothing is known, at one in a window's length.
        """
        window, end = most if self.window_blocks is None else self.window_blocks, most
        here, host = self._block_of, self.host
        while True:
            first = max(0, end - window)
            unknown = next((i for i in range(first, end) if ids[i] not in here and ids[i] not in host), None)
            if unknown is None:
                return first, end
            if first == 0:
                return 0, unknown
            end = unknown  # no prefix that needs this block will do

    def knows(self, block_id: BlockId) -> bool:
        """Whether some block or slot holds `block_id`."""
        return block_id in self._block_of or block_id in self.host

    def find(self, block_id: BlockId) -> int | None:
        """The physical block that holds `block_id`; None when there is none, be it in host memory or not."""
        return self._block_of.get(block_id)

    def evictable(self, blocks: Sequence[int]) -> int:
        """How much acquiring `blocks` lowers `available`: by those that nobody uses, and by those on the host."""
        return sum(1 for block in blocks if block == ON_HOST or (block != NULL_BLOCK and self._refs[block] == 0))

    def acquire(self, blocks: Sequence[int], ids: Sequence[BlockId] = ()) -> list[int]:
        """Take one more reference to each of `blocks`, which `match` has just returned for these ids.

        Returns them, with those in the place of `ON_HOST` that were taken for what comes back by the next moves.

        Raises:
            MemoryError: that takes more blocks than are available; nothing was taken.

        """
        table = list(blocks)
        places = [place for place, block in enumerate(blocks) if block == ON_HOST]
        if places and self.evictable(blocks) > self.available:
            raise MemoryError(f"{self.evictable(blocks)} blocks wanted, {self.available} available")
        for block in blocks:
            if block in {NULL_BLOCK, ON_HOST}:
                continue
            if self._refs[block] == 0:
                self._cached.remove(block)
            self._refs[block] += 1
        if places:
            back = [ids[place] for place in places]
            slots = self.host.withdraw(back)
            fresh = self.allocate(len(places))  # may evict others, into other slots
            self.host.restore(back, slots, fresh)
            for place, block_id, block in zip(places, back, fresh, strict=True):
                table[place] = self._block_of[block_id] = block
                self._id_of[block] = block_id
        return table

    def store(self, block: int, block_id: BlockId) -> None:
        """Say that used block `block` now holds the computed full block `block_id`.

        When another physical block holds it already, that one stays the known one: tables never change under a running
        request, so two requests that computed the same block side by side both keep theirs.
        """
        if not self.caching or block_id in self._block_of or self._id_of[block] is not None:
            return
        if block_id in self.host:
            self.host.doubled(block_id)
        elif block_id in self._removed:
            del self._removed[block_id]
        else:
            self._stored[block_id] = None
        self._block_of[block_id] = block
        self._id_of[block] = block_id

    # --- allocation

    def allocate(self, count: int) -> list[int]:
        """Take `count` blocks: free ones first, then the least recently used cached ones, which are evicted.

        Raises:
            MemoryError: fewer than `count` are available; nothing was taken.

        """
        if count > self.available:
            raise MemoryError(f"{count} blocks wanted, {self.available} available")
        return [self._take_one() for _ in range(count)]

    def release(self, table: Sequence[int]) -> None:
        """Give up one reference to each block of a request's table, null blocks aside.

        In reverse, so that a tail is evicted before the prefix it depends on.
        """
        for block in reversed(table):
            if block == NULL_BLOCK:
                continue
            self._refs[block] -= 1
            if self._refs[block] == 0:
                (self._free if self._id_of[block] is None else self._cached).append(block)

    def _take_one(self) -> int:
        if self._free.size:
            block = self._free.pop_front()
        else:
            block = self._cached.pop_front()
            self._evict(block)
        self._refs[block] = 1
        return block

    def _evict(self, block: int) -> None:
        block_id = self._id_of[block]
        if block_id is None:
            raise RuntimeError(f"cached block {block} has no id")
        self._id_of[block] = None
        del self._block_of[block_id]
        lost = self.host.put(block_id, block)
        if lost is None or lost in self._block_of:
            return
        if lost in self._stored:
            del self._stored[lost]
        else:
            self._removed[lost] = None

    # --- for events and tests

    def take_change(self) -> CacheChange:
        """What was stored and forgotten since the last call."""
        change = CacheChange(tuple(self._stored), tuple(self._removed))
        if change:
            self._stored, self._removed = {}, {}
        return change

    def known_ids(self) -> list[BlockId]:
        """Ids of all blocks that a new request could reuse, oldest first."""
        return [*(block_id for block_id in self.host.ids() if block_id not in self._block_of), *self._block_of]

    def check(self, tables: Sequence[Sequence[int]]) -> None:
        """Verify every invariant against the block tables of all requests. For tests: O(total).

        Raises:
            AssertionError: saying which one is broken.

        """
        refs = [0] * (self.total + 1)
        for table in tables:
            for block in table:
                refs[block] += block != NULL_BLOCK
        free, cached = self._free.to_list(), self._cached.to_list()
        used = [block for block in range(1, self.total + 1) if refs[block]]
        problems = {
            "reference counts": refs != self._refs,
            "free + cached + used != total": self.free + self.cached + self.used != self.total,
            "states do not partition the blocks": sorted(free + cached + used) != list(range(1, self.total + 1)),
            "counts": (len(free), len(cached), len(used)) != (self.free, self.cached, self.used),
            "a free block has an id": any(self._id_of[block] is not None for block in free),
            "a cached block has no id": any(self._id_of[block] is None for block in cached),
            "ids and blocks disagree": {b: i for i, b in self._block_of.items()}
            != {b: i for b, i in enumerate(self._id_of) if i is not None},
            "an id is both stored and removed": bool(self._stored.keys() & self._removed.keys()),
            **self.host.problems(),
        }
        broken = [name for name, is_broken in problems.items() if is_broken]
        if broken:
            raise AssertionError("block pool: " + "; ".join(broken))
