"""Jobs for a child process, in lanes: what waits, what was sent, and how long the first one may take."""

import asyncio
import contextlib
from collections import deque
from collections.abc import Iterator

from argosy_router.children.frames import Frame


class Job:
    """One job: its frame, who waits for its answer, and how many processes died with it."""

    __slots__ = ("deaths", "frame", "future", "identity")

    def __init__(self, identity: int, frame: bytes, future: "asyncio.Future[Frame]") -> None:
        self.identity = identity
        self.frame = frame
        self.future = future
        self.deaths = 0


class Lane:
    """Jobs of one kind, in order."""

    def __init__(self, depth: int) -> None:
        self.depth = depth
        self.waiting: deque[Job] = deque()
        self.sent: deque[Job] = deque()
        self.timer: asyncio.TimerHandle | None = None

    def due(self) -> Iterator[Job]:
        """Jobs to send now."""
        while self.waiting and len(self.sent) < self.depth:
            job = self.waiting.popleft()
            if not job.future.done():
                self.sent.append(job)
                yield job

    def forget(self, job: Job) -> None:
        """Nobody waits for it any more. What was not sent takes no place and no memory; else its answer is awaited."""
        with contextlib.suppress(ValueError):
            self.waiting.remove(job)

    def stop_timer(self) -> None:
        """The first job has its answer, or its process is gone."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
