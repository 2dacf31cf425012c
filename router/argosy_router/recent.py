"""The latest requests: which workers they went to and why, for those who may see it. Nothing of what was asked."""

import logging
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from argosy_api.errors import ArgosyError, CancelledError, InternalError
from argosy_router.clock import now
from argosy_router.relay import Flight
from argosy_router.routing.dispatch import Decision
from argosy_router.routing.job import Job
from argosy_router.tries import Try, told

log = logging.getLogger("argosy_router.requests")

KEPT = 1000
"""Choices of which it is known why they went where they went."""
SHOWN = 100
MOST_LINES = 10_000
"""Between two writes; more are lost."""
RUNNING, DONE = "running", "done"


@dataclass(slots=True, kw_only=True)
class Passing:
    """One choice of a request, on its way or ended."""

    number: int
    """Counts up, so that a reader tells it from others."""
    request_id: str
    model: str
    tenant: str
    at: float
    """When it came, in Unix time."""
    prompt_tokens: int
    workers: list[str] = field(default_factory=list)
    """Those that took it, one after another: more than one where a worker was lost."""
    why: str = ""
    """Of the last one."""
    cached_tokens: int = 0
    first_token_s: float | None = None
    seconds: float = 0.0
    """From its coming to its end."""
    tokens: int = 0
    outcome: str = RUNNING
    _began: float = 0.0
    _flight: Flight | None = None
    _tries: Sequence[Try] = ()

    def went(self, decision: Decision) -> None:
        """A worker has taken it."""
        if self.workers[-1:] != [decision.worker]:
            self.workers.append(decision.worker)
        self.why = decision.describe()

    def flies(self, flight: Flight) -> None:
        """From now on this says how many tokens were handed on, and whether that was all."""
        self._flight, self._tries = flight, flight.tries

    def first_token(self, cached: int, at: float) -> None:
        """It came; so many tokens of the prompt had been cached."""
        self.cached_tokens, self.first_token_s = cached, at - self._began

    def ended(self, error: BaseException | None) -> None:
        """It has ended, in this way."""
        if error is None:
            self.end(DONE)
        elif isinstance(error, ArgosyError):
            self.end(error.status)
        elif isinstance(error, Exception):
            self.end(InternalError.status)
        else:  # cancelled: the client is gone
            self.end(CancelledError.status)

    def end(self, outcome: str) -> None:
        """It ended, well or not."""
        self.tokens = self._count()
        if outcome == DONE and (self._flight is None or not self._flight.finished):
            outcome = CancelledError.status  # its reader left, which ends it without an error
        self.seconds, self.outcome, self._flight = now() - self._began, outcome, None

    def told(self) -> dict[str, Any]:
        """For `/fleet`."""
        running = self.outcome == RUNNING
        return {
            "number": self.number,
            "request_id": self.request_id,
            "model": self.model,
            "tenant": self.tenant,
            "at": self.at,
            "prompt_tokens": self.prompt_tokens,
            "cached_tokens": self.cached_tokens,
            "workers": list(self.workers),
            "why": self.why,
            "first_token_s": self.first_token_s,
            "seconds": now() - self._began if running else self.seconds,
            "tokens": self._count(),
            "outcome": self.outcome,
        }

    def explained(self) -> dict[str, Any]:
        """The same, and why each attempt went where it went."""
        return {**self.told(), "attempts": told(self._tries, self._began)}

    def _count(self) -> int:
        return self.tokens if self._flight is None else self._flight.delivered


@dataclass(frozen=True, slots=True)
class Line:
    """One request in one line of the log, written out only where somebody logs it. Nothing of what was asked."""

    api: str
    model: str
    code: str
    seconds: float
    flown: Sequence[Passing]
    """Its choices that were sent to workers."""

    def __str__(self) -> str:
        """As `http m OK 1.204 s: 35 prompt tokens (32 cached), 30 generated, first after 0.342 s, w0 > w1; id 'x'`."""
        said = f"{self.api} {self.model} {self.code} {self.seconds:.3f} s"
        if not self.flown:
            return said
        first = [one.first_token_s for one in self.flown if one.first_token_s is not None]
        after = f", first after {min(first):.3f} s" if first else ""
        workers = dict.fromkeys(" > ".join(one.workers) for one in self.flown if one.workers)
        one = self.flown[0]
        tenant = f", tenant {one.tenant}" if one.tenant else ""
        names = ("prompt_tokens", "cached_tokens", "tokens")
        prompt, cached, tokens = (sum(getattr(p, name) for p in self.flown) for name in names)
        return (
            f"{said}: {prompt} prompt tokens ({cached} cached), {tokens} generated{after}"
            f"{', ' if workers else ''}{', '.join(workers)}{tenant}; id {one.request_id!r:.150}"
        )


class Recent:
    """Of one router. Holds the latest only."""

    def __init__(self) -> None:
        self._passed: deque[Passing] = deque(maxlen=KEPT)
        self._count = 0
        self._lines: deque[Line] = deque(maxlen=MOST_LINES)

    def ended(self, line: Line) -> None:
        """A request has: its line is written with the next ones, for together they cost less."""
        self._lines.append(line)

    def write(self) -> None:
        """Log the lines that have come since."""
        lines, self._lines = self._lines, deque(maxlen=MOST_LINES)
        for line in lines:
            log.info("%s", line)

    def passing(self, job: Job) -> Passing:
        """A job on its way, until it is told that it has ended."""
        self._count += 1
        one = Passing(
            number=self._count,
            request_id=job.request_id,
            model=job.deployment.name,
            tenant=job.tenant.name,
            at=time.time(),
            prompt_tokens=len(job.tokens),
            _began=job.received_at or now(),
        )
        self._passed.append(one)
        return one

    def told(self) -> list[dict[str, Any]]:
        """The latest first, as many as are shown."""
        return [one.told() for one in islice(reversed(self._passed), SHOWN)]

    def explained(self, request_id: str) -> list[dict[str, Any]]:
        """The choices of one request, in order; empty: it is not known (any more)."""
        return [one.explained() for one in self._passed if one.request_id == request_id]
