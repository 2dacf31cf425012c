"""Tasks beside the control loops, which live as long as the operator: none of them ends without anybody noticing."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from argosy_api.backoff import Backoff
from argosy_api.ending import end
from argosy_api.faults import is_fault
from argosy_operator.metrics import Health

log = logging.getLogger(__name__)

_BACKOFF = Backoff(first=0.1, cap=15.0)


class Background:
    """Belongs to one event loop."""

    def __init__(self, health: Health) -> None:
        self._health = health
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Run something that ends by itself."""
        self._add(self._once(work))

    def keep(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        """Run something that fails at no time: should it do so, it is begun anew, and health hears of it.

        What returns is done.
        """
        self._add(self._for_ever(name, work))

    def cancel(self) -> None:
        """Tell all of them to end."""
        for task in list(self._tasks):
            task.cancel()

    async def end(self) -> None:
        """Cancel all, and wait until they have ended."""
        await end(*self._tasks)

    def _add(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _once(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except BaseException as error:
            if not is_fault(error):
                raise
            log.exception("a task has failed")

    async def _for_ever(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        failures = 0
        while True:
            try:
                await work()
            except BaseException as error:
                if not is_fault(error):
                    raise
                log.exception("%s has failed; it begins anew", name)
            else:
                return
            self._health.restarted(name)
            failures += 1
            await asyncio.sleep(_BACKOFF.jittered(failures))
