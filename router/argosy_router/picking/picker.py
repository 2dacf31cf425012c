"""What a gateway's request becomes where only its place is asked for: the worker that it would get, and a router.

The same way as of every request, up to the choice of a worker. Nothing of it is kept, and no tenant's limit is charged:
the request is on its way to a router that does that.
"""

import random
from collections.abc import Iterable

from argosy_api.errors import ArgosyError, InvalidArgumentError, NotFoundError, UnavailableError
from argosy_router.admission import Account, Admission
from argosy_router.ask import Ask, Caller, of_tenant
from argosy_router.budgets import budgeted
from argosy_router.clock import now
from argosy_router.fleet.fleet import Fleet
from argosy_router.picking.pairs import Pairs, endpoints
from argosy_router.picking.picks import Pick, Picks
from argosy_router.picking.routers import Routers
from argosy_router.prompts import encoded
from argosy_router.routing.dispatch import Dispatcher
from argosy_router.routing.job import Job
from argosy_router.routing.trial import conversation


class Picker:
    """Of one router, for all gateways that ask it."""

    def __init__(
        self, fleet: Fleet, dispatcher: Dispatcher, admission: Admission, picks: Picks, routers: Routers
    ) -> None:
        self._fleet = fleet
        self._dispatcher = dispatcher
        self._admission = admission
        self._picks = picks
        self._routers = routers
        self._pairs = Pairs()

    @property
    def ready(self) -> bool:
        """Whether it knows who is there."""
        return self._fleet.known and bool(self._routers.addresses)

    def account(self) -> Account:
        """For what one request holds while it is looked at."""
        return self._admission.account()

    def known_as(self, model: str) -> str:
        """What a model is called here that a client of Ollama asks for."""
        return self._fleet.known_as(model)

    async def pick(self, account: Account, ask: Ask, caller: Caller) -> Pick | None:
        """The worker for the ask's first prompt. None: there is none now, or it can't be told; any router will do.

        Raises:
            InvalidArgumentError, NotFoundError: no router would take this request, either.

        """
        try:
            return await self._pick(account, ask, caller)
        except (InvalidArgumentError, NotFoundError):
            raise
        except ArgosyError:  # no worker, no room, a tokenizer that fails: the router that gets it finds the words
            return None

    async def _pick(self, account: Account, ask: Ask, caller: Caller) -> Pick | None:
        named = self._fleet.named(ask.model)
        state, card = named.deployment, named.deployment.card
        if card is None or not state.serves:
            return None
        adapter = state.adapters.get(named.adapter, "")
        if named.adapter and not adapter:
            return None
        ask = of_tenant(ask, caller.tenant, share_cache=state.spec.share_cache)
        ask.params.check(vocab_size=card.facts.vocab_size)
        key = caller.request_id
        if state.spec.canary is not None and ask.messages:
            key = conversation(ask.messages, ask.cache_salt)
        (prompt,) = await encoded(account, ask, card, adapter, most=1)
        (params,) = budgeted(ask, card, [prompt])
        job = Job(
            deployment=state,
            request_id=caller.request_id,
            tenant=caller.tenant,
            tokens=prompt.tokens,
            block_ids=prompt.block_ids,
            params=params,
            cache_salt=ask.cache_salt,
            adapter=adapter,
            priority=ask.priority,
            received_at=now(),
            key=key,
        )
        return self._picks.open(self._dispatcher.assign(job, for_another=True))

    def endpoints(self, pick: Pick | None, subset: Iterable[str] | None) -> str:
        """Where the request is to go, as a gateway wants to be told. `subset`: only there.

        Raises:
            UnavailableError: there is no router, or none in the subset.

        """
        routers = self._routers.addresses
        if subset is not None:
            allowed = frozenset(subset)
            routers = tuple(r for r in routers if r in allowed)
        if not routers:
            raise UnavailableError("no router is ready" + ("" if subset is None else " among those that may be picked"))
        if pick is None:
            return endpoints(random.sample(routers, len(routers)))
        workers = {worker for state in self._fleet.deployments for worker in state.workers} | {pick.worker}
        return endpoints(self._pairs.order(pick.worker, workers, routers))
