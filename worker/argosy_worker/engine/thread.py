"""The engine's thread: it owns scheduler, block pool, runner and the answers being made. Nobody else touches them.

    commands from the inbox → schedule → launch → update → text → one delivery per step: all chunks and cache changes

Where the runner computes beside the host, the next step is scheduled and launched before a step is waited for
(`flights.py`).

A fault ends only what it must: a request with bad logits, with whom a step raises (`isolation.py`), or whose text
cannot be made, ends alone; the thread goes on. Should the runner compute nothing any more, or the thread itself fail,
every stream ends with UNAVAILABLE, since another worker can go on with it, and `alive` and `failure` say so to health
checks and to the process.
"""

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable

from argosy_api.errors import ArgosyError, DeadlineError, InternalError, UnavailableError
from argosy_api.faults import is_fault
from argosy_worker.core.batch import Runner
from argosy_worker.core.blocks import CacheChange
from argosy_worker.core.request import Finish, Request
from argosy_worker.core.scheduler import Advance, Scheduler
from argosy_worker.engine.config import EngineConfig
from argosy_worker.engine.copies import Copies
from argosy_worker.engine.detokenize import TextVocabulary
from argosy_worker.engine.flights import Flights
from argosy_worker.engine.isolation import check
from argosy_worker.engine.measures import Measures
from argosy_worker.engine.metrics import WorkerMetrics
from argosy_worker.engine.moving import Moving
from argosy_worker.engine.reply import Reply
from argosy_worker.engine.report import LoadView, view_of
from argosy_worker.engine.spare import QUIET_S, Spare
from argosy_worker.engine.stream import Piece, Stream
from argosy_worker.engine.trace import StepTrace, Times
from argosy_worker.speculation.draft_model import DraftModel
from argosy_worker.speculation.speculator import Speculator

log = logging.getLogger(__name__)

_IDLE_S = 0.5
"""An idle engine wakes up this often, so that its heartbeat shows that it lives."""
DEAD = "the engine of this worker has died"

Outbox = list[tuple[Stream, Piece | ArgosyError]]
Deliver = Callable[[Outbox, CacheChange], object]


class EngineThread:
    """`run` is the thread. `ask`, `stop` and what is only read are for everybody; the rest are commands to ask for."""

    def __init__(
        self,
        *,
        runner: Runner,
        config: EngineConfig,
        vocabulary: TextVocabulary,
        metrics: WorkerMetrics,
        deliver: Deliver,
        draft: DraftModel | None = None,
        trace: StepTrace | None = None,
    ) -> None:
        """`deliver` is called by the thread, with what the step brought for the streams and the KV event log."""
        speculator = Speculator(config.speculation, model=draft, share=config.prefix_caching)
        self.scheduler = Scheduler(config.scheduler, config.pool(), speculator)
        self.view = LoadView(total_blocks=config.num_blocks, free_blocks=config.num_blocks)
        """Replaced as a whole after each step; any thread may read it."""
        self.failure = ""
        """Type of what the thread died of (the log has the rest); empty while it lives, and when it was stopped."""
        self._runner = runner
        self._vocabulary = vocabulary
        self._metrics = metrics
        self._deliver = deliver
        self._replies: dict[str, Reply] = {}
        self._outbox: Outbox = []
        self._accepted = 0
        self._trace = trace
        self._measures = Measures(config, self.scheduler, speculator, metrics)
        self._moving = Moving(runner, metrics)
        self._flights = Flights(runner, self.scheduler, self._moving)
        self._came = self._taken = 0.0  # when the last step's outputs came, and were taken in
        self._copies = Copies()
        self._spare = Spare(runner, *(() if draft is None else (draft.runner,)))
        # each is written whole by one side
        self._inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._stopping = threading.Event()
        self._beat = time.monotonic()
        self._dead = False

    # --- for everybody

    @property
    def alive(self) -> bool:
        """Whether the thread can still make steps."""
        return not self._dead

    @property
    def last_step_age(self) -> float:
        """Seconds since the loop of the thread last came around."""
        return time.monotonic() - self._beat

    def ask(self, command: Callable[[], None], *, then: Callable[[], object] | None = None) -> None:
        """Have `command` run between two steps, and `then` called once its results are delivered.

        When the thread is not `alive` after this call, neither may ever happen.
        """

        def run() -> None:
            try:
                command()
                self._flush()
            finally:
                if then is not None:
                    then()

        self._inbox.put(command if then is None else run)

    def copy(self, job: Callable[[], None]) -> None:
        """Have a block copied between two steps, after the copies that were asked for before. `job` never raises."""
        self.ask(lambda: self._copies.add(job))

    def stop(self) -> None:
        """Tell the thread to end after the step it is in."""
        self._stopping.set()
        self._inbox.put(lambda: None)

    # --- commands

    def announce(self) -> None:
        """A submission was made: reports count it from now on."""
        self._accepted += 1

    def begin(self, request: Request, stream: Stream) -> None:
        """Begin to work on a request."""
        try:
            reply = Reply(request, stream, self._vocabulary, self._metrics)
            ended = reply.resume()
            if ended is not None:
                self._outbox.append((stream, ended))
                return
            self.scheduler.add(request)
        except BaseException as error:
            if not is_fault(error):
                raise
            self._outbox.append((stream, _told(error)))
        else:
            self._replies[request.request_id] = reply

    def drop(self, stream: Stream) -> None:
        """Nobody reads the stream any more: end its request."""
        if self._forget(stream) is not None:
            self._metrics.finished(Finish.ABORT)

    def abort(self, stream: Stream) -> None:
        """End a request, and its stream with what text was held back."""
        reply = self._forget(stream)
        if reply is not None:
            try:
                self._outbox.append((stream, reply.aborted()))
            except BaseException as error:
                if not is_fault(error):
                    raise
                self._outbox.append((stream, _told(error)))

    def _forget(self, stream: Stream) -> Reply | None:
        reply = self._replies.get(stream.request_id)
        if reply is None or reply.stream is not stream:  # it has ended, or a later attempt has taken its place
            return None
        self.scheduler.remove(stream.request_id)
        return self._replies.pop(stream.request_id)

    # --- the thread

    def run(self) -> None:
        """Work until `stop`. A fault of the loop itself ends it too, and is not raised; all streams end then."""
        last: ArgosyError = UnavailableError("this worker is stopping")
        try:
            while not self._stopping.is_set():
                self._turn()
            self._flights.settle()
        except BaseException as error:
            log.exception("the engine thread died")
            last = UnavailableError(DEAD)
            self.failure = type(error).__name__
            if not is_fault(error):
                raise
        finally:
            self._dead = True
            self._end_all(last)

    def _turn(self) -> None:
        self._beat = time.monotonic()
        busy = bool(self._copies) or self._flights.out
        quiet = QUIET_S if self._spare.left else _IDLE_S
        asked = self._take_commands(wait_s=0 if busy else min(self.scheduler.due - self._beat, quiet))
        for request in self.scheduler.expired(time.monotonic()):
            self._end(request.request_id, DeadlineError("the deadline passed before the answer was complete"))
        idle = not self._flights.out and self.scheduler.due > time.monotonic()
        if not idle:
            self._step()
        if not self._flights.out:
            self._copies.run(idle=idle)
        if idle and not (asked or busy or self.scheduler.has_work):
            self._spare.go_on()
        self._flush()

    def _take_commands(self, *, wait_s: float) -> bool:
        """Run what was asked for; whether there was anything."""
        asked = False
        with contextlib.suppress(queue.Empty):
            command = self._inbox.get(timeout=wait_s) if wait_s > 0 else self._inbox.get_nowait()
            while True:
                asked = True
                command()
                command = self._inbox.get_nowait()
        return asked

    def _step(self) -> None:
        flight = self._flights.go_on(copies=bool(self._copies))
        step, outputs, now = flight.step, self._flights.outputs(flight), time.monotonic()
        seconds = now - max(flight.began, self._came)  # what of it the device was busy with the step before is not its
        self._came = now
        self._copies.step_took(seconds)
        self._measures.take(step, outputs, seconds)
        advances = self.scheduler.update(step, outputs)
        for progress in advances:
            self._answer(progress, now)
        if self._trace is not None:
            taken, last = time.monotonic(), self._taken  # steps that follow each other do not overlap in it
            times = Times(max(flight.began, last), max(flight.scheduled, last), now, taken)
            self._trace.add(step, outputs, self.scheduler, times)
            self._taken = taken
        if advances and all(progress.finish is Finish.ERROR for progress in advances):
            self._check_runner()

    def _check_runner(self) -> None:
        """Of a step nothing came. Was that the fault of its requests, which have ended, or does the runner fail?"""
        self._flights.settle()
        pool = self.scheduler.pool
        if pool.available:  # else others, who run, have all blocks, and their next step tells
            blocks = pool.allocate(1)
            self._moving.run(pool.host.take_moves())
            check(self._runner, blocks[0])
            pool.release(blocks)

    def _answer(self, progress: Advance, now: float) -> None:
        reply = self._replies[progress.request.request_id]
        try:
            item = reply.advance(progress, now)
        except BaseException as error:  # its text cannot be made
            if not is_fault(error):
                raise
            self._metrics.finished(Finish.ERROR)
            item = _told(error)
        if item is None:
            return
        self._outbox.append((reply.stream, item))
        if isinstance(item, ArgosyError) or item.finish is not None:
            self.scheduler.remove(
                reply.request.request_id
            )  # a stop string or a fault ended it; else it is gone already
            del self._replies[reply.request.request_id]

    def _flush(self) -> None:
        """Hand everything over: one delivery, however many requests the step had."""
        self.view = view_of(self.scheduler, accepted=self._accepted, prefill_rate=self._measures.prefill_rate)
        change = self.scheduler.pool.take_change()
        if self._outbox or change:
            outbox, self._outbox = self._outbox, []
            self._deliver(outbox, change)

    def _end(self, request_id: str, error: ArgosyError) -> None:
        reply = self._replies.pop(request_id)
        self._metrics.finished(Finish.ERROR)
        self._outbox.append((reply.stream, error))

    def _end_all(self, error: ArgosyError) -> None:
        """The thread ends: nobody may wait for ever. Commands still in the inbox are answered too."""
        with contextlib.suppress(queue.Empty):
            while True:
                command = self._inbox.get_nowait()
                try:
                    command()
                except BaseException as fault:
                    if not is_fault(fault):
                        raise
                    log.exception("a command failed while the engine was ending")
        self._copies.finish()
        for request_id in list(self._replies):
            self.scheduler.remove(request_id)
            self._end(request_id, error)
        with contextlib.suppress(RuntimeError):  # the event loop may be closed by now
            self._flush()


def _told(error: BaseException) -> ArgosyError:
    """What the request that failed is told."""
    if isinstance(error, ArgosyError):
        return error
    log.error("a request failed, and ends alone", exc_info=error)
    return InternalError("the engine failed on this request")
