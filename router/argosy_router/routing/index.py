"""The KV index of one deployment: block id -> which workers hold it. Pure: no I/O, no clock.

Fed with the workers' event batches, in whatever order and however often they arrive. An entry that is wrong costs
time, never correctness: workers check their own prefix cache.

A worker's record is `synced` while every batch of its epoch up to `seq` was applied. A gap, or a new epoch that is
not seen from its start, makes it unsynced: batches are then skipped until a snapshot (the caller asks the worker for
one) makes it whole again. What was known before a gap stays usable meanwhile.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from argosy_api.blocks import ID_BYTES
from argosy_router.routing.predictions import Predictions


class Batch(Protocol):
    """What is read of an `argosy.v1.KvEventBatch`."""

    @property
    def epoch(self) -> int: ...  # noqa: D102
    @property
    def seq(self) -> int: ...  # noqa: D102
    @property
    def snapshot(self) -> bool: ...  # noqa: D102
    @property
    def stored(self) -> Sequence[bytes]: ...  # noqa: D102
    @property
    def removed(self) -> Sequence[bytes]: ...  # noqa: D102


class Outcome(Enum):
    """What `apply` did with a batch."""

    APPLIED = "applied"
    STALE = "stale"
    """Already contained, or of an older epoch: ignored."""
    GAP = "gap"
    """Batches are missing: a repair is needed."""
    EPOCH = "epoch"
    """A new epoch, not seen from its first batch: all that the worker said before is void, a repair is needed."""
    OVERFLOW = "overflow"
    """The worker claims more blocks than it can have: its entries are dropped, a repair is needed."""


@dataclass(slots=True)
class _Record:
    bit: int
    capacity: int
    epoch: int = 0
    seq: int = 0
    synced: bool = False
    held: set[bytes] = field(default_factory=set)


class KvIndex:
    """Block ids as 16 bytes; workers by id."""

    def __init__(self) -> None:
        self._masks: dict[bytes, int] = {}
        self._records: dict[str, _Record] = {}

    # --- workers

    def join(self, worker: str, capacity: int) -> None:
        """Knows a worker from now on; `capacity` is the number of blocks that it can hold at most."""
        if worker in self._records:
            self._records[worker].capacity = capacity
            return
        used = {record.bit for record in self._records.values()}
        bit = next(1 << i for i in range(len(used) + 1) if 1 << i not in used)
        self._records[worker] = _Record(bit=bit, capacity=capacity)

    def leave(self, worker: str) -> None:
        """Forgets a worker and all that it holds."""
        record = self._records.pop(worker, None)
        if record is not None:
            self._drop(record, record.held)

    def position(self, worker: str) -> tuple[int, int, bool]:
        """Epoch, last applied sequence number, and whether nothing is missing up to it; zeros for an unknown worker."""
        record = self._records.get(worker)
        if record is None:
            return 0, 0, False
        return record.epoch, record.seq, record.synced

    def new_epoch(self, worker: str, epoch: int) -> bool:
        """The worker runs in `epoch`; a later one than known voids all that it said. Returns whether it was later."""
        record = self._records.get(worker)
        if record is None or epoch <= record.epoch:
            return False
        self._void(record, epoch)
        return True

    # --- events

    def apply(self, worker: str, batch: Batch) -> Outcome:
        """Takes one batch; unknown workers are ignored (they have just left)."""
        record = self._records.get(worker)
        if record is None or batch.epoch < record.epoch:
            return Outcome.STALE
        fresh = batch.epoch > record.epoch
        if batch.snapshot:
            if not fresh and record.synced and batch.seq < record.seq:
                return Outcome.STALE
            wanted = {i for i in batch.stored if len(i) == ID_BYTES}
            record.epoch, record.seq, record.synced = batch.epoch, batch.seq, True
            self._drop(record, record.held - wanted)
            return self._store(record, wanted)
        if fresh:
            self._void(record, batch.epoch)
            if batch.seq != 1:
                return Outcome.EPOCH
            record.synced = True
        elif batch.seq <= record.seq:
            return Outcome.STALE
        elif not record.synced or batch.seq != record.seq + 1:
            record.synced = False
            return Outcome.GAP
        record.seq = batch.seq
        self._drop(record, batch.removed)
        return self._store(record, batch.stored)

    def _void(self, record: _Record, epoch: int) -> None:
        self._drop(record, record.held)
        record.epoch, record.seq, record.synced = epoch, 0, False

    def _store(self, record: _Record, ids: Iterable[bytes]) -> Outcome:
        masks, held, bit = self._masks, record.held, record.bit
        for block in ids:
            if len(block) == ID_BYTES and block not in held:
                held.add(block)
                masks[block] = masks.get(block, 0) | bit
        if len(held) > record.capacity:
            self._drop(record, held)
            record.synced = False
            return Outcome.OVERFLOW
        return Outcome.APPLIED

    def _drop(self, record: _Record, ids: Iterable[bytes]) -> None:
        masks, held, bit = self._masks, record.held, record.bit
        for block in list(ids):
            if block in held:
                held.discard(block)
                rest = masks[block] & ~bit
                if rest:
                    masks[block] = rest
                else:
                    del masks[block]

    # --- questions

    def mask_of(self, workers: Iterable[str]) -> dict[int, str]:
        """Bit -> worker, for those that are known."""
        return {self._records[w].bit: w for w in workers if w in self._records}

    def held(self, worker: str) -> int:
        """Number of blocks that the worker holds."""
        record = self._records.get(worker)
        return len(record.held) if record else 0

    def blocks_of(self, worker: str) -> frozenset[bytes]:
        """All blocks of the worker."""
        return frozenset(self._records[worker].held)

    def __len__(self) -> int:
        return len(self._masks)

    def match(self, ids: Sequence[bytes], workers: Iterable[str], extra: Predictions | None = None) -> dict[str, int]:
        """How many leading blocks of `ids` each of `workers` holds, counting predicted ones.

        O(blocks matched by the best worker); workers that hold nothing of it are there with 0.
        """
        names = self.mask_of(workers)
        found = dict.fromkeys(names.values(), 0)
        alive = sum(names)
        masks, predicted = self._masks, extra.masks if extra is not None else {}
        depth = 0
        for depth, block in enumerate(ids):
            still = alive & (masks.get(block, 0) | predicted.get(block, 0))
            if still != alive:
                _note(found, names, alive & ~still, depth)
                alive = still
            if not alive:
                return found
        if ids:
            _note(found, names, alive, depth + 1)
        return found

    def bit(self, worker: str) -> int:
        """The worker's bit, for `Predictions`; 0 when it is not known."""
        record = self._records.get(worker)
        return record.bit if record else 0


def _note(found: dict[str, int], names: dict[int, str], bits: int, depth: int) -> None:
    while bits:
        lowest = bits & -bits
        found[names[lowest]] = depth
        bits ^= lowest
