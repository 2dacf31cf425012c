"""The attempts of one request, one at a time: the present one, what has come, and what the next one must know."""

import asyncio
import os
from collections.abc import Callable

from argosy_api.convert import params_to_proto
from argosy_api.errors import DeadlineError, InternalError
from argosy_api.v1 import worker_pb2 as pb
from argosy_router import resumption
from argosy_router.attempt import Attempt
from argosy_router.clock import now
from argosy_router.fleet.peer import Peer
from argosy_router.kept import Kept
from argosy_router.lost import Lost
from argosy_router.metrics import Metrics
from argosy_router.routing.dispatch import Decision, Dispatcher
from argosy_router.routing.job import Job, continued
from argosy_router.setbacks import Setbacks
from argosy_router.spans import AttemptSpan, RequestSpan
from argosy_router.text.models import ServedModel
from argosy_router.tries import Try, add

FIRST_TOKEN_S = 30.0
FIRST_TOKEN_FACTOR = 10.0
"""No token within FIRST_TOKEN_S, nor within so many times the estimate: another worker is tried, if there is one."""
FINISHES = {pb.FINISH_REASON_STOP: "stop", pb.FINISH_REASON_LENGTH: "length", pb.FINISH_REASON_ABORT: "abort"}


class Course:
    """Of one job. Close it."""

    def __init__(
        self,
        job: Job,
        dispatcher: Dispatcher,
        metrics: Metrics,
        *,
        attempts: int,
        taken: Callable[[Decision], object],
        hold: Callable[[int], bool],
    ) -> None:
        """`taken`, `hold`: see `relay.Flight`."""
        self.job = job
        self.kept = Kept(hold)
        """All that came, kept or not."""
        self.setbacks = Setbacks(job, metrics, attempts)
        self.alike: ServedModel | None = None
        """Whose answer it is, from the first token on."""
        self.computed_by: Peer | None = None
        """Who has just computed the prompt for whoever generates."""
        self.cached_tokens = 0
        """Prompt tokens that the first worker that gave a token found in its cache."""
        self.came: list[pb.GenerateChunk] = []
        """Chunks that nobody has read yet."""
        self.token_at = 0.0
        """When the last token came."""
        self.finished = False
        self.span: RequestSpan | None = None
        self._leg: AttemptSpan | None = None
        self.tries: list[Try] = []
        """What was tried so far."""
        self.interval_ms = 0
        """Of messages, at least."""
        self._dispatcher = dispatcher
        self._metrics = metrics
        self._taken = taken
        self._attempt: Attempt | None = None
        self._request = pb.GenerateRequest(
            request_id=f"{job.request_id[:100]}-{os.urandom(6).hex()}",
            prompt_tokens=job.tokens,
            sampling=params_to_proto(job.params),
            cache_salt=job.cache_salt,
            adapter=job.adapter,
            priority=job.priority,
            constraint=job.constraint,
            embed=job.embeds,
        )
        if job.resumption is not None:
            self._take_over(job.resumption)

    def _take_over(self, begun: resumption.Resumption) -> None:
        self.kept.add(begun.tokens, "")
        self.kept.text_bytes = begun.text_bytes
        self._request.attempt, self.cached_tokens = begun.attempt, begun.cached_tokens

    @property
    def request_id(self) -> str:
        """As workers see it."""
        return self._request.request_id

    @property
    def decision(self) -> Decision:
        """Where the job went last. Only after `open`."""
        return self._current.assignment.decision

    @property
    def resume_token(self) -> bytes:
        """With which another router can go on with the answer. Only after the first token."""
        return resumption.token(
            fingerprint=self.alike.fingerprint if self.alike is not None else "",
            params=self.job.params,
            digest=self.job.digest,
            cached_tokens=self.cached_tokens,
        )

    @property
    def _current(self) -> Attempt:
        if self._attempt is None:
            raise InternalError("the request was not started")
        return self._attempt

    def rest(self) -> Job:
        """The job of going on after all that came; attempts from now on do."""
        del self._request.resumed_tokens[:]
        self._request.resumed_tokens.extend(self.kept.tokens)
        self._request.resumed_text_bytes = self.kept.text_bytes
        return continued(self.job, self.kept.tokens)

    def open(self, job: Job) -> None:
        """The next attempt.

        Raises:
            UnavailableError: there is no worker.
            DeadlineError: it is too late.

        """
        self.came.clear()
        remaining = None
        if job.deadline is not None:
            remaining = job.deadline - now()
            if remaining <= 0:
                raise DeadlineError("the deadline passed before a worker had answered")
        assignment = self._dispatcher.assign(
            job, self.setbacks.excluded, computed_by=self.computed_by, alike=self.alike, abandon=self._abandon
        )
        self.setbacks.tries += 1
        add(self.tries, Try(decision=assignment.decision, at=now(), tokens=self.kept.count))
        self._request.attempt += 1
        self._request.kv_source = assignment.source
        self._request.message_interval_ms = self.interval_ms
        if self._request.attempt == 1 and job.received_at:
            self._metrics.added.observe(now() - job.received_at)
        metadata = None
        if self.span is not None:
            self._leg = self.span.attempt(assignment.decision, self._request.attempt)
            metadata = self._leg.metadata
        self._attempt = Attempt(assignment, self._request, timeout=remaining, taken=self._taken, metadata=metadata)

    async def read_first(self) -> None:
        """Chunks up to the attempt's first token, into `came`; within bounds, where another worker could do better.

        Raises:
            Lost: the attempt is over.
            ArgosyError: what the worker refused.

        """
        limit = max(FIRST_TOKEN_S, FIRST_TOKEN_FACTOR * self.decision.cost_s)
        timer = asyncio.get_running_loop().call_later(limit, self._late, limit)
        try:
            while not self.came or not (self.came[-1].token_ids or self.finished):
                await self.read()
        finally:
            timer.cancel()

    async def read(self) -> None:
        """One chunk more, into `came`. Raises as `read_first`."""
        chunk = await self._current.read()
        if chunk.token_ids or chunk.text:
            self.kept.add(chunk.token_ids, chunk.text)
        if chunk.token_ids:
            self.token_at, self.setbacks.tries, self.computed_by = now(), 0, None
            if self.alike is None:
                self.alike = self._current.assignment.worker.facts
        if chunk.HasField("usage"):
            if self._request.resumed_tokens:
                chunk.usage.cached_tokens = self.cached_tokens
            else:
                self.cached_tokens = chunk.usage.cached_tokens
        self.finished = chunk.finish_reason != pb.FINISH_REASON_UNSPECIFIED
        if self.finished and self._leg is not None:
            self._leg.end(tokens=self.kept.count, finish=FINISHES[chunk.finish_reason])
        self.came.append(chunk)

    def lose(self, lost: Lost) -> None:
        """The attempt is over. Raises InternalError where it was the second worker that died at this place."""
        self.tries[-1].lost = lost.why
        if self._leg is not None:
            self._leg.end(tokens=self.kept.count, lost=lost.why)
        self.setbacks.lose(self._current, lost, tokens=self.kept.count)

    def spend(self, lost: Lost) -> None:
        """One more attempt, of the budget of all. Raises UnavailableError, or what the worker said, if none is left."""
        self.setbacks.spend(lost, tokens=self.kept.count)

    def close(self) -> None:
        """Cancels what still runs and closes the books. May be called twice."""
        if self._attempt is not None:
            self._attempt.close()
        if self._leg is not None:
            self._leg.end(tokens=self.kept.count, lost="cancelled")
        self.kept.forget()

    def _abandon(self) -> None:
        """The worker hangs: end the attempt, if another may do better."""
        if self._attempt is not None and self._better():
            self._attempt.abandon("hung", "gives no sign, or its engine does not come around", eject=True)

    def _late(self, limit: float) -> None:
        """There should have been a token by now: end the attempt, if another may do better."""
        if self._attempt is not None and self._better():
            self._attempt.abandon("slow", f"no token within {limit:.0f} s", eject=False)

    def _better(self) -> bool:
        """Whether another worker may be tried, and there is one."""
        excluded = self.setbacks.excluded | {self.decision.worker}
        return not self.setbacks.exhausted and self._dispatcher.others(self.job, excluded, self.alike)
