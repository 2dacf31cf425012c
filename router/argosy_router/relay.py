"""Forwards one Generate stream, exactly once, whatever becomes of the workers: attempt after attempt (`course.py`).

Before the first token a worker that is gone costs the client nothing but time: the request goes to another one. After
it the answer goes on at another worker that computes the same bits, from the tokens that are there (`kept.py`): the
client sees a pause. So it does where the answer began at another router (`resumption.py`). What may be tried again
`setbacks.py` says. Whatever happens, the worker's call is cancelled, so that its blocks come free.
"""

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Self

from argosy_api.errors import UnavailableError
from argosy_api.v1 import worker_pb2 as pb
from argosy_router.clock import now
from argosy_router.course import Course
from argosy_router.fleet.peer import ACQUAINTANCE_S
from argosy_router.lost import Lost
from argosy_router.metrics import Metrics
from argosy_router.prefill import prefill
from argosy_router.resumption import WAIT_S, Resumption
from argosy_router.routing.dispatch import Decision, Dispatcher, no_worker
from argosy_router.routing.job import Job
from argosy_router.setbacks import cut_off
from argosy_router.spans import RequestSpan
from argosy_router.tries import Try

AGAIN_S = 0.1
"""Before a worker is tried again, where there is no other."""
HOPE_S = 0.01
"""Before another look whether a new worker is known by now."""
PATIENCE_S = 15.0
"""A stream whose worker was lost waits for so long for another one that can go on with it, or for the same one."""


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
        interval_ms: int = 0,
        span: RequestSpan | None = None,
        taken: Callable[[Decision], object] = _nothing,
        hold: Callable[[int], bool] = _boundless,
        told: Callable[[int], object] | None = None,
    ) -> None:
        """`taken` is called when a worker has taken the job, which may be before its first token; again for another.

        `interval_ms`: see `joining`. `span`: above those of the attempts. `hold`: see `Kept`. `told` hears of
        the tokens of each chunk that is handed on.
        """
        self.job = job
        self.delivered = 0
        """Tokens handed on."""
        self._told = told
        self._dispatcher = dispatcher
        self._metrics = metrics
        self._course = Course(job, dispatcher, metrics, attempts=attempts, taken=taken, hold=hold)
        self._course.interval_ms, self._course.span = interval_ms, span

    @property
    def decision(self) -> Decision:
        """Where the job went last. Only after `start`."""
        return self._course.decision

    @property
    def tries(self) -> list[Try]:
        """What was tried so far; the list grows."""
        return self._course.tries

    @property
    def finished(self) -> bool:
        """Whether a worker has said that the answer is at its end."""
        return self._course.finished

    @property
    def cached_tokens(self) -> int:
        """Prompt tokens that the first worker that gave a token found in its cache."""
        return self._course.cached_tokens

    @property
    def resume_token(self) -> bytes:
        """With which another router can go on with the answer. Only after `start`."""
        return self._course.resume_token

    # --- up to the first token

    async def start(self) -> Self:
        """Until a worker has sent the first token.

        Raises:
            ArgosyError: what the worker answered, or UNAVAILABLE when no worker could be had.

        """
        state, hope_until = self.job.deployment, now() + ACQUAINTANCE_S
        course, setbacks = self._course, self._course.setbacks
        setbacks.check_quarantine()
        if self.job.resumption is not None:
            await self._take_over(self.job.resumption)
            return self
        if state.splits and not self.job.embeds:  # hidden states of the prompt are nothing that could be fetched
            course.computed_by = await prefill(
                self.job, self._dispatcher, self._metrics, f"{course.request_id[:100]}-prompt"
            )
        while True:
            try:
                course.open(self.job)
            except UnavailableError as error:
                if not setbacks.excluded and state.hopeful and now() < hope_until:
                    await asyncio.sleep(HOPE_S)
                    continue
                if not setbacks.excluded and state.holds:  # the last worker has just gone
                    await self._wait_for_a_worker()
                    continue
                if setbacks.last_error or not setbacks.excluded:
                    raise setbacks.last_error or error from None
                # nobody else is there: a worker that was lost a moment ago may be well again (a connection that broke)
                setbacks.excluded = frozenset()
                await asyncio.sleep(AGAIN_S)
                continue
            try:
                await course.read_first()
            except Lost as lost:
                course.lose(lost)
                if setbacks.exhausted:
                    raise lost.error or UnavailableError(no_worker(state, tried=setbacks.tries)) from None
                course.spend(lost)
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
        course, until = self._course, now() + PATIENCE_S
        since = course.token_at
        course.lose(lost)
        if not course.kept.whole:
            raise self._cut_off("the router had no room to keep them")
        course.spend(lost)
        await self._continue(until)
        name = self.job.deployment.name
        self._metrics.resumed.labels(name, lost.why).inc()
        self._metrics.gap.labels(name).observe(now() - since)

    async def _take_over(self, begun: Resumption) -> None:
        """Go on with an answer that began at another router. Raises as `_go_on`."""
        state, course, until = self.job.deployment, self._course, now() + PATIENCE_S
        if not course.kept.whole:
            raise self._cut_off("this router has no room to keep them")
        hope_until = now() + WAIT_S
        while (alike := state.served_as(begun.fingerprint)) is None:
            if now() >= hope_until or not state.hopeful:
                raise self._cut_off("no worker here computes the same bits")
            await asyncio.sleep(HOPE_S)
        course.alike = alike
        await self._continue(until)
        self._metrics.resumed.labels(state.name, "router").inc()

    async def _continue(self, until: float) -> None:
        """Attempts from the kept tokens on, until one has sent the next; waits until then for who can."""
        course, setbacks = self._course, self._course.setbacks
        job = course.rest()
        while True:
            try:
                course.open(job)
            except UnavailableError:
                if now() >= until or not self.job.deployment.may_have(course.alike):
                    raise self._cut_off("no other worker can go on with them") from None
                setbacks.excluded = frozenset()  # its process or its connection may be well again
                await asyncio.sleep(AGAIN_S)
                continue
            try:
                await course.read_first()
            except Lost as lost:
                course.lose(lost)
                if lost.why == "full":
                    setbacks.tries -= 1  # it costs nobody anything, and its reader is in mid-sentence
                if setbacks.exhausted:
                    raise self._cut_off(f"{setbacks.tries} workers in a row could not go on with them") from None
                course.spend(lost)
            else:
                return

    def _cut_off(self, why: str) -> UnavailableError:
        return cut_off(self._course.kept.count, why)

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
        course = self._course
        while not course.came:
            if course.finished:
                raise StopAsyncIteration
            try:
                await course.read()
            except Lost as lost:
                await self._go_on(lost)
        chunk = course.came.pop(0)
        self.delivered += len(chunk.token_ids)
        if self._told is not None:
            self._told(len(chunk.token_ids))
        return chunk

    def close(self) -> None:
        """Cancels what still runs and closes the books. May be called twice."""
        self._course.close()

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
