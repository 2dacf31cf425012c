"""What waits at one worker: the router's own account of what it has sent, put together with the worker's report.

The books know of a request the moment it is sent, and of its first token the moment it comes. The report knows how far
prompts are computed and what other routers sent, but it is up to a second old. The worker numbers what it accepts and
tells each caller its number, so for every request of ours we know whether a report contains it; what it does not
contain counts on top. Between two reports the line is taken to move on at the worker's rate, in the engine's order.
Pure: the caller gives the time (monotonic seconds).
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from argosy_api import limits

REPORT_GOOD_S = 3.0
"""An older report says nothing any more: a worker that hangs must not look idle for ever."""


class Order(StrEnum):
    """In which order an engine computes the prompts in its line."""

    LEAST_WORK = "leastWork"
    FCFS = "fcfs"


class Discipline(NamedTuple):
    """How an engine orders its line. `ageing`: seconds of work that one second of waiting outweighs."""

    order: Order = Order.LEAST_WORK
    ageing: float = 0.25

    def rank(self, seconds: float, waited: float) -> float:
        """The least goes first. `seconds`: the work that is left of a prompt."""
        return -waited if self.order is Order.FCFS else seconds - self.ageing * waited


RESOURCE_DEFAULTS = Discipline()


class Waiting(NamedTuple):
    """Prompts in a worker's line: `requests` of them, of `tokens` uncached tokens each, which waited for so long."""

    tokens: float
    waited: float = 0.0
    requests: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a worker said of its line of prompts."""

    accepted: int
    """Submissions that it contains: those with this number or a smaller one."""
    line: Sequence[Waiting]
    at: float
    """When it was true."""


@dataclass(slots=True, eq=False)
class Entry:
    """One request in flight."""

    uncached: int
    """Prompt tokens that the worker has to compute, as predicted; 0 once the first token came."""
    prompt: int
    sent_at: float
    abandon: Callable[[], object]
    """Ends the attempt, so that the request goes to another worker; asked only before its first token."""
    decode: int = 0
    """Context tokens, from the first token on."""
    number: int | None = None
    """The worker's number of this submission; None until it has said so."""


def _nothing() -> None: ...


class Books:
    """Requests in flight at one worker. Every `open` has its `close`."""

    def __init__(self) -> None:
        self._entries: dict[Entry, None] = {}
        self._report: Report | None = None
        self._others = 0.0
        self._done: list[tuple[float, int]] = []
        """(sent at, tokens) of requests beyond the report that have got their first token."""
        self.decode = 0
        """Context tokens of the requests that generate."""

    def open(self, *, uncached: int, prompt: int, now: float, abandon: Callable[[], object] = _nothing) -> Entry:
        """A request is sent."""
        entry = Entry(uncached=uncached, prompt=prompt, sent_at=now, abandon=abandon)
        self._entries[entry] = None
        return entry

    def tokens(self, entry: Entry, count: int) -> None:
        """`count` tokens came; with the first ones the prompt is computed."""
        if entry.uncached and not self._contained(entry) and len(self._done) < limits.MAX_REMEMBERED_PROMPTS:
            self._done.append((entry.sent_at, entry.uncached))
        added = count if entry.decode else entry.prompt + count
        entry.uncached = 0
        entry.decode += added
        self.decode += added

    def close(self, entry: Entry) -> None:
        """The request ended, in whatever way. A second call does nothing."""
        if entry in self._entries:
            del self._entries[entry]
            self.decode -= entry.decode

    def __len__(self) -> int:
        return len(self._entries)

    def waiting(self) -> list[Entry]:
        """Those without a token yet."""
        return [e for e in self._entries if e.uncached]

    def take(self, report: Report | None) -> None:
        """The worker's newest report; None when its process is another one now, so that nothing is known."""
        self._report, self._others = report, 0.0
        self._done.clear()
        if report is not None:
            mine = sum(e.uncached for e in self.waiting() if self._contained(e))
            self._others = max(0.0, sum(w.tokens * w.requests for w in report.line) - mine)

    def _contained(self, entry: Entry) -> bool:
        report = self._report
        return report is not None and entry.number is not None and entry.number <= report.accepted

    def line(self, rate: float, discipline: Discipline, now: float) -> list[Waiting]:
        """What waits at the worker now, for all that is known. `rate`: prompt tokens that it computes in a second."""
        report, own = self._report, self.waiting()
        if report is None or now - report.at > REPORT_GOOD_S:
            return [Waiting(e.uncached, now - e.sent_at) for e in own]
        age = now - report.at
        known = [Waiting(w.tokens, w.waited + age, w.requests) for w in report.line]
        later = [e for e in own if not self._contained(e)]
        fresh = [Waiting(e.uncached, now - e.sent_at) for e in later]
        began = report.at if known else min((e.sent_at for e in later), default=now)
        done = sum(tokens for sent_at, tokens in self._done if sent_at >= began)
        known, fresh = _moved_on(known, fresh, rate, discipline, max(0.0, rate * (now - began) - done))
        # of what the report contains there cannot be more than our own without a token and what others sent
        most = self._others + sum(e.uncached for e in own if self._contained(e))
        return _scaled(known, most) + fresh


def _moved_on(
    known: Sequence[Waiting], fresh: Sequence[Waiting], rate: float, discipline: Discipline, budget: float
) -> tuple[list[Waiting], list[Waiting]]:
    """Takes the `budget` of computed tokens off the line, in the engine's order; what is not begun keeps its length."""
    order = sorted(
        [(discipline.rank(w.tokens / rate, w.waited), False, w) for w in known]
        + [(discipline.rank(w.tokens / rate, w.waited), True, w) for w in fresh],
        key=lambda item: item[0],
    )
    newest = max((w.waited for w in fresh), default=0.0)
    most_fresh = rate * newest  # what was sent later cannot have been computed since the report
    left: tuple[list[Waiting], list[Waiting]] = ([], [])
    for _, is_fresh, waiting in order:
        whole = waiting.tokens * waiting.requests
        taken = min(whole, budget, most_fresh) if is_fresh else min(whole, budget)
        budget -= taken
        most_fresh -= taken if is_fresh else 0.0
        if taken < whole:
            left[is_fresh].append(waiting._replace(tokens=(whole - taken) / waiting.requests))
    return left


def _scaled(line: list[Waiting], most: float) -> list[Waiting]:
    total = sum(w.tokens * w.requests for w in line)
    if total <= most:
        return line
    return [w._replace(tokens=w.tokens * most / total) for w in line] if most > 0 else []


def reported_line(queue: Iterable[tuple[float, float]], *, total: float, requests: int) -> list[Waiting]:
    """A report's line: the requests that it names, in the engine's order, and one piece for all beyond them.

    `total`: uncached tokens of all requests, named or not; `requests`: how many they are.
    """
    line = [Waiting(tokens, waited) for tokens, waited in queue]
    rest = total - sum(w.tokens for w in line)
    if rest > 0:
        count = max(1, requests - len(line))
        line.append(Waiting(rest / count, 0.0, count))
    return line
