"""Background tasks that must not end: an unforeseen fault is logged and the task begins anew.

Also one that is no Exception, as the panics of libraries in Rust, alone or in a group.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from argosy_api.faults import is_fault

log = logging.getLogger(__name__)

AGAIN_S = 1.0


async def keep_running(name: str, work: Callable[[], Awaitable[None]]) -> None:
    """Runs `work` again and again, until it returns by itself or is cancelled."""
    while True:
        try:
            await work()
        except BaseException as error:
            if not is_fault(error):
                raise
            log.exception("%s failed; it begins anew in %g s", name, AGAIN_S)
            await asyncio.sleep(AGAIN_S)
        else:
            return
