"""The router's own account of what it has sent to one worker, and how it goes together with the worker's report.

The books know of a request the moment it is sent; the worker's report is up to a second old, but knows how far prompts
are computed and what other routers sent. Pure: the caller gives the time (monotonic seconds).
"""

from collections.abc import Sequence
from dataclasses import dataclass

REPORT_GOOD_S = 3.0
"""An older report says nothing any more: a worker that hangs must not look idle for ever."""


@dataclass(slots=True, eq=False)
class Entry:
    """One request in flight."""

    uncached: int
    """Prompt tokens that the worker has to compute, as predicted; 0 once the first token came."""
    prompt: int
    sent_at: float
    decode: int = 0
    """Context tokens, from the first token on."""


class Books:
    """Requests in flight at one worker. Every `open` has its `close`."""

    def __init__(self) -> None:
        self._entries: set[Entry] = set()
        self.decode = 0
        """Context tokens of the requests that generate."""

    def open(self, *, uncached: int, prompt: int, now: float) -> Entry:
        """A request is sent."""
        entry = Entry(uncached=uncached, prompt=prompt, sent_at=now)
        self._entries.add(entry)
        return entry

    def tokens(self, entry: Entry, count: int) -> None:
        """`count` tokens came; with the first ones the prompt is computed."""
        added = count if entry.decode else entry.prompt + count
        entry.uncached = 0
        entry.decode += added
        self.decode += added

    def close(self, entry: Entry) -> None:
        """The request ended, in whatever way. A second call does nothing."""
        if entry in self._entries:
            self._entries.discard(entry)
            self.decode -= entry.decode

    def __len__(self) -> int:
        return len(self._entries)

    def waiting(self) -> list[Entry]:
        """Those without a token yet."""
        return [e for e in self._entries if e.uncached]


def merge_queue(
    own: Sequence[Entry], reported: Sequence[tuple[float, float]], reported_at: float, now: float
) -> list[tuple[float, float]]:
    """The worker's queue as (uncached tokens, seconds waited): the books' entries and what the report adds.

    Entries sent before the report are in it, too, so they are scaled down to what it says is left of them; what it
    says above them was sent by others.
    """
    mine = [(float(e.uncached), now - e.sent_at) for e in own]
    if now - reported_at > REPORT_GOOD_S:
        return mine
    before = sum(e.uncached for e in own if e.sent_at < reported_at)
    total = sum(tokens for tokens, _ in reported)
    scale = min(1.0, total / before) if before else 1.0
    merged = [(e.uncached * (scale if e.sent_at < reported_at else 1.0), now - e.sent_at) for e in own]
    foreign = total - before
    if foreign > 0:
        age = now - reported_at
        merged += [(tokens * foreign / total, waited + age) for tokens, waited in reported]
    return merged
