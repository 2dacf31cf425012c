"""The running control loops, and how they are woken."""

import asyncio
from dataclasses import dataclass, field

from argosy_operator.reconcile import Memory

Key = tuple[str, str]
"""Namespace and name of a resource."""


@dataclass(slots=True)
class Loop:
    """One running control loop."""

    uid: str
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    """Something has changed: of the resource, a child or a router."""
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    """The resource has changed: reason enough not to wait for the end of a backoff."""
    generation: int = -1
    """Of the last pass."""
    gone: bool = False
    """The resource is no longer there: nothing may be made for it any more."""
    passing: asyncio.Lock = field(default_factory=asyncio.Lock)
    memory: Memory = field(default_factory=Memory)

    async def news(self, stopped: asyncio.Event, seconds: float) -> bool:
        """Return when there is reason for a pass or to end; False: none but that the time is up."""
        # while calls fail, children that come and go must not turn into a hail of further calls
        woken = await _first_of(self.changed if self.memory.failures else self.wake, stopped, seconds)
        self.wake.clear()
        self.changed.clear()
        return woken


class Wakeups:
    """Wakes control loops; waking one that is not there is harmless."""

    def __init__(self) -> None:
        self._loops: dict[Key, Loop] = {}

    def register(self, key: Key, uid: str) -> Loop:
        """A loop begins, awake."""
        loop = self._loops[key] = Loop(uid)
        loop.wake.set()
        return loop

    def unregister(self, key: Key, loop: Loop) -> None:
        """It has ended."""
        if self._loops.get(key) is loop:
            del self._loops[key]

    def get(self, key: Key) -> Loop | None:
        """The loop of a resource."""
        return self._loops.get(key)

    def poke(self, key: Key | None) -> None:
        """Wake one; None: all."""
        for loop in self._loops.values() if key is None else filter(None, [self._loops.get(key)]):
            loop.wake.set()

    def end(self, key: Key, uid: str) -> None:
        """The resource with this uid is gone."""
        loop = self._loops.get(key)
        if loop is not None and loop.uid == uid:
            loop.gone = True
            loop.wake.set()
            loop.changed.set()


async def _first_of(wake: asyncio.Event, stopped: asyncio.Event, seconds: float) -> bool:
    """Return when one is set, or (False) after so many seconds."""
    if wake.is_set() or stopped.is_set():
        return True
    waits = [asyncio.ensure_future(wake.wait()), asyncio.ensure_future(stopped.wait())]
    try:
        done, _ = await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        return bool(done)
    finally:
        for wait in waits:
            wait.cancel()
