"""The KV index of one deployment: block id -> which workers hold it. Pure: no I/O, no clock.

Fed with the workers' event batches, in whatever order and however often they arrive. An entry that is wrong costs
time, never correctness: workers check their own prefix cache.

A worker's record is `synced` while every batch of its epoch up to `seq` was applied. A gap, or a new epoch that is
not seen from its start, makes it unsynced: batches are then skipped until a snapshot (the caller asks the worker for
one) makes it whole again. What was known before a gap stays usable meanwhile.
"""

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from argosy_router.routing.holdings import Holdings, marks_of
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
    """What `Predictions` know the worker by."""
    mark: int
    """What `Holdings` know it by."""
    capacity: int
    epoch: int = 0
    seq: int = 0
    synced: bool = False
    turn: int = 0
    """Counts what was begun; what was begun before and paused since then is given up."""


class KvIndex:
    """Block ids as 16 bytes; workers by id."""

    def __init__(self) -> None:
        self._holdings = Holdings()
        self._records: dict[str, _Record] = {}
        self._by_mark: dict[int, str] = {}
        self._by_bit: dict[int, str] = {}

    # --- workers

    def join(self, worker: str, capacity: int) -> None:
        """Knows a worker from now on; `capacity` is the number of blocks that it can hold at most."""
        if worker in self._records:
            self._records[worker].capacity = capacity
            return
        bits = sum(self._by_bit)
        bit, mark = ~bits & (bits + 1), self._holdings.new_mark()
        self._records[worker] = _Record(bit=bit, mark=mark, capacity=capacity)
        self._by_mark[mark], self._by_bit[bit] = worker, worker

    def leave(self, worker: str) -> None:
        """Forgets a worker at once, with all that it held; its blocks' memory goes with `sweep`."""
        record = self._records.pop(worker, None)
        if record is not None:
            del self._by_mark[record.mark], self._by_bit[record.bit]
            self._holdings.give_back(record.mark)

    def sweep(self) -> Iterator[None]:
        """Gives back the memory of what nobody holds any more, with pauses."""
        return self._holdings.sweep()

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
        self._holdings.clear(record.mark)
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
        outcome: Outcome | None = None
        if not (fresh or batch.snapshot) and max(len(batch.stored), len(batch.removed)) <= SLICE:
            outcome = self._step(record, batch)  # as nearly all are: without what pauses cost
            if outcome is Outcome.APPLIED:
                record.seq, record.synced = batch.seq, True
            return outcome
        with closing(self._write(record, batch, fresh=fresh)) as writing:
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
            self._holdings.clear(record.mark)
        if too_many:
            return Outcome.OVERFLOW
        if fresh and not batch.snapshot and batch.seq != 1:
            return Outcome.EPOCH
        if batch.snapshot and self._holdings.held(record.mark):
            yield from self._replace(record, batch.stored)
        else:
            yield from self._change(record.mark, batch.removed, more=False)
            yield from self._change(record.mark, batch.stored, more=True)
        return self._within(record)

    def _step(self, record: _Record, batch: Batch) -> Outcome:
        if len(batch.stored) > record.capacity:
            self._holdings.clear(record.mark)
            return Outcome.OVERFLOW
        self._holdings.change(record.mark, batch.removed, more=False)
        self._holdings.change(record.mark, batch.stored, more=True)
        return self._within(record)

    def _within(self, record: _Record) -> Outcome:
        """Whether the worker has no more than it can have."""
        if self._holdings.held(record.mark) > record.capacity:
            self._holdings.settle()
        if self._holdings.held(record.mark) > record.capacity:
            self._holdings.clear(record.mark)
            return Outcome.OVERFLOW
        return Outcome.APPLIED

    def _replace(self, record: _Record, ids: Sequence[bytes]) -> Iterator[None]:
        """The worker holds just these blocks; until all are here, those of before count."""
        mark = self._holdings.new_mark()
        try:
            yield from self._change(mark, ids, more=True)
            record.mark, mark = mark, record.mark
            self._by_mark[record.mark] = self._by_mark.pop(mark)
        finally:
            self._holdings.give_back(mark)

    def _change(self, mark: int, ids: Sequence[bytes], *, more: bool) -> Iterator[None]:
        for begin in range(0, len(ids), SLICE):
            if begin:
                yield
            self._holdings.change(mark, ids[begin : begin + SLICE], more=more)

    # --- questions

    def held(self, worker: str) -> int:
        """Number of blocks that the worker holds, exact after `settle`."""
        record = self._records.get(worker)
        return self._holdings.held(record.mark) if record else 0

    def holds(self, worker: str, ids: Sequence[bytes]) -> bool:
        """Whether the worker holds all of these blocks."""
        record = self._records.get(worker)
        return record is not None and all(self._holdings.mask(block) & record.mark for block in ids)

    def __len__(self) -> int:
        """Blocks that are held by anybody; exact after `settle`, and `sweep` where workers left."""
        return len(self._holdings)

    def settle(self) -> None:
        """Bring the numbers of blocks up to date."""
        self._holdings.settle()

    @property
    def nbytes(self) -> int:
        """Memory of the table of blocks, which is nearly all of it."""
        return self._holdings.nbytes

    def match(self, ids: Sequence[bytes], extra: Predictions | None = None) -> dict[str, int]:
        """How many leading blocks of `ids` each worker holds, counting predicted ones; who holds none is not there."""
        found: dict[str, int] = {}
        for depth, mask in self._holdings.leading(ids):
            for mark in marks_of(mask):
                worker = self._by_mark.get(mark)  # none: of a snapshot that is being taken
                if worker is not None:
                    found[worker] = depth
        if extra is not None:
            self._extend(found, ids, extra)
        return found

    def promised(self, ids: Sequence[bytes], extra: Predictions) -> dict[str, int]:
        """The same, of what is predicted alone: what was sent to a worker counts whatever is known of its cache."""
        found: dict[str, int] = {}
        for bit, blocks in extra.promised():
            depth = next((i for i, block in enumerate(ids) if block not in blocks), len(ids))
            if depth and (worker := self._by_bit.get(bit)) is not None:
                found[worker] = depth
        return found

    def _extend(self, found: dict[str, int], ids: Sequence[bytes], extra: Predictions) -> None:
        """Goes on with what is promised, where a worker's leading blocks end."""
        for bit, promised in extra.promised():
            worker = self._by_bit.get(bit)
            if worker is None:
                continue
            begin = depth = found.get(worker, 0)
            mark = self._records[worker].mark
            while depth < len(ids) and (
                ids[depth] in promised or (depth > begin and self._holdings.mask(ids[depth]) & mark)
            ):
                depth += 1
            if depth:
                found[worker] = depth

    def bit(self, worker: str) -> int:
        """The worker's bit, for `Predictions`; 0 when it is not known."""
        record = self._records.get(worker)
        return record.bit if record else 0
