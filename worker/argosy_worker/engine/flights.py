"""Steps on their way, from their launch until they are taken in.

Most runners compute at once: a step is launched, and taken in. Where one computes beside the host, the next step is
launched before the one that is out is waited for (`core/ahead.py` says when), so that the device has something to do
while the host makes text of what came, and schedules. One step at most is out between two turns of the engine's thread,
two while it waits.

Steps are computed in the order of their launches. So who ends while rows of his are out costs nobody anything: these
rows are void, and whoever gets his blocks writes to them after. Only where a step is computed again is that order
lost: what follows it is waited for first and then computed again, too, and void rows are left out of both.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

from argosy_worker.core.batch import (
    PLACEHOLDER,
    Failed,
    Finished,
    Pending,
    Runner,
    SequenceSlice,
    StepOutput,
    computes_beside,
)
from argosy_worker.core.scheduler import Scheduler, Step
from argosy_worker.engine import isolation
from argosy_worker.engine.moving import Moving


@dataclass(slots=True)
class Flight:
    """A step that was launched."""

    step: Step
    began: float
    """Monotonic seconds: when it was asked what to compute."""
    scheduled: float
    pending: Pending
    back: bool = False
    """It was waited for, or its launch failed: nothing of it is out."""
    again: bool = False
    """What it read may have been wrong: only computing it again tells."""


class Flights:
    """Owned by the engine's thread."""

    def __init__(self, runner: Runner, scheduler: Scheduler, moving: Moving) -> None:
        self._runner, self._scheduler, self._moving = runner, scheduler, moving
        self._beside = computes_beside(runner)
        self._next: Flight | None = None

    @property
    def out(self) -> bool:
        """Whether a step waits to be taken in."""
        return self._next is not None

    def go_on(self, *, copies: bool) -> Flight:
        """The step to be taken in next, and the one after it on its way, where it may be.

        `copies`: whether blocks are to be copied as soon as no step is out. Without a step that is out, one is
        scheduled, so there must be work that is due.

        Raises:
            RunnerBrokenError: the runner is of no more use.

        """
        flight, self._next = self._next or self._launched(), None
        if self._beside and not flight.back and self._scheduler.can_run_ahead(copies=copies).ok:
            ahead = self._launched()
            if ahead.step.requests:
                self._next = ahead
            else:  # all there is to compute waits for the outputs
                self._scheduler.update(ahead.step, ())
        return flight

    def outputs(self, flight: Flight) -> list[StepOutput]:
        """Wait for a step: one output for each slice. Who is at fault where it raises is found, and has an `error`.

        Raises:
            RunnerBrokenError: the runner is of no more use.

        """
        slices = flight.step.batch.slices
        found = None if flight.again else isolation.outputs_of(flight.pending, len(slices))
        if found is not None:
            return found
        self.settle()
        if self._next is not None:
            self._next.again = True
        outputs = [StepOutput()] * len(slices)
        alive = dict(_alive(flight.step))
        for place, output in zip(alive, isolation.apart(self._runner, list(alive.values())), strict=True):
            outputs[place] = output
        return outputs

    def settle(self) -> None:
        """Wait for the step that is out, if one is; its outputs are kept."""
        flight = self._next
        if flight is None or flight.back:
            return
        flight.back = True
        found = isolation.outputs_of(flight.pending, len(flight.step.batch.slices))
        flight.again, flight.pending = found is None, Finished(found or [])

    def _launched(self) -> Flight:
        began = time.monotonic()
        step = self._scheduler.schedule(began)
        scheduled = time.monotonic()
        self._moving.run(step.batch.moves)
        pending = isolation.launch(self._runner, step.batch.slices)
        return Flight(step, began, scheduled, pending, back=isinstance(pending, Failed))


def _alive(step: Step) -> Iterator[tuple[int, SequenceSlice]]:
    """Slices whose outputs somebody waits for, with their places; the steps before this one are taken in."""
    slices = zip(step.requests, step.lives, step.batch.slices, strict=True)
    for place, (request, life, piece) in enumerate(slices):
        if request.ended or request.preemptions != life:
            continue
        first, *others = piece.tokens
        yield place, replace(piece, tokens=(request.tokens[piece.start], *others)) if first == PLACEHOLDER else piece
