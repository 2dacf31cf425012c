"""Whose turn it is: the line of requests that wait in the router for workers. Pure; times are monotonic seconds.

    class    = priority + 1 for each AGEING_S waited, at most
               the highest priority of those who wait            the highest first
    service  = tokens computed for a tenant / its weight         then the tenant who has had the least
    rank     = as the engine orders its line                     then the least

Nobody rises above the highest priority by waiting: else who has most in the line, and so waits longest, would have the
higher class, and with it all the service.

Service is a virtual token counter: prompt tokens, and ANSWER_WEIGHT for each token of an answer, since a step costs
more than a prompt's token. A tenant who has waited for nothing gains nothing by that: when he comes his counter is
lifted to the least of those who wait (Sheng et al., "Fairness in Serving Large Language Models", OSDI 2024). So of two
tenants who have requests waiting all the time neither gets ahead of the other by more than about the largest request.
"""

import itertools
from bisect import insort
from collections.abc import Callable, Iterator
from dataclasses import dataclass

AGEING_S = 10.0
"""Waiting for so long outweighs one level of priority."""
ANSWER_WEIGHT = 2.0
FEW = 1024
"""Counters of tenants who have nothing here that are kept at least."""


@dataclass(slots=True, eq=False)
class Waiter:
    """One answer that waits for its turn."""

    tenant: str
    weight: float
    priority: int
    since: float
    rank: float
    """Of two of one tenant and priority the one with the least goes first."""
    tokens: int
    """Of its prompt."""


_Slot = tuple[float, int, Waiter]


class FairLine:
    """Who waits, by tenant and priority."""

    def __init__(self) -> None:
        self._queues: dict[tuple[str, int], list[_Slot]] = {}
        self._service: dict[str, float] = {}
        self._numbers = itertools.count()
        self._count: dict[str, int] = {}
        self._reached = 0.0
        """What the tenant had had whose turn was the last."""

    def __len__(self) -> int:
        return sum(self._count.values())

    def __bool__(self) -> bool:
        return bool(self._count)

    def waiting(self, tenant: str) -> int:
        """How many of this tenant wait."""
        return self._count.get(tenant, 0)

    def tenants(self) -> Iterator[str]:
        """Those with somebody who waits."""
        return iter(self._count)

    def add(self, waiter: Waiter) -> None:
        """Begins to wait."""
        name = waiter.tenant
        if name not in self._count:
            floor = min((self._service.get(t, 0.0) for t in self._count), default=self._reached)
            self._service[name] = max(self._service.get(name, 0.0), floor)
            self._forget()
        self._count[name] = self._count.get(name, 0) + 1
        insort(self._queues.setdefault((name, waiter.priority), []), (waiter.rank, next(self._numbers), waiter))

    def remove(self, waiter: Waiter) -> bool:
        """Waits no longer. False: it did not."""
        key = (waiter.tenant, waiter.priority)
        queue = self._queues.get(key, [])
        place = next((i for i, slot in enumerate(queue) if slot[2] is waiter), None)
        if place is None:
            return False
        del queue[place]
        if not queue:
            del self._queues[key]
        self._count[waiter.tenant] -= 1
        if not self._count[waiter.tenant]:
            del self._count[waiter.tenant]
        return True

    def take(self, now: float, allowed: Callable[[Waiter], bool] = lambda _: True) -> Waiter | None:
        """Whose turn it is; he waits no longer and is charged for his prompt. None: nobody's who is `allowed`."""
        best, key = None, (0.0, 0.0, 0.0, 0)
        highest = max((priority for _, priority in self._queues), default=0)
        for (name, priority), queue in self._queues.items():
            rank, number, waiter = queue[0]
            if not allowed(waiter):
                continue
            aged = min(highest, priority + (now - waiter.since) // AGEING_S)
            found = (-aged, self._service[name], rank, number)
            if best is None or found < key:
                best, key = waiter, found
        if best is not None:
            self._reached = max(self._reached, self._service[best.tenant])
            self.remove(best)
            self.charge(best.tenant, best.tokens / best.weight)
        return best

    def charge(self, tenant: str, service: float) -> None:
        """A tenant has had so much more, weight and all; less than zero: it was less than thought."""
        self._service[tenant] = self._service.get(tenant, 0.0) + service

    def service(self, tenant: str) -> float:
        """What a tenant has had."""
        return self._service.get(tenant, 0.0)

    def ahead(self, tenant: str, weight: float, priority: int) -> float:
        """How many go before a new one of this tenant, about.

        All of higher priority; and for each of his own, of each other tenant as many as the weights say.
        """
        before, own, others = 0.0, 0, dict[str, tuple[int, float]]()
        for (name, level), queue in self._queues.items():
            if name == tenant:
                own += len(queue) if level >= priority else 0
            elif level > priority:
                before += len(queue)
            elif level == priority:
                others[name] = (len(queue), queue[0][2].weight)
        return before + own + sum(min(count, (own + 1) * w / weight) for count, w in others.values())

    def _forget(self) -> None:
        if len(self._service) > 2 * FEW + len(self._count):
            gone = [t for t, s in self._service.items() if t not in self._count and s <= self._reached]
            for tenant in gone:
                del self._service[tenant]
