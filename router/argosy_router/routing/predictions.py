"""Blocks that a worker will hold soon, because a request was sent there. Pure: the caller gives the time."""

from collections import deque
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass

from argosy_api import limits


@dataclass(slots=True, eq=False)
class Promise:
    """The blocks that one request will make at its worker."""

    bit: int
    ids: Sequence[bytes]
    counts: dict[bytes, int]
    """The worker's promised blocks, with the number of promises for each."""


class Predictions:
    """A promise counts until its prompt is computed, however long that takes, and `lag_s` more, until events came.

    Without it, siblings that arrive before the first event comes back would scatter.
    """

    def __init__(self, *, lag_s: float = 2.0, limit: int = limits.MAX_PROMISED_BLOCKS) -> None:
        self._lag_s = lag_s
        self._limit = limit
        self._counts: dict[int, dict[bytes, int]] = {}
        """By worker's bit: block id -> number of promises."""
        self._computed: deque[tuple[float, Promise]] = deque()

    def add(self, bit: int, ids: Sequence[bytes]) -> Promise:
        """The worker with `bit` was just sent a prompt that makes these blocks. Every promise is ended once."""
        if not bit or len(self) + len(ids) > self._limit:
            ids = ()
        counts = self._counts.setdefault(bit, {})
        once = dict.fromkeys(ids, 1)
        if len(once) == len(ids) and counts.keys().isdisjoint(once):  # the usual case, which is a loop in C
            counts.update(once)
        else:
            for block in ids:
                counts[block] = counts.get(block, 0) + 1
        return Promise(bit, ids, counts)

    def computed(self, promise: Promise, now: float) -> None:
        """The prompt is computed; the worker's events will say so. `now` in monotonic seconds."""
        self._computed.append((now + self._lag_s, promise))

    def expire(self, now: float) -> None:
        """Forgets what is over. Amortised O(1) for each promised block."""
        while self._computed and self._computed[0][0] <= now:
            self.withdraw(self._computed.popleft()[1])

    def withdraw(self, promise: Promise) -> None:
        """It will not be computed there, or the events have come."""
        if self._counts.get(promise.bit) is not promise.counts:
            return  # the worker was forgotten meanwhile
        counts, ids = promise.counts, promise.ids
        if set(map(counts.__getitem__, ids)) == {1}:
            deque(map(counts.__delitem__, ids), maxlen=0)
            return
        for block in ids:
            counts[block] -= 1
            if not counts[block]:
                del counts[block]

    def promised(self) -> Iterator[tuple[int, Container[bytes]]]:
        """The bits of workers of whom something is promised, with the blocks."""
        return ((bit, counts) for bit, counts in self._counts.items() if counts)

    def forget(self, bit: int) -> None:
        """The worker with `bit` is gone."""
        self._counts.pop(bit, None)

    def __len__(self) -> int:
        return sum(map(len, self._counts.values()))
