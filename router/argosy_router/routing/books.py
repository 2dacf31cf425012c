"""What waits at one worker: the router's own account of what it has sent, put together with the worker's report.

The books know of a request the moment it is sent, and of its first token the moment it comes. The report knows how far
prompts are computed and what other routers sent, but it is up to a second old. The worker numbers what it accepts and
tells each caller its number, so for every request of ours we know whether a report contains it; what it does not
contain counts on top. Between two reports the line is taken to move on at the worker's rate, in the engine's order.
Pure: the caller gives the time (monotonic seconds).
"""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from argosy_api import limits
from argosy_api.order import Discipline
from argosy_router.routing.line import Line, Ordered, Piece, Rest, Waiting, moved_on

REPORT_GOOD_S = 3.0
"""An older report says nothing any more: a worker that hangs must not look idle for ever."""
LATE_S = 0.5
"""A report may be so much older than it seems, written and read every quarter of a second as it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a worker said of its line of prompts."""

    accepted: int
    """Submissions that it contains: those with this number or a smaller one."""
    line: Sequence[Waiting]
    at: float
    """When it was true, about: see LATE_S."""
    decode: float = 0.0
    """Context tokens of the requests that generate."""


@dataclass(slots=True, eq=False)
class Entry:
    """One request in flight."""

    uncached: int
    """Prompt tokens that the worker has to compute, as predicted; 0 once the first token came."""
    prompt: int
    sent_at: float
    abandon: Callable[[], object]
    """Ends the attempt, so that the request goes to another worker, if there is one that can take it."""
    decode: int = 0
    """Context tokens, from the first token on."""
    priority: int = 0
    number: int | None = None
    """The worker's number of this submission; None until it has said so."""


def _nothing() -> None: ...


class Books:
    """Requests in flight at one worker. Every `open` has its `close`.

    What a decision asks for is kept ready: a change costs as much as the line is long, a question does not.
    """

    def __init__(self) -> None:
        self._entries: dict[Entry, None] = {}
        self._later: dict[Entry, None] = {}
        """Those without a token that the report does not contain."""
        self._contained = 0
        """Tokens of those without a token that it contains."""
        self._report: Report | None = None
        self._others = 0.0
        """Tokens of what waits that others sent."""
        self._others_decode = 0.0
        """Context tokens of others' requests that generate."""
        self._begun: deque[tuple[float, int, int | None]] = deque(maxlen=limits.MAX_REMEMBERED_PROMPTS)
        """(when, tokens, its number) of prompts with a first token lately: the next report may still contain them."""
        self._ended: deque[tuple[float, int, int | None]] = deque(maxlen=limits.MAX_REMEMBERED_PROMPTS)
        """(when, context tokens, its number) of requests that ended lately: the same."""
        self._done: list[tuple[float, int]] = []
        """(sent at, tokens) of requests beyond the report that have got their first token."""
        self._done_since = 0
        """Tokens of those that were sent since the report."""
        self.decode = 0
        """Context tokens of the requests that generate."""
        self.released = 0
        """Context tokens of those that have ended since the report was written."""
        self._known: Ordered | None = None
        self._own: _Own | None = None

    def open(
        self, *, uncached: int, prompt: int, now: float, priority: int = 0, abandon: Callable[[], object] = _nothing
    ) -> Entry:
        """A request is sent. `uncached` is 1 or more."""
        entry = Entry(uncached=uncached, prompt=prompt, sent_at=now, priority=priority, abandon=abandon)
        self._entries[entry] = None
        self._later[entry] = None
        self._own = None
        return entry

    def accepted(self, entry: Entry, number: int) -> None:
        """The worker has taken the request, as its submission with this number."""
        entry.number = number
        if entry in self._later and self._reported(entry):
            del self._later[entry]
            self._contained += entry.uncached
            self._own = None

    def tokens(self, entry: Entry, count: int, now: float) -> None:
        """`count` tokens came; with the first ones the prompt is computed."""
        if entry.uncached:
            self._begun.append((now, entry.uncached, entry.number))
        if entry.uncached and not self._reported(entry) and len(self._done) < limits.MAX_REMEMBERED_PROMPTS:
            self._done.append((entry.sent_at, entry.uncached))
            if self._report is not None and entry.sent_at >= self._report.at:
                self._done_since += entry.uncached
        self._waits_no_more(entry)
        added = count if entry.decode else entry.prompt + count
        entry.uncached = 0
        entry.decode += added
        self.decode += added

    def close(self, entry: Entry, now: float) -> None:
        """The request ended, in whatever way. A second call does nothing."""
        if entry in self._entries:
            if entry.uncached:
                self._begun.append((now, entry.uncached, entry.number))
            self._waits_no_more(entry)
            del self._entries[entry]
            self._ended.append((now, entry.decode, entry.number))
            self.released += entry.decode if self._reported(entry) else 0
            self.decode -= entry.decode
            entry.abandon = _nothing  # whoever is to be told holds the entry: memory would wait for the collector

    def __len__(self) -> int:
        return len(self._entries)

    def entries(self) -> list[Entry]:
        """All of them."""
        return list(self._entries)

    def waiting(self) -> list[Entry]:
        """Those without a token yet."""
        return [e for e in self._entries if e.uncached]

    def take(self, report: Report | None) -> None:
        """The worker's newest report; None when its process is another one now, so that nothing is known."""
        self._report, self._others, self._others_decode, self.released = report, 0.0, 0.0, 0
        self._done.clear()
        self._done_since = 0
        self._known = self._own = None
        own = self.waiting()
        self._later = {e: None for e in own if not self._reported(e)}
        self._contained = sum(e.uncached for e in own if e not in self._later)
        if report is None:
            self._begun.clear()
            self._ended.clear()
        else:
            # what of ours went on since it was written is not somebody else's
            begun, self.released = self._lately(self._begun, report), self._lately(self._ended, report)
            self._others = max(0.0, sum(w.tokens * w.requests for w in report.line) - self._contained - begun)
            self._others_decode = max(0.0, report.decode - self.decode - self.released)

    def decoding(self, now: float) -> float:
        """Context tokens of all requests that generate there, ours and others'."""
        report = self._report
        others = self._others_decode if report is not None and now - report.at <= REPORT_GOOD_S else 0.0
        return self.decode + others

    def line(self, rate: float, discipline: Discipline, now: float) -> Line:
        """What waits at the worker now, for all that is known. `rate`: prompt tokens that it computes in a second."""
        report = self._report
        if report is None or now - report.at > REPORT_GOOD_S:
            return Line(now, (Rest(self._ours(rate, discipline, beyond=None).ordered),))
        if not report.line and not self._later:
            return Line(now)  # an idle worker, the usual case, costs nothing
        known, own = self._sorted(report, rate, discipline), self._ours(rate, discipline, beyond=report)
        began = now if own.began is None else own.began
        budget = max(0.0, rate * (now - began) - own.done)
        # what was sent later cannot have been computed since the report
        most_fresh = rate * max(0.0, now - own.ordered.earliest)
        left, fresh = moved_on(known, own.ordered, budget, most_fresh)
        # of what the report contains there cannot be more than our own without a token and what others sent
        return Line(now, (left.upto(self._others + self._contained), fresh))

    def _lately(self, changes: deque[tuple[float, int, int | None]], report: Report) -> int:
        """Tokens of the changes that a report may not know; older ones are forgotten."""
        while changes and changes[0][0] < report.at - LATE_S:
            changes.popleft()
        return sum(tokens for _, tokens, number in changes if number is not None and number <= report.accepted)

    def _reported(self, entry: Entry) -> bool:
        report = self._report
        return report is not None and entry.number is not None and entry.number <= report.accepted

    def _waits_no_more(self, entry: Entry) -> None:
        if entry.uncached and entry in self._entries:
            if entry in self._later:
                del self._later[entry]
            else:
                self._contained -= entry.uncached
            self._own = None

    def _sorted(self, report: Report, rate: float, discipline: Discipline) -> Ordered:
        known = self._known
        if known is None or (known.rate, known.discipline) != (rate, discipline):
            pieces = (Piece(w.tokens, report.at - w.waited, w.requests, w.priority) for w in report.line)
            known = self._known = Ordered(pieces, rate, discipline)
        return known

    def _ours(self, rate: float, discipline: Discipline, *, beyond: Report | None) -> "_Own":
        """Our own in the line: those that the report does not contain, or all of them."""
        own = self._own
        if own is None or own.beyond is not beyond or (own.ordered.rate, own.ordered.discipline) != (rate, discipline):
            entries = self.waiting() if beyond is None else list(self._later)
            began = min((e.sent_at for e in entries), default=None)
            if beyond is not None and beyond.line:
                began, done = beyond.at, self._done_since
            else:
                done = sum(tokens for sent_at, tokens in self._done if sent_at >= began) if began is not None else 0
            ordered = Ordered((Piece(e.uncached, e.sent_at, 1, e.priority) for e in entries), rate, discipline)
            own = self._own = _Own(ordered, beyond, began, done)
        return own


class _Own(NamedTuple):
    """Our own requests without a token, sorted."""

    ordered: Ordered
    beyond: Report | None
    began: float | None
    """Since when the line moves on; None when nothing is in it."""
    done: int
    """Tokens of the prompts that were computed since, and are in no line any more."""


def reported_line(queue: Iterable[Waiting], *, total: float, requests: int) -> list[Waiting]:
    """A report's line: the requests that it names, in the engine's order, and one piece for all beyond them.

    `total`: uncached tokens of all requests, named or not; `requests`: how many they are.
    """
    line = list(queue)
    rest = total - sum(w.tokens for w in line)
    if rest > 0:
        count = max(1, requests - len(line))
        line.append(Waiting(rest / count, 0.0, count))
    return line
