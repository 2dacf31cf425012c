"""Waiting for conditions. How long something takes is no test's business: machines are slow and busy."""

import asyncio
import inspect
import time

LIMIT_S = 120.0
"""After so long it will not happen any more."""


def until(condition, what="", *, pause_s=0.02):
    """Poll until it is true; its value."""
    deadline = time.monotonic() + LIMIT_S
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"did not happen within {LIMIT_S:g} s: {what or condition}")
        time.sleep(pause_s)
    return value


async def eventually(condition, what="", *, within=LIMIT_S, pause_s=0.01):
    """The same in an event loop; the condition may be a coroutine function. `within` is for what may never happen."""
    deadline = time.monotonic() + within
    while True:
        value = condition()
        if inspect.isawaitable(value):
            value = await value
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"did not happen within {within:g} s: {what or condition}")
        await asyncio.sleep(pause_s)


def stand_still(seconds):
    """A fault, no waiting: nothing of this process runs for so long, as where its machine was stopped."""
    time.sleep(seconds)
