"""Parts of the scheduler's decisions: what each prompt has of a step, who is too late, and who must give way. Pure."""

from collections.abc import Iterable
from heapq import heapify, heappop, heappush
from math import inf

from argosy_worker.core.request import Request


def shares(prompts: Iterable[tuple[Request, int]], budget: int, share: float) -> list[tuple[Request, int]]:
    """Of `budget` tokens those that each prompt may compute, in order. With each comes how many it could.

    No prompt has more than `share` of them (and at least one) while another can use the rest; what nobody else can use
    the first ones have after all. `prompts` is read only as far as the tokens last.
    """
    most = max(1, int(budget * share))
    given: list[tuple[Request, int, int]] = []
    left = budget
    if left:
        for prompt, could in prompts:
            count = min(could, most, left)
            given.append((prompt, count, could))
            left -= count
            if not left:
                break
    found = []
    for prompt, count, could in given:
        more = min(could - count, left)
        found.append((prompt, count + more))
        left -= more
    return found


class Deadlines:
    """Requests by deadline. What has ended is forgotten now and then, so it holds about as many as there are."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Request]] = []
        self._added = 0
        self._swept_at = 64

    def add(self, request: Request) -> None:
        """A request that may be too late one day."""
        if request.deadline < inf:
            self._added += 1
            heappush(self._heap, (request.deadline, self._added, request))
            if len(self._heap) > self._swept_at:
                self._heap = [entry for entry in self._heap if not entry[2].ended]
                heapify(self._heap)
                self._swept_at = 64 + 2 * len(self._heap)

    def passed(self, now: float) -> list[Request]:
        """Those that have not ended and whose deadline has passed; each is told once."""
        late = []
        while self._heap and self._heap[0][0] <= now:
            request = heappop(self._heap)[2]
            if not request.ended:
                late.append(request)
        return late


def worth(request: Request) -> tuple[int, int]:
    """Who is worth least is preempted first. Each preemption counts as a level of priority, so that nobody stays behind
    for ever; of equals it is who loses least.
    """
    return request.priority + request.preemptions, request.lost_if_preempted
