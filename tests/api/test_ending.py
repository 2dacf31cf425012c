"""Tasks that are told to end, do end."""

import asyncio

import pytest

from argosy_api import ending


async def test_a_lost_cancel_is_repeated(monkeypatch):
    """As one that a library swallows; one that ended before, or fails, does no harm."""
    monkeypatch.setattr(ending, "AGAIN_S", 0.01)
    swallowed = []

    async def swallows() -> None:
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                swallowed.append(1)
                if len(swallowed) == 3:
                    raise

    async def fails() -> None:
        raise ValueError("x")

    tasks = [asyncio.create_task(swallows()), asyncio.create_task(fails()), asyncio.create_task(asyncio.sleep(0))]
    await asyncio.sleep(0.01)
    await asyncio.wait_for(ending.end(*tasks), 10)
    assert [t.done() for t in tasks] == [True, True, True]
    assert len(swallowed) == 3
    await ending.end()


async def test_who_waits_can_be_cancelled():
    """Waiting for a task that does not end is no prison."""

    async def stubborn() -> None:
        while not released.is_set():
            try:
                await released.wait()
            except asyncio.CancelledError:
                continue

    released = asyncio.Event()
    task = asyncio.create_task(stubborn())
    await asyncio.sleep(0)
    waiting = asyncio.create_task(ending.end(task))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    released.set()
    await task
