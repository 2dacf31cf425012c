"""What has become of one request's attempts, and whether there may be one more."""

import logging

from argosy_api.errors import ArgosyError, InternalError, UnavailableError
from argosy_router.attempt import Attempt
from argosy_router.clock import now
from argosy_router.lost import Lost
from argosy_router.metrics import Metrics
from argosy_router.routing.job import Job
from argosy_router.routing.poison import same_place

log = logging.getLogger(__name__)

POISON = "two workers died while they worked on this request"


class Setbacks:
    """Of one job. Tries without a new token are bounded by `attempts`, those of all requests together by a budget."""

    def __init__(self, job: Job, metrics: Metrics, attempts: int) -> None:
        self._job = job
        self._metrics = metrics
        self._attempts = attempts
        self.tries = 0
        """Attempts since the last new token."""
        self.excluded: frozenset[str] = frozenset()
        """Workers that were lost."""
        self.last_error: ArgosyError | None = None
        """Of a worker that refused: tells more than that no other is left."""
        self._deaths: list[int] = []  # how many tokens were there

    @property
    def exhausted(self) -> bool:
        """Whether nothing came of as many tries as there may be."""
        return self.tries >= self._attempts

    def check_quarantine(self) -> None:
        """Raises InternalError where workers died of this prompt before."""
        quarantine = self._job.deployment.quarantine
        if quarantine and quarantine.holds(self._job.digest, now()):
            raise InternalError(f"{POISON}, when it was here before: it is not sent to a third one")

    def lose(self, attempt: Attempt, lost: Lost, *, tokens: int) -> None:
        """The attempt is over, with so many tokens there.

        Raises:
            InternalError: it was the second worker that died at this place.

        """
        worker = attempt.assignment.decision.worker
        log.info(
            "request %s: worker %s: %s (attempt %d, %d tokens)",
            self._job.request_id, worker, lost, attempt.number, tokens,
        )  # fmt: skip
        self.excluded |= {worker}
        self.last_error = lost.error
        attempt.give_up(lost)
        if not attempt.died(lost):
            return
        if same_place(self._deaths, tokens):
            state = self._job.deployment
            log.error("request %s: %s", self._job.request_id, POISON)
            state.quarantine.add(self._job.digest, now())
            self._metrics.quarantined.labels(state.name).inc()
            raise InternalError(f"{POISON}, after {tokens} tokens: it is not sent to a third one") from None
        self._deaths.append(tokens)

    def spend(self, lost: Lost, *, tokens: int) -> None:
        """One more attempt, of the budget of all. Raises UnavailableError, or what the worker said, if none is left."""
        state = self._job.deployment
        if not state.retries.take(now(), in_flight=state.demand.in_flight):
            if tokens:
                raise cut_off(tokens, "too many requests are being sent once more")
            raise lost.error or UnavailableError("too many requests are being sent once more; try again later")
        self._metrics.retries.labels(state.name, lost.why).inc()


def cut_off(tokens: int, why: str) -> UnavailableError:
    """The answer ends after so many tokens."""
    return UnavailableError(f"the worker was lost after {tokens} tokens were delivered; {why}")
