"""Tasks that are told to end, do end."""

import asyncio
from typing import Any

AGAIN_S = 0.2


async def end(*tasks: "asyncio.Task[Any]") -> None:
    """Cancel tasks and wait until they have ended, in whatever way.

    One cancel is not enough: it can be lost inside a library, without which the task would go on for ever and whoever
    waits for it, too. Before Python 3.12 `asyncio.wait_for` returns its result when the cancel comes together with it,
    and redis-py sends every command through it.
    """
    pending = {task for task in tasks if not task.done()}
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=AGAIN_S)
    for task in tasks:
        if not task.cancelled():
            task.exception()  # told where it happened, if anywhere; asked for, so that asyncio does not tell it again
