"""The KV index of one deployment: block id -> which workers hold it. Pure: no I/O, no clock.

Fed with the workers' event batches, in whatever order and however often they arrive. An entry that is wrong costs
time, never correctness: workers check their own prefix cache.

A worker's record is `synced` while every batch of its epoch up to `seq` was applied. A gap, or a new epoch that is
not seen from its start, makes it unsynced: batches are then skipped until a snapshot (the caller asks the worker for
one) makes it whole again. What was known before a gap stays usable meanwhile.
"""

from collections.abc import Container, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from itertools import islice
from typing import Protocol

from argosy_api.blocks import ID_BYTES
from argosy_router.routing.predictions import Predictions

SLICE = 4096
"""Ids that are taken in one turn of the event loop: a few milliseconds."""


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


@dataclass(slots=True, eq=False)
class _Record:
    bit: int
    capacity: int
    epoch: int = 0
    seq: int = 0
    synced: bool = False
    turn: int = 0
    """Counts what was begun; what was begun before and paused since then is given up."""
    held: set[bytes] = field(default_factory=set)


class KvIndex:
    """Block ids as 16 bytes; workers by id."""

    def __init__(self) -> None:
        self._masks: dict[bytes, int] = {}
        self._records: dict[str, _Record] = {}
        self._retired: list[_Record] = []
        """What workers held that left or began anew. Their bits are taken until it is swept."""

    # --- workers

    def join(self, worker: str, capacity: int) -> None:
        """Knows a worker from now on; `capacity` is the number of blocks that it can hold at most."""
        if worker in self._records:
            self._records[worker].capacity = capacity
            return
        self._records[worker] = _Record(bit=self._free_bit(), capacity=capacity)

    def leave(self, worker: str) -> None:
        """Forgets a worker at once; what it held no longer counts, and goes with `sweep`."""
        record = self._records.pop(worker, None)
        if record is not None:
            self._retired.append(record)

    def sweep(self) -> Iterator[None]:
        """Drops what nobody holds any more, with a pause after each `SLICE` ids."""
        while self._retired:
            record = self._retired[0]
            yield from self._drop(record, list(record.held))
            if not record.held:
                self._retired.remove(record)
            yield

    def _free_bit(self) -> int:
        used = {record.bit for record in (*self._records.values(), *self._retired)}
        return next(1 << i for i in range(len(used) + 1) if 1 << i not in used)

    def position(self, worker: str) -> tuple[int, int, bool]:
        """Epoch, last applied sequence number, and whether nothing is missing up to it; zeros for an unknown worker."""
        record = self._records.get(worker)
        if record is None:
            return 0, 0, False
        return record.epoch, record.seq, record.synced

    def new_epoch(self, worker: str, epoch: int) -> bool:
        """The worker runs in `epoch`; a later one than known voids all that it said. Returns whether it was later.

        It may then have another `bit`: its predictions, made with the former, are void too.
        """
        record = self._records.get(worker)
        if record is None or epoch <= record.epoch:
            return False
        if record.held:
            self._retired.append(_Record(bit=record.bit, capacity=0, held=record.held))
            record.bit, record.held = self._free_bit(), set()
        record.turn += 1
        record.epoch, record.seq, record.synced = epoch, 0, False
        return True

    # --- events

    def apply(self, worker: str, batch: Batch) -> Outcome:
        """Takes one batch; unknown workers are ignored (they have just left)."""
        steps = self.applying(worker, batch)
        while True:
            try:
                next(steps)
            except StopIteration as end:
                outcome: Outcome = end.value
                return outcome

    def applying(self, worker: str, batch: Batch) -> Generator[None, None, Outcome]:
        """As `apply`, with a pause after each `SLICE` ids of a larger batch, so that others get their turn.

        At a pause, and where it is given up there, the worker is not synced and its position is that of before; what
        is known then is what was known before and what the batch tells, never blocks of two epochs. What happens to the
        worker in a pause (it leaves, restarts, another batch) ends this with STALE or GAP.
        """
        record = self._records.get(worker)
        if record is None or batch.epoch < record.epoch:
            return Outcome.STALE
        fresh = batch.epoch > record.epoch
        if batch.snapshot:
            if not fresh and record.synced and batch.seq < record.seq:
                return Outcome.STALE
        elif not fresh and batch.seq <= record.seq:
            return Outcome.STALE
        elif not fresh and (not record.synced or batch.seq != record.seq + 1):
            record.synced = False
            return Outcome.GAP
        record.turn, record.synced = record.turn + 1, False
        turn = record.turn
        if fresh:
            record.epoch, record.seq = batch.epoch, 0
        writing = self._write(record, batch, fresh=fresh)
        outcome: Outcome | None = None
        while outcome is None:
            try:
                next(writing)
            except StopIteration as end:
                outcome = end.value
            else:
                yield
                if self._records.get(worker) is not record:
                    return Outcome.STALE
                if record.turn != turn:
                    return Outcome.GAP
        if outcome is Outcome.APPLIED:
            record.seq, record.synced = batch.seq, True
        return outcome

    def _write(self, record: _Record, batch: Batch, *, fresh: bool) -> Generator[None, None, Outcome]:
        """Bring the entries to what `batch` says, with a pause between slices."""
        too_many = len(batch.stored) > record.capacity
        if fresh or too_many:
            yield from self._drop(record, list(record.held))
        if too_many:
            return Outcome.OVERFLOW
        if fresh and not batch.snapshot and batch.seq != 1:
            return Outcome.EPOCH
        if batch.snapshot:
            wanted: set[bytes] = set()
            yield from self._store(record, batch.stored, wanted)
            yield from self._drop(record, list(record.held), keep=wanted)
        else:
            yield from self._drop(record, batch.removed)
            yield from self._store(record, batch.stored)
        if len(record.held) > record.capacity:
            yield from self._drop(record, list(record.held))
            return Outcome.OVERFLOW
        return Outcome.APPLIED

    def _store(self, record: _Record, ids: Iterable[bytes], told: set[bytes] | None = None) -> Iterator[None]:
        masks, held, bit = self._masks, record.held, record.bit
        for pause, part in _slices(ids):
            if pause:
                yield
            for block in part:
                if len(block) == ID_BYTES and block not in held:
                    held.add(block)
                    masks[block] = masks.get(block, 0) | bit
            if told is not None:
                told.update(part)

    def _drop(self, record: _Record, ids: Iterable[bytes], keep: Container[bytes] = ()) -> Iterator[None]:
        masks, held, bit = self._masks, record.held, record.bit
        for pause, part in _slices(ids):
            if pause:
                yield
            for block in part:
                if block in held and block not in keep:
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


def _slices(ids: Iterable[bytes]) -> Iterator[tuple[bool, list[bytes]]]:
    """`ids` in parts, with whether a pause is due before each: before all but the first."""
    rest, pause = iter(ids), False
    while part := list(islice(rest, SLICE)):
        yield pause, part
        pause = True


def _note(found: dict[str, int], names: dict[int, str], bits: int, depth: int) -> None:
    while bits:
        lowest = bits & -bits
        found[names[lowest]] = depth
        bits ^= lowest
