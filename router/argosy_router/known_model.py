"""From a model's name to its deployment and what is known of it, as soon as that is known."""

import asyncio
from collections.abc import Callable

from argosy_api import limits
from argosy_api.errors import InvalidArgumentError, UnavailableError
from argosy_router.clock import now
from argosy_router.fleet.deployment import Named
from argosy_router.fleet.fleet import Fleet
from argosy_router.routing.dispatch import no_worker
from argosy_router.text.models import ModelCard


async def known_model(
    fleet: Fleet, name: str, *, came: float, end: float | None, patience: float, check_open: Callable[[], None]
) -> tuple[Named, ModelCard, str]:
    """What `name` names, its card, and the adapter's digest; waits for a first worker where there may be none.

    The request came at `came` and is worth nothing after `end`; who is about to be known is waited for `patience`
    seconds. `check_open` raises where the router is shutting down.

    Raises:
        NotFoundError, InvalidArgumentError: there is no such model, and can be none.
        UnavailableError: none of its workers was ready yet.

    """
    if not name or len(name) > limits.MAX_MODEL_NAME:
        raise InvalidArgumentError("model", f"must have 1 to {limits.MAX_MODEL_NAME} characters")
    if not fleet.known:
        raise UnavailableError("the router does not know any deployment yet; try again")
    named = fleet.named(name)
    state = named.deployment
    if state.holds:
        await state.room.wait(came + state.spec.hold_s, end, lambda: no_worker(state, tried=0))
        check_open()
    until, hopeful = now() + patience, True
    while (state.card is None or state.may_come(named.adapter)) and hopeful and now() < until:
        await asyncio.sleep(0.01)
        hopeful = state.hopeful or state.may_come(named.adapter)
    if state.card is None:
        raise UnavailableError(no_worker(state, tried=0))
    digest = state.adapters.get(named.adapter, "") if named.adapter else ""
    if named.adapter and not digest:
        raise UnavailableError(f"{named.name!r}: no worker has loaded this adapter")
    return named, state.card, digest
