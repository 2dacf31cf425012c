"""Where requests wait for the first worker of a deployment that has none.

In order, bounded in number and time, each until its own deadline; who goes away leaves the room at once. One look for
all of them tells whether a worker is there.
"""

import asyncio
from collections.abc import Callable

from argosy_api import limits
from argosy_api.errors import DeadlineError, OverloadedError, UnavailableError
from argosy_router.clock import now
from argosy_router.fleet.demand import DemandBooks

LOOK_S = 0.02


class WaitingRoom:
    """The room of one deployment."""

    def __init__(self, serves: Callable[[], bool], demand: DemandBooks) -> None:
        """`serves` says whether there is a worker that takes requests."""
        self._serves, self._demand = serves, demand
        self._waiting: dict[asyncio.Future[None], None] = {}
        self._look: asyncio.Task[None] | None = None
        self._closed = ""

    async def wait(self, until: float, deadline: float | None, refusal: Callable[[], str]) -> None:
        """Returns when a worker is there. `until`, `deadline`: monotonic seconds; `refusal`: what to tell after that.

        Raises:
            OverloadedError: as many wait as may.
            DeadlineError: the request's own time is up.
            UnavailableError: no worker came in time, or the router is shutting down.

        """
        if self._closed:
            raise UnavailableError(self._closed)
        if len(self._waiting) >= limits.MAX_HELD_REQUESTS:
            raise OverloadedError("as many requests as may wait for the first worker of this model", retry_after_s=5.0)
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[place] = None
        self._demand.held(1, now())
        if self._look is None or self._look.done():
            self._look = asyncio.create_task(self._watch())
        end = until if deadline is None else min(until, deadline)
        try:
            async with asyncio.timeout(max(0.0, end - now())):
                await place
        except TimeoutError:
            if deadline is not None and deadline <= until:
                raise DeadlineError("the deadline passed while the request waited for a worker to start") from None
            raise UnavailableError(refusal()) from None
        finally:
            self._waiting.pop(place, None)
            self._demand.held(-1, now())

    def close(self, why: str) -> None:
        """Nobody may wait here any more: who does gets this as an UnavailableError."""
        self._closed = why
        for place in self._waiting:
            if not place.done():
                place.set_exception(UnavailableError(why))

    async def _watch(self) -> None:
        while self._waiting:
            if self._serves():
                for place in self._waiting:  # in the order in which they came
                    if not place.done():
                        place.set_result(None)
            await asyncio.sleep(LOOK_S)
