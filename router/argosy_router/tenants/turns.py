"""The line in front of one deployment's workers: who may go on to them now, who waits, and who is refused at once.

Where tenants share workers (`fair`), so few requests are handed on at a time that workers are busy and their own lines
stay short: what waits, waits here, where turns are by tenant (`fair.py`). Else all go on, and the engines' order holds.
In both cases a request that could not begin within its time is refused as soon as that is known (`pace.py`).
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from argosy_api import limits
from argosy_api.errors import DeadlineError, OverloadedError, UnavailableError
from argosy_api.order import RESOURCE_DEFAULTS, Discipline
from argosy_router.clock import now
from argosy_router.tenants.fair import ANSWER_WEIGHT, FairLine, Waiter
from argosy_router.tenants.pace import Pace
from argosy_router.tenants.tenant import Tenant

AT_ONCE = 4
"""Answers without a first token that each worker is given. More would wait there, in its order and not in ours."""
LEAST_AT_ONCE = 2
"""So many in any case: one that is computed, and the next one."""
ROOM_S = 1.0
"""Beyond that, as many prompt tokens as all workers compute in this time."""
LOOK_S = 0.05
"""Between two looks at workers while somebody waits: they come, go, and change their pace."""


class Strength(NamedTuple):
    """What a deployment's workers can do now."""

    workers: int
    """That take requests."""
    rate: float
    """Prompt tokens per second, of all together; 0: not known."""
    kv_tokens: int
    """That fit their KV caches."""
    discipline: Discipline = RESOURCE_DEFAULTS


@dataclass(slots=True, eq=False)
class Turn:
    """One answer from its place in the line to its end."""

    waiter: Waiter
    tenant: Tenant
    begun: bool = False
    """Its first token has come."""
    held: int = 0
    """Tokens that it has in a KV cache."""
    out: bool = False
    """It was handed on, and has not ended."""


class Turns:
    """Of one deployment."""

    def __init__(self, strength: Callable[[], Strength], *, fair: Callable[[], bool], longest_s: float) -> None:
        """`longest_s`: a request that would wait for longer than that is refused."""
        self._strength = strength
        self._fair = fair
        self._longest_s = longest_s
        self._line = FairLine()
        self._places: dict[Waiter, tuple[Turn, asyncio.Future[None]]] = {}
        self._pace = Pace()
        self._given = 0
        """Answers handed on without a first token."""
        self._given_tokens = 0
        self._held: dict[str, int] = {}
        self._look: asyncio.Task[None] | None = None
        self._closed = ""

    def __len__(self) -> int:
        """How many wait here."""
        return len(self._line)

    def check(self, tenant: Tenant, priority: int, answers: int, deadline: float | None) -> None:
        """Before any work is done for a request: could it begin in time?

        Raises:
            OverloadedError: no; tells when another try makes sense.

        """
        time = now()
        wait = self.predicted_wait(tenant, priority, answers)
        if wait is None:
            return
        if wait > self._longest_s:
            raise OverloadedError(
                f"{wait:.0f} s of requests are waiting; at most {self._longest_s:g}",
                retry_after_s=wait - self._longest_s,
            )
        if deadline is not None and time + wait > deadline:
            raise OverloadedError(f"the deadline would pass: {wait:.1f} s of requests are waiting", retry_after_s=wait)
        if len(self._line) + answers > limits.MAX_LINE:
            raise OverloadedError("as many requests as may wait for this model", retry_after_s=wait)

    def predicted_wait(self, tenant: Tenant, priority: int, answers: int = 1) -> float | None:
        """Seconds until a new request of this tenant would have its first token; None: not known, or not long."""
        rate = self._pace.rate(now())
        if rate is None:
            return None
        ahead = self._line.ahead(tenant.name, tenant.limits.weight, priority)
        return (self._given + ahead + answers) / rate

    async def take(self, tenant: Tenant, *, tokens: int, priority: int, deadline: float | None, passes: bool) -> Turn:
        """Returns when the turn has come. `passes`: at once, for an answer whose reader waits in mid-sentence.

        Raises:
            DeadlineError: the deadline passed before.
            OverloadedError: too many wait.
            UnavailableError: the router is shutting down.

        """
        time, strength = now(), self._strength()
        seconds = tokens / strength.rate if strength.rate else 0.0
        waiter = Waiter(
            tenant=tenant.name,
            weight=tenant.limits.weight,
            priority=priority,
            since=time,
            rank=strength.discipline.key(seconds, time),
            tokens=tokens,
        )
        turn = Turn(waiter, tenant)
        if passes or not self._fair():
            self._hand_on(turn)
            self._note(strength)
            return turn
        if self._closed:
            raise UnavailableError(self._closed)
        if len(self._line) >= limits.MAX_LINE:
            raise OverloadedError("as many requests as may wait for this model")
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._line.add(waiter)
        self._places[waiter] = (turn, place)
        self._pump()
        try:
            async with asyncio.timeout(None if deadline is None else max(0.0, deadline - now())):
                await place
        except TimeoutError:
            self._leave(turn)
            raise DeadlineError("the deadline passed while the request waited for its turn") from None
        except BaseException:
            self._leave(turn)
            raise
        return turn

    def first_token(self, turn: Turn, cached: int) -> None:
        """Its prompt is computed; `cached` tokens of it cost nothing."""
        if turn.begun or not turn.out:
            return
        turn.begun = True
        self._given -= 1
        self._given_tokens -= turn.waiter.tokens
        self._pace.began(now())
        self._line.charge(turn.waiter.tenant, -min(cached, turn.waiter.tokens) / turn.waiter.weight)
        self._pump()

    def tokens(self, turn: Turn, count: int) -> None:
        """Tokens of its answer came."""
        turn.held += count
        self._held[turn.waiter.tenant] = self._held.get(turn.waiter.tenant, 0) + count
        self._line.charge(turn.waiter.tenant, ANSWER_WEIGHT * count / turn.waiter.weight)

    def end(self, turn: Turn) -> None:
        """It has ended, in whatever way. May be called twice."""
        if not turn.out:
            return
        turn.out = False
        if not turn.begun:
            self._given -= 1
            self._given_tokens -= turn.waiter.tokens
        name = turn.waiter.tenant
        self._held[name] = self._held.get(name, 0) - turn.held
        if not self._held[name]:
            del self._held[name]
        self._pump()

    def close(self, why: str) -> None:
        """Nobody may wait here any more."""
        self._closed = why
        for _, place in self._places.values():
            if not place.done():
                place.set_exception(UnavailableError(why))

    # --- how

    def _leave(self, turn: Turn) -> None:
        """Who waited goes away; perhaps in the moment in which his turn came."""
        self._places.pop(turn.waiter, None)
        if not self._line.remove(turn.waiter):
            self.end(turn)

    def _hand_on(self, turn: Turn) -> None:
        turn.out = True
        turn.held = turn.waiter.tokens
        self._given += 1
        self._given_tokens += turn.waiter.tokens
        self._held[turn.waiter.tenant] = self._held.get(turn.waiter.tenant, 0) + turn.held

    def _pump(self) -> None:
        """Hands on as many as there is room for."""
        strength = self._strength()
        while self._line and self._room(strength):
            waiter = self._line.take(now(), lambda w: self._may_hold(w, strength))
            if waiter is None:
                break
            turn, place = self._places.pop(waiter)
            self._hand_on(turn)
            if not place.done():
                place.set_result(None)
        self._note(strength)
        if self._line and (self._look is None or self._look.done()):
            self._look = asyncio.create_task(self._watch())

    def _room(self, strength: Strength) -> bool:
        if not strength.workers or self._given < LEAST_AT_ONCE * strength.workers:
            return True  # with nobody there each hears so, and waits for nothing
        if self._given >= AT_ONCE * strength.workers:
            return False
        return not strength.rate or self._given_tokens < ROOM_S * strength.rate

    def _may_hold(self, waiter: Waiter, strength: Strength) -> bool:
        """Whether the tenant's part of the KV cache has room for one more; for a first one always."""
        share = self._places[waiter][0].tenant.limits.kv_share
        held = self._held.get(waiter.tenant, 0)
        return share is None or not held or held + waiter.tokens <= share * strength.kv_tokens

    def _note(self, strength: Strength) -> None:
        full = bool(strength.workers) and self._given >= AT_ONCE * strength.workers
        self._pace.contended(yes=full or (bool(self._line) and not self._room(strength)), now=now())

    async def _watch(self) -> None:
        while self._line:
            await asyncio.sleep(LOOK_S)
            self._pump()
