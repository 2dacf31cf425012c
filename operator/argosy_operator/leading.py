"""One of several operators operates: the one that has the lease. The others wait, ready to take it over.

A term begins with nothing remembered, as a new process does, and ends when somebody else has the lease. What the term
was about to write then is not written: each write asks the elector first (`argosy_kube.http.session`).
"""

import asyncio
import signal
import threading
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Protocol, Self

from argosy_api.ending import end
from argosy_kube import http as kube_http
from argosy_kube.access import Access
from argosy_kube.http import HttpTransport
from argosy_kube.lease import Elector, LeaseTerms
from argosy_operator.metrics import Health, Metrics

_POLL_S = 0.05


class Work(Protocol):
    """What is done for the length of a term."""

    async def __call__(self, *, stop: asyncio.Event, may_write: Callable[[], bool]) -> None:
        """Return soon after `stop` is set."""
        ...


class Stopping:
    """Whether the process is to end: a signal has come, or somebody in another thread says so."""

    def __init__(self, flag: threading.Event | None) -> None:
        self.event = asyncio.Event()
        self._flag = flag
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self.hear_signals()
        self._task = asyncio.create_task(self._poll())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task is not None:
            await end(self._task)

    def hear_signals(self) -> None:
        """Take SIGTERM and SIGINT (again). In another than the main thread there are none."""
        if threading.current_thread() is threading.main_thread():
            loop = asyncio.get_running_loop()
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, self.event.set)

    async def _poll(self) -> None:
        while self._flag is not None and not self.event.is_set():
            if self._flag.is_set():
                self.event.set()
            await asyncio.sleep(_POLL_S)


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """What lasts longer than a term."""

    metrics: Metrics
    health: Health
    stopping: Stopping
    ready_flag: threading.Event | None
    """Set when the process operates, or waits for the lease."""

    def ready(self) -> None:
        """It does what it is there for."""
        self.health.ready = True
        if self.ready_flag is not None:
            self.ready_flag.set()


async def lead(terms: LeaseTerms, access: Access, process: Process, work: Work) -> None:
    """Do the work whenever the lease is ours, until the process is to end. Who waits is ready."""
    async with kube_http.session(access) as session:
        elector = Elector(HttpTransport(session, access), terms)
        while not process.stopping.event.is_set():
            process.stopping.hear_signals()  # which Kopf took in a former term
            process.ready()
            try:
                if await _unless(process.stopping.event, elector.take()):
                    process.health.ready = False
                    process.metrics.leads(leads=True)
                    await _term(elector, process.stopping, work)
            finally:
                process.metrics.leads(leads=False)
                await elector.release()


async def _term(elector: Elector, stopping: Stopping, work: Work) -> None:
    over = asyncio.Event()

    async def keep() -> None:
        try:
            await elector.keep()
        finally:
            over.set()

    async def heed() -> None:
        await stopping.event.wait()
        over.set()

    # begun before Kopf, which would otherwise wait for them at its end; until that the lease is renewed
    keeper, heeding = asyncio.create_task(keep()), asyncio.create_task(heed())
    try:
        await work(stop=over, may_write=elector.may_write)
        if not over.is_set():  # Kopf took a signal for itself
            stopping.event.set()
    finally:
        await end(keeper, heeding)
    if not keeper.cancelled():
        keeper.result()


async def _unless(event: asyncio.Event, work: Coroutine[Any, Any, None]) -> bool:
    """Whether it came to its end before the event."""
    doing, waiting = asyncio.ensure_future(work), asyncio.ensure_future(event.wait())
    try:
        await asyncio.wait((doing, waiting), return_when=asyncio.FIRST_COMPLETED)
        if doing.done():
            doing.result()
            return True
        return False
    finally:
        await end(doing, waiting)
