"""Background tasks that must not end: an unforeseen fault is logged and the task begins anew."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

log = logging.getLogger(__name__)

AGAIN_S = 1.0


async def keep_running(name: str, work: Callable[[], Awaitable[None]]) -> None:
    """Runs `work` again and again, until it returns by itself or is cancelled."""
    while True:
        try:
            await work()
        except Exception:
            log.exception("%s failed; it begins anew in %g s", name, AGAIN_S)
            await asyncio.sleep(AGAIN_S)
        else:
            return
