"""Forwards one Generate stream, exactly once, whatever becomes of the workers: attempt after attempt (`attempt.py`).

Before the first token a worker that is gone costs the client nothing but time: the request goes to another one. After
it the answer goes on at another worker that computes the same bits, from the tokens that are there (`kept.py`): the
client sees a pause. Tries without a new token are bounded by `attempts`, all requests' together by a budget
(`routing/retries.py`), and a request of which two workers died is not sent to a third. Whatever happens, the worker's
call is cancelled, so that its blocks come free.
"""

import asyncio
import logging
import secrets
from collections.abc import Callable
from types import TracebackType
from typing import Self

from argosy_api.convert import params_to_proto
from argosy_api.errors import ArgosyError, DeadlineError, InternalError, UnavailableError
from argosy_api.v1 import worker_pb2 as pb
from argosy_router.attempt import Attempt
from argosy_router.clock import now
from argosy_router.fleet.peer import ACQUAINTANCE_S, Peer
from argosy_router.kept import Kept
from argosy_router.lost import Lost
from argosy_router.metrics import Metrics
from argosy_router.prefill import prefill
from argosy_router.routing.dispatch import Decision, Dispatcher, no_worker
from argosy_router.routing.job import Job, continued
from argosy_router.routing.retries import same_place
from argosy_router.text.models import ServedModel

log = logging.getLogger(__name__)

AGAIN_S = 0.1
"""Before a worker is tried again, where there is no other."""
HOPE_S = 0.01
"""Before another look whether a new worker is known by now."""
FIRST_TOKEN_S = 30.0
FIRST_TOKEN_FACTOR = 10.0
"""No token within FIRST_TOKEN_S, nor within so many times the estimate: another worker is tried, if there is one."""
PATIENCE_S = 15.0
"""A stream whose worker was lost waits for so long for another one that can go on with it, or for the same one."""
POISON = "two workers died while they worked on this request"


def _nothing(decision: Decision) -> None: ...


def _boundless(_: int) -> bool:
    return True


class Flight:
    """One job on its way. `start` it, iterate over its chunks, `close` it (or use it as a context manager)."""

    def __init__(
        self,
        job: Job,
        dispatcher: Dispatcher,
        metrics: Metrics,
        *,
        attempts: int,
        taken: Callable[[Decision], object] = _nothing,
        hold: Callable[[int], bool] = _boundless,
    ) -> None:
        """`taken` is called when a worker has taken the job, which may be before its first token; again for another.

        `hold`: see `Kept`.
        """
        self.job = job
        self.delivered = 0
        """Tokens handed on."""
        self.cached_tokens = 0
        """Prompt tokens that the first worker that gave a token found in its cache."""
        self._dispatcher = dispatcher
        self._metrics = metrics
        self._attempts = attempts
        self._taken = taken
        self._kept = Kept(hold)
        self._attempt: Attempt | None = None
        self._alike: ServedModel | None = None  # whose answer it is, from the first token on
        self._tries = 0  # attempts since the last new token
        self._deaths: list[int] = []  # how many tokens were there
        self._excluded: frozenset[str] = frozenset()
        self._computed_by: Peer | None = None
        self._first: list[pb.GenerateChunk] = []
        self._token_at = 0.0
        self._finished = False
        self._last_error: ArgosyError | None = None  # of a worker that refused: tells more than that no other is left
        self._request = pb.GenerateRequest(
            request_id=f"{job.request_id[:100]}-{secrets.token_hex(6)}",
            prompt_tokens=job.tokens,
            sampling=params_to_proto(job.params),
            cache_salt=job.cache_salt,
            priority=job.priority,
        )

    @property
    def decision(self) -> Decision:
        """Where the job went last. Only after `start`."""
        return self._current.assignment.decision

    @property
    def _current(self) -> Attempt:
        if self._attempt is None:
            raise InternalError("the request was not started")
        return self._attempt

    # --- up to the first token

    async def start(self) -> Self:
        """Until a worker has sent the first token.

        Raises:
            ArgosyError: what the worker answered, or UNAVAILABLE when no worker could be had.

        """
        state, hope_until = self.job.deployment, now() + ACQUAINTANCE_S
        if state.quarantine and state.quarantine.holds(self.job.digest, now()):
            raise InternalError(f"{POISON}, when it was here before: it is not sent to a third one")
        self._computed_by = await prefill(
            self.job, self._dispatcher, self._metrics, f"{self._request.request_id[:100]}-prompt"
        )
        while True:
            try:
                self._open(self.job)
            except UnavailableError as error:
                if not self._excluded and state.hopeful and now() < hope_until:
                    await asyncio.sleep(HOPE_S)
                    continue
                if not self._excluded and state.holds:  # the last worker has just gone
                    await self._wait_for_a_worker()
                    continue
                if self._last_error or not self._excluded:
                    raise self._last_error or error from None
                # nobody else is there: a worker that was lost a moment ago may be well again (a connection that broke)
                self._excluded = frozenset()
                await asyncio.sleep(AGAIN_S)
                continue
            try:
                await self._read_first()
            except Lost as lost:
                self._lose(lost)
                if self._tries >= self._attempts:
                    raise lost.error or UnavailableError(no_worker(state, tried=self._tries)) from None
                self._spend(lost)
            else:
                return self

    async def _wait_for_a_worker(self) -> None:
        state = self.job.deployment
        until = (self.job.received_at or now()) + state.spec.hold_s
        await state.room.wait(until, self.job.deadline, lambda: no_worker(state, tried=0))

    # --- after it

    async def _go_on(self, lost: Lost) -> None:
        """Have another worker go on with the answer; until it has sent a token.

        Raises:
            UnavailableError: nobody can; says how many tokens were delivered.
            InternalError: two workers died of it.

        """
        since, until, why = self._token_at, now() + PATIENCE_S, lost.why
        self._lose(lost)
        if not self._kept.whole:
            raise self._cut_off("the router had no room to keep them")
        self._spend(lost)
        job = continued(self.job, self._kept.tokens)
        del self._request.resumed_tokens[:]
        self._request.resumed_tokens.extend(self._kept.tokens)
        self._request.resumed_text_bytes = self._kept.text_bytes
        while True:
            try:
                self._open(job)
            except UnavailableError:
                if now() >= until or not self.job.deployment.may_have(self._alike):
                    raise self._cut_off("no other worker can go on with them") from None
                self._excluded = frozenset()  # its process or its connection may be well again
                await asyncio.sleep(AGAIN_S)
                continue
            try:
                await self._read_first()
            except Lost as another:
                self._lose(another)
                if another.why == "full":
                    self._tries -= 1  # it costs nobody anything, and its reader is in mid-sentence
                if self._tries >= self._attempts:
                    raise self._cut_off(f"{self._tries} workers in a row could not go on with them") from None
                self._spend(another)
            else:
                name = self.job.deployment.name
                self._metrics.resumed.labels(name, why).inc()
                self._metrics.gap.labels(name).observe(now() - since)
                return

    def _cut_off(self, why: str) -> UnavailableError:
        return UnavailableError(f"the worker was lost after {self._kept.count} tokens were delivered; {why}")

    # --- attempts

    def _open(self, job: Job) -> None:
        self._first.clear()
        remaining = None
        if job.deadline is not None:
            remaining = job.deadline - now()
            if remaining <= 0:
                raise DeadlineError("the deadline passed before a worker had answered")
        assignment = self._dispatcher.assign(
            job, self._excluded, computed_by=self._computed_by, alike=self._alike, abandon=self._abandon
        )
        self._tries += 1
        self._request.attempt += 1
        self._request.kv_source = assignment.source
        if self._request.attempt == 1 and job.received_at:
            self._metrics.added.observe(now() - job.received_at)
        self._attempt = Attempt(assignment, self._request, timeout=remaining, taken=self._taken)

    async def _read_first(self) -> None:
        """Chunks up to the first token; within bounds, where another worker could do better."""
        limit: float | None = None
        if self._tries < self._attempts and self._others():
            limit = max(FIRST_TOKEN_S, FIRST_TOKEN_FACTOR * self.decision.cost_s)
        try:
            async with asyncio.timeout(limit):
                while not self._first or not (self._first[-1].token_ids or self._finished):
                    self._first.append(await self._read())
        except TimeoutError:
            raise Lost("slow", f"no token within {limit:.0f} s", eject=False) from None

    async def _read(self) -> pb.GenerateChunk:
        chunk = await self._current.read()
        if chunk.token_ids or chunk.text:
            self._kept.add(chunk.token_ids, chunk.text)
        if chunk.token_ids:
            self._token_at, self._tries, self._computed_by = now(), 0, None
            if self._alike is None:
                self._alike = self._current.assignment.worker.facts
        if chunk.HasField("usage"):
            if self._request.resumed_tokens:
                chunk.usage.cached_tokens = self.cached_tokens
            else:
                self.cached_tokens = chunk.usage.cached_tokens
        self._finished = chunk.finish_reason != pb.FINISH_REASON_UNSPECIFIED
        return chunk

    def _abandon(self) -> None:
        """The worker hangs: end the attempt, if another may do better."""
        if self._attempt is not None and self._tries < self._attempts and self._others():
            self._attempt.abandon()

    def _others(self) -> bool:
        return self._dispatcher.others(self.job, self._excluded | {self.decision.worker}, self._alike)

    def _lose(self, lost: Lost) -> None:
        """The attempt is over. Raises InternalError where it was the second worker that died at this place."""
        attempt, count = self._current, self._kept.count
        log.info(
            "request %s: worker %s: %s (attempt %d, %d tokens)",
            self.job.request_id, self.decision.worker, lost, self._request.attempt, count,
        )  # fmt: skip
        self._excluded |= {self.decision.worker}
        self._last_error = lost.error
        attempt.give_up(lost)
        if attempt.died(lost):
            if same_place(self._deaths, count):
                log.error("request %s: %s", self.job.request_id, POISON)
                self.job.deployment.quarantine.add(self.job.digest, now())
                self._metrics.quarantined.labels(self.job.deployment.name).inc()
                raise InternalError(f"{POISON}, after {count} tokens: it is not sent to a third one") from None
            self._deaths.append(count)

    def _spend(self, lost: Lost) -> None:
        """One more attempt, of the budget of all. Raises UnavailableError, or what the worker said, if none is left."""
        state = self.job.deployment
        if not state.retries.take(now(), in_flight=state.demand.in_flight):
            if self._kept.count:
                raise self._cut_off("too many requests are being sent once more")
            raise lost.error or UnavailableError("too many requests are being sent once more; try again later")
        self._metrics.retries.labels(state.name, lost.why).inc()

    # --- for the reader

    def __aiter__(self) -> Self:
        """Chunks, in order, each once."""
        return self

    async def __anext__(self) -> pb.GenerateChunk:
        """The next chunk; ends after the one with a finish reason.

        Raises:
            UnavailableError: the worker was lost in mid-stream, and nobody can go on; says how many tokens were
                delivered.

        """
        while not self._first:
            if self._finished:
                raise StopAsyncIteration
            try:
                self._first.append(await self._read())
            except Lost as lost:
                await self._go_on(lost)
        chunk = self._first.pop(0)
        self.delivered += len(chunk.token_ids)
        return chunk

    def close(self) -> None:
        """Cancels what still runs and closes the books. May be called twice."""
        if self._attempt is not None:
            self._attempt.close()
        self._kept.forget()

    async def __aenter__(self) -> Self:
        """Starts."""
        try:
            return await self.start()
        except BaseException:
            self.close()
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes."""
        self.close()
