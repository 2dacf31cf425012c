"""What all fronts share: a request's way from `Ask` through text work and admission to a running flight.

A front opens a `request`, parses what came into an `Ask`, has it prepared (`prepare`), and flies the jobs (`flying`).
"""

import asyncio
import contextlib
import secrets
import time
from collections.abc import Callable, Iterator

from argosy_api.errors import (
    ArgosyError,
    InternalError,
    InvalidArgumentError,
    UnavailableError,
)
from argosy_api.tracing import Tracing
from argosy_router import resumption
from argosy_router.admission import Admission
from argosy_router.ask import Ask, Caller, of_tenant
from argosy_router.budgets import budgeted
from argosy_router.clock import now
from argosy_router.fleet.deployment import Named
from argosy_router.fleet.fleet import Fleet
from argosy_router.fleet.peer import ACQUAINTANCE_S
from argosy_router.flying import Field, Flying
from argosy_router.gate import Gate
from argosy_router.joining import interval_ms
from argosy_router.known_model import known_model
from argosy_router.metrics import UNKNOWN_MODEL, Metrics
from argosy_router.picked import NO_PICK
from argosy_router.picking.picks import Picks
from argosy_router.prepared import Prepared
from argosy_router.prompts import encoded
from argosy_router.recent import Line, Recent
from argosy_router.request import Request
from argosy_router.routing.dispatch import Decision, Dispatcher
from argosy_router.routing.job import Job
from argosy_router.routing.trial import conversation
from argosy_router.settings import Settings
from argosy_router.spans import RequestSpan
from argosy_router.tally import Tallies
from argosy_router.tenants.identity import Identity
from argosy_router.tenants.tenant import Tenant
from argosy_router.text.model_text import Encoded
from argosy_router.text.models import ModelCard
from argosy_router.wording import worded


def _seed() -> int:
    return secrets.randbits(63)


class Service:
    """The router without its fronts."""

    def __init__(
        self,
        fleet: Fleet,
        dispatcher: Dispatcher,
        metrics: Metrics,
        *,
        attempts: int,
        tell_decisions: bool = False,
        longest_wait_s: float = Settings.max_wait_seconds,
        picks: Picks | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        """`picks`: of the picker that gateways ask; only then it is heeded. `tracing`: where spans are wanted."""
        self.fleet = fleet
        self.metrics = metrics
        self.draining = False
        self.admission = Admission()
        self.identity = Identity()
        self.gate = Gate(self.identity, metrics, longest_s=longest_wait_s)
        self._picks = picks
        self._tracing = tracing
        self._tell_decisions = tell_decisions
        self.recent = Recent()
        self.tallies = Tallies()
        self._field = Field(
            dispatcher=dispatcher, metrics=metrics, gate=self.gate, recent=self.recent, picks=picks, attempts=attempts
        )

    @property
    def ready(self) -> bool:
        """Whether clients should be sent here."""
        return self.fleet.known and not self.draining

    @property
    def running(self) -> int:
        """Choices that are on their way."""
        return self.admission.running

    @property
    def _read(self) -> int:
        """Those of them that somebody reads."""
        return self.running - sum(w.session.paused for state in self.fleet.states for w in state.workers.values())

    @contextlib.contextmanager
    def request(self, api: str) -> Iterator[Request]:
        """Counts one request of a client from its beginning to its end, whatever that is.

        Raises:
            UnavailableError: the router is shutting down.

        """
        request = Request(self.admission.account())
        try:
            self._check_open()
            yield request
        except ArgosyError as error:
            request.code = error.status
            raise
        except (
            asyncio.CancelledError,
            GeneratorExit,
            ConnectionError,
            TimeoutError,
        ):  # the client is gone, or reads nothing
            request.code = "CANCELLED"
            raise
        except BaseException:
            request.code = InternalError.status
            raise
        finally:
            request.account.close()
            if request.taken is not None:
                self.gate.leave(request.taken)
                self.metrics.tenant_requests.labels(
                    self.metrics.tenants.shown(request.taken.tenant.name), request.code
                ).inc()
            self.metrics.requests.labels(request.model, api, request.code).inc()
            request.end_span()
            seconds = now() - request.started
            if request.model != UNKNOWN_MODEL:
                self.metrics.duration.labels(request.model).observe(seconds)
                self.tallies.ended(request.model, request.code, seconds, time.time())
            self.recent.ended(Line(api, request.model, request.code, seconds, request.flown))

    async def close(self) -> None:
        """The router ends."""
        await self.identity.close()
        if self._tracing is not None:
            await self._tracing.close()

    def _check_open(self) -> None:
        if self.draining:
            raise UnavailableError("the router is shutting down; try again elsewhere")

    def glance(self, tenant: Tenant) -> None:
        """Before a request's body is read. Raises OverloadedError where nothing that may be in it could be served."""
        self.admission.check()
        self.gate.glance(self.fleet.states, tenant)

    # --- prepare

    async def prepare(self, request: Request, ask: Ask, caller: Caller) -> Prepared:
        """Checks everything that a worker would refuse, turns prompts into tokens, and takes the request's places.

        Raises:
            NotFoundError, UnavailableError: no such model; none of its workers was ready yet.
            InvalidArgumentError: naming the field, also for what the model's template or tokenizer refuses.
            OverloadedError: the router carries or holds as much as it may.

        """
        patience = ACQUAINTANCE_S if ask.resumption is None else resumption.WAIT_S
        named, card, adapter = await self._known(ask.model, request, caller, patience)
        state = named.deployment
        request.model = state.name
        if self._tracing is not None:
            request.span = RequestSpan(self._tracing, ask, caller, state.name, request.started)
        tenant = caller.tenant
        ask = of_tenant(ask, tenant, share_cache=state.spec.share_cache)
        if ask.resumption is None:
            request.taken = self.gate.enter(state, tenant, ask.choices, priority=ask.priority, deadline=caller.deadline)
        ask.params.check(vocab_size=card.facts.vocab_size)
        if ask.embeds and not card.facts.embedding_size:
            raise InvalidArgumentError("model", f"{named.name!r} gives no embeddings")
        ask = await worded(ask, card)
        prompts = await encoded(request.account, ask, card, adapter)
        params = budgeted(ask, card, prompts)
        texts = []
        if ask.echo:
            for prompt, field in zip(ask.prompts, ask.fields, strict=True):
                texts.append(prompt if isinstance(prompt, str) else await card.text.decode(prompt, field=field))
        self._check_open()
        request.account.place(ask.choices)
        key = caller.request_id
        if state.spec.canary is not None and ask.messages:
            key = conversation(ask.messages, ask.cache_salt)
        jobs: list[Job] = []
        for tokens, ids, chosen in ((p.tokens, p.block_ids, q) for p, q in zip(prompts, params, strict=True)):
            for i in range(ask.n):
                seeded = ask.choice_params(chosen, i, _seed)
                job = Job(
                    deployment=state,
                    request_id=caller.request_id,
                    tenant=caller.tenant,
                    tokens=tokens,
                    block_ids=ids,
                    params=seeded,
                    cache_salt=ask.cache_salt,
                    adapter=adapter,
                    priority=ask.priority,
                    constraint=ask.constraint.text if ask.constraint is not None else "",
                    deadline=caller.deadline,
                    received_at=request.started,
                    key=key,
                    embeds=ask.embeds,
                    pick=caller.pick if self._picks is not None and len(jobs) < ask.n else NO_PICK,  # of one prompt
                    resumption=ask.resumption,
                )
                if ask.resumption is not None:
                    seeded.check(vocab_size=card.facts.vocab_size)
                    resumption.check_same_prompt(ask.resumption, job.digest)
                jobs.append(job)
        return Prepared(card=card, prompts=prompts, texts=texts, jobs=jobs)

    async def tokens(self, request: Request, ask: Ask, caller: Caller) -> tuple[ModelCard, list[Encoded]]:
        """Prompts or a chat as tokens, for who wants no answer: no worker is asked. Raises as `prepare`."""
        card = await self.card(request, ask.model, caller)
        return card, await encoded(request.account, ask, card, "")

    async def card(self, request: Request, model: str, caller: Caller) -> ModelCard:
        """What is known of a model, for who needs its tokenizer only. Raises as `prepare`."""
        named, card, _ = await self._known(model, request, caller, ACQUAINTANCE_S)
        request.model = named.deployment.name
        request.taken = self.gate.count(named.deployment, caller.tenant)
        return card

    async def _known(
        self, name: str, request: Request, caller: Caller, patience: float
    ) -> tuple[Named, ModelCard, str]:
        came, end = request.started, caller.deadline
        return await known_model(self.fleet, name, came=came, end=end, patience=patience, check_open=self._check_open)

    # --- fly

    def tells(self, tenant: Tenant) -> bool:
        """Whether he may see what tells of others' requests, too."""
        return self._tell_decisions or tenant.admin

    def headers(self, decision: Decision, tenant: Tenant) -> list[tuple[str, str]]:
        """What a client is told about where its request went."""
        return decision.headers(reasons=self.tells(tenant))

    def flying(
        self,
        request: Request,
        job: Job,
        taken: Callable[[Decision], object] = lambda _: None,
        *,
        read_as_it_comes: bool = True,
    ) -> Flying:
        """A started flight, with its metrics; closed on every way out. `taken`: see `Flight`.

        `read_as_it_comes`: or its client gets it when it is whole.
        """
        by_token = job.params.logprobs is not None
        return Flying(
            self._field, request, job, taken,
            lambda: interval_ms(self._read, read_as_it_comes=read_as_it_comes, by_token=by_token),
        )  # fmt: skip
