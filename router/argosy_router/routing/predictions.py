"""Blocks that a worker will hold soon, because a request was sent there. Pure: the caller gives the time."""

from collections import deque
from collections.abc import Sequence
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
        self.masks: dict[bytes, int] = {}
        """Block id -> bits of the workers."""
        self._lag_s = lag_s
        self._limit = limit
        self._counts: dict[int, dict[bytes, int]] = {}
        self._computed: deque[tuple[float, Promise]] = deque()

    def add(self, bit: int, ids: Sequence[bytes]) -> Promise:
        """The worker with `bit` was just sent a prompt that makes these blocks. Every promise is ended once."""
        if not bit or len(self.masks) + len(ids) > self._limit:
            ids = ()
        counts = self._counts.setdefault(bit, {})
        for block in ids:
            counts[block] = counts.get(block, 0) + 1
            self.masks[block] = self.masks.get(block, 0) | bit
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
        for block in promise.ids:
            promise.counts[block] -= 1
            if not promise.counts[block]:
                del promise.counts[block]
                self._unmark(block, promise.bit)

    def bits(self) -> list[int]:
        """Of workers of whom something is promised."""
        return [bit for bit, counts in self._counts.items() if counts]

    def forget(self, bit: int) -> None:
        """The worker with `bit` is gone."""
        for block in self._counts.pop(bit, ()):
            self._unmark(block, bit)

    def _unmark(self, block: bytes, bit: int) -> None:
        rest = self.masks[block] & ~bit
        if rest:
            self.masks[block] = rest
        else:
            del self.masks[block]

    def __len__(self) -> int:
        return sum(map(len, self._counts.values()))
