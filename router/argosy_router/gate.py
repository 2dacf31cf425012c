"""Between a request that was understood and the workers: what its tenant may have, and whose turn it is."""

from collections.abc import Collection
from typing import NamedTuple
from weakref import WeakKeyDictionary, ref

from argosy_api.errors import OverloadedError
from argosy_router.clock import now
from argosy_router.fleet.deployment import DeploymentState
from argosy_router.fleet.strength import strength
from argosy_router.metrics import UNKNOWN_MODEL, Metrics
from argosy_router.routing.job import Job
from argosy_router.tenants.identity import Identity
from argosy_router.tenants.quotas import Quotas
from argosy_router.tenants.tenant import Tenant
from argosy_router.tenants.turns import Strength, Turn, Turns

STRENGTH_S = 0.05
"""For so long what was found out about workers is believed: it is asked for with every request."""


class Taken(NamedTuple):
    """What a request has of its tenant's limits, until it is given back."""

    tenant: Tenant
    answers: int


class Gate:
    """Of one router."""

    def __init__(self, identity: Identity, metrics: Metrics, *, longest_s: float) -> None:
        """`longest_s`: a request that would wait for longer than that is refused."""
        self.identity = identity
        self.quotas = Quotas()
        self._metrics = metrics
        self._longest_s = longest_s
        self._turns: WeakKeyDictionary[DeploymentState, Turns] = WeakKeyDictionary()
        self._closed = ""

    def glance(self, states: Collection[DeploymentState], tenant: Tenant) -> None:
        """Before a request is read: refuses what would be refused whatever it asks for.

        Raises:
            OverloadedError: its tenant has what he may have, or nothing could begin in time at any deployment.

        """
        why, least = "quota", None
        try:
            if tenant.name:
                self.quotas.check(tenant, 1, now())
            why = "contended"
            for state in states:
                turns = self._turns.get(state)
                if turns is None:
                    return  # nobody has asked for it yet
                try:
                    turns.check(tenant, tenant.limits.max_priority, 1, None)
                except OverloadedError as error:
                    least = error if least is None else min(least, error, key=lambda e: e.retry_after_s)
                else:
                    return
            if least is not None:
                raise least
        except OverloadedError:
            shown = (
                next(iter(states)).name if len(states) == 1 else UNKNOWN_MODEL
            )  # else it is not known which is meant
            self._metrics.shed.labels(shown, why).inc()
            raise

    def enter(
        self, state: DeploymentState, tenant: Tenant, answers: int, *, priority: int, deadline: float | None
    ) -> Taken:
        """Before any work is done for a request. Whoever enters leaves again.

        Raises:
            OverloadedError: its tenant has what he may have, or it could not begin in time; tells when to try again.

        """
        why = "contended"
        try:
            self._turns_of(state).check(tenant, priority, answers, deadline)
            why = "quota"
            if tenant.name:
                self.quotas.begin(tenant, answers, now())
        except OverloadedError:
            self._metrics.shed.labels(state.name, why).inc()
            raise
        return Taken(tenant, answers)

    def count(self, state: DeploymentState, tenant: Tenant) -> Taken:
        """As `enter`, for a request that no worker is asked for. Raises OverloadedError."""
        try:
            if tenant.name:
                self.quotas.begin(tenant, 0, now())
        except OverloadedError:
            self._metrics.shed.labels(state.name, "quota").inc()
            raise
        return Taken(tenant, 0)

    def leave(self, taken: Taken) -> None:
        """The request has ended, in whatever way."""
        if taken.tenant.name:
            self.quotas.end(taken.tenant, taken.answers)

    async def turn(self, job: Job) -> "Passage":
        """Returns when a job may go on to workers. Close what is returned. Raises as `Turns.take`."""
        turns = self._turns_of(job.deployment)
        turn = await turns.take(
            job.tenant,
            tokens=len(job.tokens),
            priority=job.priority,
            deadline=job.deadline,
            passes=job.resumption is not None,
        )
        return Passage(job, turn, turns, self.quotas, self._metrics)

    def waiting(self, state: DeploymentState) -> int:
        """Answers that wait for their turn."""
        found = self._turns.get(state)
        return 0 if found is None else len(found)

    def close(self, why: str) -> None:
        """Who waits is told this, and who comes."""
        self._closed = why
        for turns in self._turns.values():
            turns.close(why)

    def _turns_of(self, state: DeploymentState) -> Turns:
        found = self._turns.get(state)
        if found is None:
            look = _Look(state)
            found = self._turns[state] = Turns(look, fair=lambda: self.identity.required, longest_s=self._longest_s)
            if self._closed:
                found.close(self._closed)
        return found


class _Look:
    """At a deployment's workers, now and then."""

    def __init__(self, state: DeploymentState) -> None:
        self._state = ref(state)  # what a line knows of its deployment must not keep it alive
        self._at = float("-inf")
        self._found = Strength(0, 0.0, 0)

    def __call__(self) -> Strength:
        time = now()
        if time - self._at >= STRENGTH_S and (state := self._state()) is not None:
            self._at, self._found = time, strength(state, time)
        return self._found


class Passage:
    """One answer on its way past the gate: what it costs its tenant."""

    def __init__(self, job: Job, turn: Turn, turns: Turns, quotas: Quotas, metrics: Metrics) -> None:
        self._job, self._turn, self._turns, self._quotas = job, turn, turns, quotas
        self._tenant = job.tenant
        self._shown = metrics.tenants.shown(job.tenant.name) if job.tenant.name else ""
        self._metrics = metrics

    def first_token(self, cached: int) -> None:
        """Its prompt is computed, of which so many tokens were in a cache."""
        self._turns.first_token(self._turn, cached)
        if self._tenant.name and self._job.resumption is None:
            self._quotas.used(self._tenant, len(self._job.tokens), now())
            counted = self._metrics.tenant_tokens
            counted.labels(self._shown, "prompt").inc(len(self._job.tokens))
            counted.labels(self._shown, "cached").inc(cached)

    def tokens(self, count: int) -> None:
        """Tokens of its answer came."""
        if count and self._tenant.name:
            self._turns.tokens(self._turn, count)
            self._quotas.used(self._tenant, count, now())
            self._metrics.tenant_tokens.labels(self._shown, "generated").inc(count)

    def close(self) -> None:
        """It has ended, in whatever way. May be called twice."""
        self._turns.end(self._turn)
