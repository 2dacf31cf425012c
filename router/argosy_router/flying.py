"""A job's flight as its front sees it: past the gate, counted, and closed on every way out."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType

from argosy_router.clock import now
from argosy_router.compared import compare
from argosy_router.gate import Gate, Passage
from argosy_router.metrics import Metrics
from argosy_router.picking.picks import Picks
from argosy_router.recent import Recent
from argosy_router.relay import Flight
from argosy_router.request import Request
from argosy_router.routing.dispatch import Decision, Dispatcher
from argosy_router.routing.job import Job


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """What all flights of a router start from."""

    dispatcher: Dispatcher
    metrics: Metrics
    gate: Gate
    recent: Recent
    picks: Picks | None
    attempts: int


class Flying:
    """A context manager: it starts a flight, and closes it.

    What is counted of a first token is counted while that is on its way to the client.
    """

    def __init__(
        self,
        field: Field,
        request: Request,
        job: Job,
        taken: Callable[[Decision], object],
        interval_ms: Callable[[], int],
    ) -> None:
        """`taken`, `interval_ms`: see `Flight`; the latter is asked when the job's turn has come."""
        self._field, self._request, self._job = field, request, job
        self._taken, self._interval_ms = taken, interval_ms
        self._inflight = field.metrics.inflight.labels(job.deployment.name)
        self._passing = field.recent.passing(job)
        self._passage: Passage | None = None
        self._flight: Flight | None = None
        self._first_at: float | None = None
        """When the first token came, until that is counted."""

    async def __aenter__(self) -> Flight:
        """Until the first token has come. Raises as `Gate.turn` and `Flight.start`."""
        state = self._job.deployment
        self._inflight.inc()
        state.demand.came(now())
        state.retries.came(now())
        self._request.flown.append(self._passing)
        try:
            return await self._start()
        except BaseException as error:
            self._end(error)
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """It has ended, in whatever way."""
        self._end(error)

    async def _start(self) -> Flight:
        field, job = self._field, self._job
        self._passage = passage = await field.gate.turn(job)
        if field.picks is not None:
            field.picks.came(job.pick.token)
        self._flight = flight = Flight(
            job, field.dispatcher, field.metrics, attempts=field.attempts, interval_ms=self._interval_ms(),
            span=self._request.span, taken=self._went, hold=self._request.hold,
            told=passage.tokens if job.tenant.name else None,
        )  # fmt: skip
        self._passing.flies(flight)
        await flight.start()
        self._first_at = now()
        self._passing.first_token(flight.cached_tokens, self._first_at)
        asyncio.get_running_loop().call_soon(self._count_first)
        return flight

    def _went(self, decision: Decision) -> None:
        self._passing.went(decision)
        self._taken(decision)

    def _count_first(self) -> None:
        came, passage, flight, job = self._first_at, self._passage, self._flight, self._job
        if came is None or passage is None or flight is None:
            return
        self._first_at = None
        passage.first_token(flight.cached_tokens)
        compare(job, flight.decision, flight.cached_tokens, self._field.metrics)
        if job.received_at and job.resumption is None:
            seconds = came - job.received_at
            self._field.metrics.ttft.labels(job.deployment.name).observe(seconds)
            job.deployment.demand.first_token(seconds, came)

    def _end(self, error: BaseException | None) -> None:
        try:
            self._count_first()
        finally:
            self._give_back(error)

    def _give_back(self, error: BaseException | None) -> None:
        self._passing.ended(error)
        job, metrics, name = self._job, self._field.metrics, self._job.deployment.name
        job.deployment.demand.went(now())
        self._inflight.dec()
        flight, self._flight = self._flight, None  # it holds this, too: memory would wait for the collector
        if flight is not None:
            flight.close()
            if job.resumption is None:  # else it was counted where it began
                metrics.prompt.labels(name).inc(len(job.tokens))
                metrics.cached.labels(name).inc(flight.cached_tokens)
            metrics.generated.labels(name).inc(flight.delivered)
        if self._passage is not None:
            self._passage.close()
