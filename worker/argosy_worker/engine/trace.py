"""The step trace: the latest steps in memory, and on a file with one former generation. Off, it does not exist."""

import logging
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import NamedTuple

from argosy_api import limits
from argosy_api.step_trace import TracedSlice, TracedStep, to_line
from argosy_worker.core.batch import SequenceSlice, StepOutput
from argosy_worker.core.request import Request
from argosy_worker.core.scheduler import Scheduler, Step

log = logging.getLogger(__name__)


class Times(NamedTuple):
    """Of one step, in monotonic seconds."""

    began: float
    scheduled: float
    computed: float
    updated: float


class StepTrace:
    """Written by the engine's thread, read by any. Bounded in steps and in slices."""

    def __init__(self, file: Path | None = None) -> None:
        """`file`: where each step is written to as well, as a line of JSON.

        Raises:
            OSError: it cannot be written to.

        """
        self._lock = threading.Lock()
        self._steps: deque[TracedStep] = deque()
        self._slices = 0
        self._count = 0
        self._unix = time.time() - time.monotonic()
        self._file = None if file is None else _Lines(file)

    def add(self, step: Step, outputs: Sequence[StepOutput], scheduler: Scheduler, times: Times) -> None:
        """Note a step that was taken in."""
        self._count += 1
        pool = scheduler.pool
        traced = TracedStep(
            number=self._count,
            began=self._unix + times.began,
            schedule_s=times.scheduled - times.began,
            launch_s=times.computed - times.scheduled,
            update_s=times.updated - times.computed,
            tokens=step.batch.num_tokens,
            running=len(scheduler.running),
            waiting=len(scheduler.line),
            free=pool.free,
            cached=pool.cached,
            used=pool.used,
            preempted=step.preempted,
            slices=[_slice(*of) for of in zip(step.requests, step.batch.slices, step.lives, outputs, strict=True)],
        )
        with self._lock:
            self._steps.append(traced)
            self._slices += len(traced.slices)
            while len(self._steps) > limits.MAX_TRACED_STEPS or self._slices > limits.MAX_TRACED_SLICES:
                self._slices -= len(self._steps.popleft().slices)
        if self._file is not None:
            self._file.write(traced)

    def lines(self) -> bytes:
        """The steps in memory, one a line, the oldest first."""
        with self._lock:
            steps = list(self._steps)
        return b"".join(to_line(step) + b"\n" for step in steps)

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()


class _Lines(RotatingFileHandler):
    """A file that becomes FILE.1 when it is full. A fault in writing costs the trace, and never a step."""

    def __init__(self, file: Path) -> None:
        super().__init__(file, maxBytes=limits.MAX_TRACE_BYTES, backupCount=1, encoding="utf-8")
        self._broken = False

    def write(self, step: TracedStep) -> None:
        if not self._broken:
            self.emit(logging.makeLogRecord({"msg": to_line(step).decode()}))

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the library's name
        del record
        self._broken = True
        log.error("the step trace cannot be written any more; it goes on in memory: %r", sys.exc_info()[1])


def _slice(request: Request, piece: SequenceSlice, life: int, output: StepOutput) -> TracedSlice:
    admitted = request.arrival if request.admitted_at is None else request.admitted_at
    return TracedSlice(
        request=piece.request_id,
        start=piece.start,
        rows=len(piece.tokens),
        prompt=len(request.prompt),
        cached=request.cached_tokens,
        queued_s=admitted - request.arrival,
        preemptions=life,
        draft=piece.draft,
        accepted=max(0, len(output.tokens) - 1) if piece.draft else 0,
        sampled=len(output.tokens),
        ended=request.ended,
        failed=output.error is not None,
    )
