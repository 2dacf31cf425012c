"""The engine: one thread owns scheduler, block pool and runner; everybody else asks it through an inbox.

    event loop                                    engine thread
    submit, cancel, abort, drain ──► inbox ──►    commands → schedule → launch → update → text
    streams, KV event log        ◄── one call ◄── per step: all chunks and cache changes of the step

A fault ends only what it must: a request with bad logits ends alone; a step that raises ends the requests in it; the
thread goes on. Should the thread itself die, every stream ends with INTERNAL, and `/healthz` says so.
"""

import asyncio
import contextlib
import logging
import queue
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from argosy_api import limits
from argosy_api.blocks import root_id
from argosy_api.errors import (
    ArgosyError,
    CancelledError,
    InternalError,
    InvalidArgumentError,
    OverloadedError,
    UnavailableError,
)
from argosy_api.params import SamplingParams
from argosy_api.v1 import worker_pb2 as pb
from argosy_worker.core.batch import Runner, StepOutput
from argosy_worker.core.blocks import BlockPool, CacheChange
from argosy_worker.core.request import Finish, Request, check_fits
from argosy_worker.core.scheduler import Scheduler, SchedulerConfig, Step
from argosy_worker.engine.detokenize import vocabulary
from argosy_worker.engine.metrics import WorkerMetrics
from argosy_worker.engine.rate import PrefillRate
from argosy_worker.engine.reply import Reply
from argosy_worker.engine.report import LoadView, Queued, view_of
from argosy_worker.engine.stream import Piece, Stream
from argosy_worker.models.facts import ModelFacts

log = logging.getLogger(__name__)

_IDLE_S = 0.5
"""An idle engine wakes up this often, so that its heartbeat shows that it lives."""
_ABORT_S = 5.0
"""How long draining waits for its aborts, at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """Sizes of the engine."""

    num_blocks: int
    block_size: int = 16
    max_model_len: int = 8192
    prefix_caching: bool = True
    scheduler: SchedulerConfig = field(default_factory=SchedulerConfig)


class Engine:
    """See the module's docstring. Methods are for the event loop, but for `run`, which is the thread."""

    def __init__(
        self,
        *,
        facts: ModelFacts,
        runner: Runner,
        config: EngineConfig,
        metrics: WorkerMetrics,
        on_cache_change: Callable[[CacheChange], None],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.facts = facts
        self.config = config
        self.draining = False
        self._loop = loop
        self._metrics = metrics
        self._on_cache_change = on_cache_change
        self._vocabulary = vocabulary(facts.tokenizer_json)
        # event loop's side
        self._active: dict[str, Stream] = {}
        self._submitted = 0
        self._reports = 0
        self._unseen: deque[tuple[int, Queued]] = deque()
        self._ended = asyncio.Event()
        # shared: each is written whole by one side
        self._inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._stopping = threading.Event()
        self._beat = time.monotonic()
        self._dead = False
        self.view = LoadView(total_blocks=config.num_blocks, free_blocks=config.num_blocks)
        # engine thread's side
        self._runner = runner
        self._scheduler = Scheduler(config.scheduler, BlockPool(config.num_blocks, caching=config.prefix_caching))
        self._replies: dict[str, Reply] = {}
        self._outbox: list[tuple[Stream, Piece | ArgosyError]] = []
        self._accepted = 0
        self._rate = PrefillRate()

    # --- requests (event loop)

    def submit(
        self, request_id: str, attempt: int, prompt: Sequence[int], params: SamplingParams, *, salt: str = ""
    ) -> Stream:
        """Take a request whose fields are checked. Its stream must be read, or given to `cancel`.

        A higher attempt of a request that is still here replaces it.

        Raises:
            UnavailableError: draining, or the engine thread is dead.
            OverloadedError: too many requests are here.
            InvalidArgumentError: it can never fit, or this or a later attempt of it is already here.

        """
        self._check_open(request_id, attempt)
        if params.seed is None and not params.greedy:
            params = replace(params, seed=secrets.randbelow(limits.MAX_SEED + 1))
        now = time.monotonic()
        request = Request(
            request_id=request_id,
            prompt=prompt,
            params=params,
            root=root_id(self.facts.fingerprint, salt=salt),
            block_size=self.config.block_size,
            arrival=now,
            max_model_len=self.config.max_model_len,
            eos_token_ids=frozenset(self.facts.eos_token_ids),
        )
        check_fits(len(prompt), request.most_blocks, total=self.config.num_blocks, block_size=self.config.block_size)
        former = self._active.get(request_id)
        if former is not None:
            former.fail(CancelledError(f"replaced by attempt {attempt}"))
            self.cancel(former)
        self._submitted += 1
        stream = self._active[request_id] = Stream(request_id, attempt, number=self._submitted)
        self._unseen.append((self._submitted, Queued(len(prompt), now)))
        self._inbox.put(lambda: self._accept(request, stream))
        return stream

    def cancel(self, stream: Stream) -> None:
        """Nobody reads the stream any more: end its request and free its blocks. Does nothing when it has ended."""
        if self._active.get(stream.request_id) is stream:
            del self._active[stream.request_id]
            self._inbox.put(lambda: self._drop(stream))
            self._note_end()

    async def abort(self, request_id: str) -> bool:
        """End a request and free its blocks; its stream closes with finish reason ABORT. False when it is not here."""
        stream = self._active.get(request_id)
        if stream is None:
            return False
        await self._call(lambda: self._abort(stream))
        return True

    async def drain(self, timeout_s: float) -> tuple[int, int]:
        """Take no new requests; wait for those here, at most `timeout_s`, then abort the rest. (finished, aborted)."""
        self.draining = True
        before = len(self._active)
        deadline = time.monotonic() + timeout_s
        while self._active and not self._dead and (left := deadline - time.monotonic()) > 0:
            self._ended.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._ended.wait()
        rest = list(self._active)
        with contextlib.suppress(TimeoutError):  # a step that hangs must not make draining hang
            async with asyncio.timeout(_ABORT_S):
                await asyncio.gather(*map(self.abort, rest))
        return before - len(rest), len(rest)

    # --- health (any thread)

    @property
    def alive(self) -> bool:
        """Whether the thread can still make steps."""
        return not self._dead

    @property
    def last_step_age(self) -> float:
        """Seconds since the loop of the thread last came around."""
        return time.monotonic() - self._beat

    @property
    def busy(self) -> bool:
        """Whether there is a request."""
        return bool(self._active)

    def load(self, *, worker_id: str, epoch: int) -> pb.Load:
        """The report for routers."""
        view = self.view
        while self._unseen and self._unseen[0][0] <= view.accepted:
            self._unseen.popleft()
        self._reports += 1
        return view.to_proto(
            worker_id=worker_id,
            epoch=epoch,
            sequence=self._reports,
            accepted=self._submitted,
            now=time.monotonic(),
            unseen=[entry for _, entry in self._unseen],
            age=self.last_step_age,
            draining=self.draining,
        )

    def stop(self) -> None:
        """Tell the thread to end after the step it is in."""
        self._stopping.set()
        self._inbox.put(lambda: None)

    # --- event loop's side, inside

    def _check_open(self, request_id: str, attempt: int) -> None:
        if self._dead:
            raise UnavailableError("the engine of this worker has died")
        if self.draining:
            raise UnavailableError("this worker is draining")
        former = self._active.get(request_id)
        if former is not None and former.attempt >= attempt:
            raise InvalidArgumentError(
                "request_id", f"attempt {former.attempt} of {request_id!r} is already running here"
            )
        most = self.config.scheduler.max_requests
        if len(self._active) >= most:
            raise OverloadedError(f"this worker has all the {most} requests that it takes at a time")

    async def _call(self, command: Callable[[], None]) -> None:
        """Run `command` in the engine thread, and come back once it is done and its results are delivered."""
        done = self._loop.create_future()

        def settle() -> None:
            if not done.done():  # the caller may have given up
                done.set_result(None)

        def run() -> None:
            command()
            self._flush()
            self._loop.call_soon_threadsafe(settle)

        self._inbox.put(run)
        if self._dead:
            return
        await done

    def _deliver(self, outbox: list[tuple[Stream, Piece | ArgosyError]], change: CacheChange) -> None:
        if change:
            self._on_cache_change(change)
        for stream, item in outbox:
            if isinstance(item, ArgosyError):
                stream.fail(item)
            elif not stream.put(item):
                self.cancel(stream)
            if stream.done and self._active.get(stream.request_id) is stream:
                del self._active[stream.request_id]
        self._note_end()

    def _note_end(self) -> None:
        if not self._active:
            self._ended.set()

    # --- the thread

    def run(self) -> None:
        """Work until `stop`. A fault of the loop itself ends it too; either way every stream ends."""
        last: ArgosyError
        try:
            while not self._stopping.is_set():
                self._turn()
            last = UnavailableError("this worker is stopping")
        except Exception:
            log.exception("the engine thread died")
            last = InternalError("the engine of this worker has died")
        self._dead = True
        self._end_all(last)

    def _turn(self) -> None:
        self._beat = time.monotonic()
        self._take_commands(wait=not self._scheduler.has_work)
        if self._scheduler.has_work:
            self._step()
        self._flush()

    def _take_commands(self, *, wait: bool) -> None:
        with contextlib.suppress(queue.Empty):
            if wait:
                self._inbox.get(timeout=_IDLE_S)()
            while True:
                self._inbox.get_nowait()()

    def _step(self) -> None:
        began = time.monotonic()
        step = self._scheduler.schedule(began)
        try:
            outputs = self._compute(step)
        except Exception:
            log.exception("a step of %d requests failed; they end, the engine goes on", len(step.requests))
            for request in self._scheduler.fail(step):
                self._end(request.request_id, InternalError("the engine failed in a step of this request"))
            return
        now = time.monotonic()
        self._measure(step, now - began)
        for progress in self._scheduler.update(step, outputs):
            reply = self._replies[progress.request.request_id]
            item = reply.advance(progress, now)
            if item is None:
                continue
            self._outbox.append((reply.stream, item))
            if isinstance(item, ArgosyError) or item.finish is not None:
                self._scheduler.remove(reply.request.request_id)  # a stop string ended it; else it is gone already
                del self._replies[reply.request.request_id]

    def _compute(self, step: Step) -> list[StepOutput]:
        outputs = self._runner.launch(step.batch).result()
        if len(outputs) != len(step.requests):
            raise RuntimeError(f"the runner gave {len(outputs)} outputs for {len(step.requests)} slices")
        return outputs

    def _measure(self, step: Step, seconds: float) -> None:
        generating = step.generating
        rows = sum(len(piece.tokens) for piece in step.batch.slices[:generating])
        self._rate.add(step.batch.num_tokens - rows, generating, seconds)
        if self._rate.measured:
            self._scheduler.prefill_rate = self._rate.measured
        self._metrics.step(seconds, step.batch.num_tokens, step.preempted)

    def _flush(self) -> None:
        """Hand everything to the event loop: one call, however many requests the step had."""
        self.view = view_of(self._scheduler, accepted=self._accepted, prefill_rate=self._rate.measured)
        change = self._scheduler.pool.take_change()
        if self._outbox or change:
            outbox, self._outbox = self._outbox, []
            self._loop.call_soon_threadsafe(self._deliver, outbox, change)

    def _accept(self, request: Request, stream: Stream) -> None:
        self._accepted += 1
        try:
            self._scheduler.add(request)
        except ArgosyError as error:
            self._outbox.append((stream, error))
            return
        self._replies[request.request_id] = Reply(request, stream, self._vocabulary, self._metrics)

    def _drop(self, stream: Stream) -> None:
        reply = self._replies.get(stream.request_id)
        if reply is not None and reply.stream is stream:
            self._scheduler.remove(stream.request_id)
            del self._replies[stream.request_id]
            self._metrics.finished(Finish.ABORT)

    def _abort(self, stream: Stream) -> None:
        reply = self._replies.get(stream.request_id)
        if reply is not None and reply.stream is stream:
            self._scheduler.remove(stream.request_id)
            del self._replies[stream.request_id]
            self._outbox.append((stream, reply.aborted()))

    def _end(self, request_id: str, error: ArgosyError) -> None:
        reply = self._replies.pop(request_id)
        self._metrics.finished(Finish.ERROR)
        self._outbox.append((reply.stream, error))

    def _end_all(self, error: ArgosyError) -> None:
        """The thread ends: nobody may wait for ever. Commands still in the inbox are answered too."""
        with contextlib.suppress(queue.Empty):
            while True:
                self._inbox.get_nowait()()
        for request_id in list(self._replies):
            self._scheduler.remove(request_id)
            self._end(request_id, error)
        with contextlib.suppress(RuntimeError):  # the event loop may be closed by now
            self._flush()
