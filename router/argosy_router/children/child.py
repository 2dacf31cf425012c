"""The router's side of one child process: jobs in two lanes, a deadline for each, and a new process after a death.

A job whose time is up is ended with its process. What waited behind it, or ran beside it, is sent to the next process;
only a job that was there at two deaths is given up. A child that nobody asked for long may be put to sleep: its next
job wakes it.
"""

import asyncio
import contextlib
import itertools
import logging
import socket
import subprocess
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from argosy_api import limits
from argosy_api.backoff import Backoff
from argosy_api.errors import OverloadedError, UnavailableError
from argosy_router.children.frames import Frame, pack
from argosy_router.children.lanes import Job, Lane
from argosy_router.children.link import Link
from argosy_router.children.spawn import spawn
from argosy_router.clock import PARTS

log = logging.getLogger(__name__)

DEPTH = {"short": 8, "long": 1}
"""Jobs sent ahead of their answers: a job of a client that has left costs nothing while it is not sent."""
MOST_DEATHS = 2
"""Processes that may end before a job's answer: then the job is given up."""
BACKOFF = Backoff(first=0.1, cap=5.0)


class JobRefusedError(Exception):
    """The child tells why the job cannot be done."""


class JobFailedError(Exception):
    """The work failed in a way that it does not foresee (a library's panic)."""


class JobKilledError(Exception):
    """The job took more time or memory than it may."""


class Child:
    """One child. `opening` gives the first frame that each new process gets (it loads what the jobs need)."""

    def __init__(
        self,
        module: str,
        opening: Callable[[], Frame] | None = None,
        *,
        job_s: float,
        start_s: float = 60.0,
        woken: Callable[["Child"], None] | None = None,
    ) -> None:
        self._module = module
        self._opening = opening or (lambda: ({"op": "open"}, []))
        self._job_s = job_s
        self._start_s = start_s
        self._woken = woken
        self._lanes = {name: Lane(depth) for name, depth in DEPTH.items()}
        self._numbers = itertools.count(1)
        self._link: Link | None = None
        self._ready = False
        self._process: subprocess.Popen[bytes] | None = None
        self._opened: asyncio.Future[Frame] | None = None
        self._starting: asyncio.Task[None] | None = None
        self._reaping: set[asyncio.Task[int]] = set()
        self._failures = 0
        self._closed = False
        self._sleepy = False
        self.used_at = 0.0
        """When it got its last job; seconds of the loop's clock."""

    @property
    def awake(self) -> bool:
        """Whether its process lives, or starts."""
        return self._process is not None or self._starting is not None

    @property
    def pid(self) -> int | None:
        """Of its process, when it has one."""
        return self._process.pid if self._process is not None else None

    @property
    def busy(self) -> bool:
        """Whether a job is under way or waits."""
        return any(lane.waiting or lane.sent for lane in self._lanes.values())

    async def open(self) -> Frame:
        """Starts the process; its answer to the opening frame.

        Raises:
            JobRefusedError, JobFailedError: that answer.
            JobKilledError: it died or gave none in time.

        """
        try:
            return await self._start()
        except BaseException:
            self._end()
            raise

    async def call(self, header: dict[str, Any], blobs: Sequence[bytes] = (), *, long: bool = False) -> Frame:
        """One job's answer.

        Raises:
            JobRefusedError, JobFailedError: the child's answer is that it cannot.
            JobKilledError: it took more time or memory than it may.
            OverloadedError: too many jobs wait.
            UnavailableError: no process could be started.

        """
        if self._closed:
            raise UnavailableError("the router is shutting down")
        name = "long" if long else "short"
        lane = self._lanes[name]
        if len(lane.waiting) >= limits.MAX_CHILD_JOBS:
            raise OverloadedError("too many requests wait for text work")
        loop = asyncio.get_running_loop()
        self.used_at = loop.time()
        number = next(self._numbers)
        job = Job(number, pack({**header, "id": number, "lane": name}, blobs), loop.create_future())
        lane.waiting.append(job)
        self._pump()
        try:
            return await job.future
        except asyncio.CancelledError:
            lane.forget(job)
            raise

    def sleep(self) -> None:
        """End the process as soon as it has nothing to do; the next job after that starts a new one."""
        self._sleepy = True
        self._sleep_if_idle()

    def _sleep_if_idle(self) -> None:
        if self._sleepy and not self.busy and self._starting is None:
            self._end()

    async def close(self) -> None:
        """End the process and every job."""
        self._closed = True
        if self._starting is not None:
            self._starting.cancel()
        self._end()
        for lane in self._lanes.values():
            self._fail([*lane.sent, *lane.waiting], UnavailableError("the router is shutting down"))
            lane.sent.clear()
            lane.waiting.clear()
        await asyncio.gather(*self._reaping, return_exceptions=True)

    # --- jobs

    def _pump(self) -> None:
        if self._link is None or not self._ready:
            if self._starting is None and not self._closed:
                self._starting = asyncio.create_task(self._restart())
            return
        for lane in self._lanes.values():
            for job in lane.due():
                self._link.send(job.frame)
            self._watch(lane)

    def _watch(self, lane: Lane) -> None:
        """The deadline is that of the job which the lane works on: its first."""
        if lane.sent and lane.timer is None:
            self._wait(lane, lane.sent[0], PARTS)

    def _wait(self, lane: Lane, job: Job, parts: int) -> None:
        if parts:
            loop = asyncio.get_running_loop()
            lane.timer = loop.call_later(self._job_s / PARTS, self._wait, lane, job, parts - 1)
        else:
            self._overdue(lane, job)

    def _overdue(self, lane: Lane, job: Job) -> None:
        log.warning("%s: a job took more than %g s; its process is killed", self._module, self._job_s)
        lane.sent.remove(job)
        self._fail([job], JobKilledError(f"takes more than {self._job_s:g} s"))
        self.died()

    @staticmethod
    def _fail(jobs: Sequence[Job], error: Exception) -> None:
        for job in jobs:
            if not job.future.done():
                job.future.set_exception(error)

    # --- told by the link

    def answered(self, header: dict[str, Any], blobs: list[bytes]) -> None:
        """An answer came."""
        if self._opened is not None and header.get("id") == 0:
            if not self._opened.done():
                self._settle(self._opened, header, blobs)
            return
        for lane in self._lanes.values():
            if lane.sent and lane.sent[0].identity == header.get("id"):
                job = lane.sent.popleft()
                lane.stop_timer()
                self._failures = 0
                if not job.future.done():
                    self._settle(job.future, header, blobs)
                self._pump()
                self._sleep_if_idle()
                return
        raise ValueError("an answer to nothing that was asked")

    @staticmethod
    def _settle(future: "asyncio.Future[Frame]", header: dict[str, Any], blobs: list[bytes]) -> None:
        if (problem := header.get("error")) is None:
            future.set_result((header, blobs))
        elif header.get("kind") == "refused":
            future.set_exception(JobRefusedError(str(problem)))
        else:
            future.set_exception(JobFailedError(str(problem)))

    # --- life and death

    async def _restart(self) -> None:
        try:
            if self._failures:
                await asyncio.sleep(BACKOFF.delay(self._failures))
            await self._start()
        except asyncio.CancelledError:
            raise
        except Exception as error:
            self._failures += 1
            log.exception("%s: no process could be started", self._module)
            self._end()
            self._give_up(error)
        finally:
            self._starting = None
        self._pump_if_needed()
        self._sleep_if_idle()

    def _give_up(self, error: Exception) -> None:
        """No process came of it: a job that met one death waits for the next try."""
        problem = UnavailableError(f"the model's text process does not start: {error}")
        for lane in self._lanes.values():
            for job in lane.waiting:
                job.deaths += 1 if isinstance(error, JobKilledError) else MOST_DEATHS
            self._fail([job for job in lane.waiting if job.deaths >= MOST_DEATHS], problem)
            lane.waiting = deque(job for job in lane.waiting if job.deaths < MOST_DEATHS)

    def _pump_if_needed(self) -> None:
        if self.busy:
            self._pump()

    async def _start(self) -> Frame:
        mine, its = socket.socketpair()
        loop = asyncio.get_running_loop()
        with its:
            mine.setblocking(False)
            self._process = spawn(self._module, its.fileno())
        self._opened = loop.create_future()
        self._link = link = Link(self)
        await loop.create_unix_connection(lambda: link, sock=mine)
        header, blobs = self._opening()
        link.send(pack({**header, "id": 0}, blobs))
        try:
            async with asyncio.timeout(self._start_s):
                answer = await self._opened
        except TimeoutError:
            raise JobKilledError(f"it was not loaded within {self._start_s:g} s") from None
        finally:
            self._opened = None
        self._ready = True
        self.used_at = loop.time()
        if self._woken is not None:
            self._woken(self)
        return answer

    def died(self) -> None:
        """Its process is gone, or has to go: what it had is sent to the next one, or given up at its second death."""
        if self._opened is not None and not self._opened.done():
            self._opened.set_exception(JobKilledError("its process died while it was loaded"))
        self._failures += 1
        self._end()
        for lane in self._lanes.values():
            for job in reversed(lane.sent):
                job.deaths += 1
                if job.deaths < MOST_DEATHS:
                    lane.waiting.appendleft(job)
                else:
                    self._fail([job], JobKilledError("takes more memory than it may, or ends its process"))
            lane.sent.clear()
        self._pump_if_needed()

    def _end(self) -> None:
        process, self._process = self._process, None
        self._sleepy = False
        for lane in self._lanes.values():
            lane.stop_timer()
        self._ready = False
        if self._link is not None:
            self._link.cut()
            self._link = None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        reaping = asyncio.create_task(asyncio.to_thread(process.wait))
        self._reaping.add(reaping)
        reaping.add_done_callback(self._reaping.discard)
