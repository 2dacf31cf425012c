"""The engine, as the event loop sees it: submit a request, read its stream, cancel it, drain, ask for the load.

event loop                                    engine thread (`thread.py`)
submit, cancel, abort, drain ──► inbox ──►    commands between two steps
streams, KV event log        ◄── one call ◄── per step: all chunks and cache changes of the step
"""

import asyncio
import contextlib
import secrets
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from math import inf

from argosy_api import limits
from argosy_api.blocks import root_id
from argosy_api.errors import (
    ArgosyError,
    CancelledError,
    InvalidArgumentError,
    OverloadedError,
    UnavailableError,
)
from argosy_api.params import SamplingParams
from argosy_api.v1 import worker_pb2 as pb
from argosy_worker.core.batch import Adapter, BlockStore, Runner
from argosy_worker.core.blocks import CacheChange
from argosy_worker.core.exchange import Exchange
from argosy_worker.core.facts import ModelFacts
from argosy_worker.core.pool import Pool
from argosy_worker.core.request import Request
from argosy_worker.core.rules import Grammar
from argosy_worker.core.tables import check_fits
from argosy_worker.engine.config import EngineConfig
from argosy_worker.engine.detokenize import vocabulary
from argosy_worker.engine.exchange import BlockExchange
from argosy_worker.engine.metrics import WorkerMetrics
from argosy_worker.engine.preparing import Prepare, Preparing
from argosy_worker.engine.report import LoadView, Queued
from argosy_worker.engine.stream import Stream
from argosy_worker.engine.thread import DEAD, EngineThread, Outbox
from argosy_worker.engine.trace import StepTrace
from argosy_worker.speculation.draft_model import DraftModel

_ABORT_S = 5.0
"""How long draining waits for its aborts, at most."""


class Engine:
    """See the module's docstring. All methods are for the event loop, but for `run`, which is the thread."""

    def __init__(
        self,
        *,
        facts: ModelFacts,
        runner: Runner,
        store: BlockStore,
        config: EngineConfig,
        metrics: WorkerMetrics,
        on_cache_change: Callable[[CacheChange], None],
        loop: asyncio.AbstractEventLoop,
        draft: DraftModel | None = None,
        trace: StepTrace | None = None,
    ) -> None:
        """May be called in any thread.

        Raises:
            ModelInvalidError: the model's tokenizer cannot be used.

        """
        self.facts = facts
        self.trace = trace
        """What the latest steps computed, if that is noted."""
        self.config = config
        self.draining = False
        self._loop = loop
        self._metrics = metrics
        self._on_cache_change = on_cache_change
        self._active: dict[str, Stream] = {}
        self._submitted = 0
        self._reports = 0
        self._unseen: deque[tuple[int, Queued]] = deque()
        self._ended = asyncio.Event()
        self._thread = EngineThread(
            runner=runner,
            config=config,
            vocabulary=vocabulary(facts.decoding),
            metrics=metrics,
            draft=draft,
            trace=trace,
            deliver=lambda outbox, change: loop.call_soon_threadsafe(self._deliver, outbox, change),
        )
        scheduler = self._thread.scheduler
        self.blocks = BlockExchange(self._thread, Exchange(scheduler.pool, store, scheduler.line.stored), store, loop)
        """The cache's blocks, for other workers and from them."""
        self._preparing = Preparing(self._begin)
        self.run = self._thread.run
        self.stop = self._thread.stop

    # --- requests

    def submit(
        self,
        request_id: str,
        attempt: int,
        prompt: Sequence[int],
        params: SamplingParams,
        *,
        salt: str = "",
        adapter: Adapter | None = None,
        priority: int = 0,
        deadline: float = inf,
        resumed: Sequence[int] = (),
        resumed_text_bytes: int = 0,
        prepare: Prepare | None = None,
        grammar: Grammar | None = None,
        pool: Pool | None = None,
    ) -> Stream:
        """Take a request whose fields are checked. Its stream must be read, or given to `cancel`.

        A higher attempt of a request that is still here replaces it. With `prepare` it begins once that has ended.
        `deadline`: in monotonic seconds. `resumed`: the answer's first tokens, which are there already, with so many
        bytes of their text; the stream begins after them. It ends with InvalidArgumentError where no attempt can have
        got so far. `grammar`: what the answer is constrained to, and `pool`: what makes its prompt's embedding; of this
        request alone.

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
            root=root_id(self.facts.fingerprint, adapter=adapter.digest if adapter is not None else "", salt=salt),
            adapter=adapter,
            block_size=self.config.block_size,
            arrival=now,
            max_model_len=self.config.max_model_len,
            eos_token_ids=frozenset(self.facts.eos_token_ids),
            priority=priority,
            deadline=deadline,
            resumed=resumed,
            resumed_text_bytes=resumed_text_bytes,
            grammar=grammar,
            pool=pool,
        )
        check_fits(request, total=self.config.num_blocks, window_blocks=self.config.window_blocks)
        former = self._active.get(request_id)
        if former is not None:
            former.fail(CancelledError(f"replaced by attempt {attempt}"))
            self.cancel(former)
        self._submitted += 1
        stream = self._active[request_id] = Stream(request_id, attempt, number=self._submitted)
        self._forget_seen()
        self._unseen.append((self._submitted, Queued(len(request.tokens), now, priority)))
        self._thread.ask(self._thread.announce)
        if prepare is None or not request.usable_blocks:
            self._begin(request, stream)
        else:
            self._preparing.add(request, stream, prepare)
        return stream

    def cancel(self, stream: Stream) -> None:
        """Nobody reads the stream any more: end its request and free its blocks. Does nothing when it has ended."""
        if self._active.get(stream.request_id) is stream:
            del self._active[stream.request_id]
            self._preparing.drop(stream)
            self._thread.ask(lambda: self._thread.drop(stream))
            self._note_end()

    async def abort(self, request_id: str) -> bool:
        """End a request and free its blocks; its stream closes with finish reason ABORT. False when it is not here."""
        stream = self._active.get(request_id)
        if stream is None:
            return False
        self._preparing.begin(stream)  # the thread ends only what it knows
        done = self._loop.create_future()

        def settle() -> None:
            if not done.done():  # the caller may have given up
                done.set_result(None)

        self._thread.ask(lambda: self._thread.abort(stream), then=lambda: self._loop.call_soon_threadsafe(settle))
        if self._thread.alive:
            await done
        return True

    async def drain(self, timeout_s: float) -> tuple[int, int]:
        """Take no new requests; wait for those here, at most `timeout_s`, then abort the rest. (finished, aborted)."""
        self.draining = True
        before = len(self._active)
        deadline = time.monotonic() + timeout_s
        while self._active and self.alive and (left := deadline - time.monotonic()) > 0:
            self._ended.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._ended.wait()
        rest = list(self._active)
        with contextlib.suppress(TimeoutError):  # a step that hangs must not make draining hang
            async with asyncio.timeout(_ABORT_S):
                await asyncio.gather(*map(self.abort, rest))
        return before - len(rest), len(rest)

    def give_up(self, error: ArgosyError) -> None:
        """End all streams without the thread, which may wait for what never comes, and take no new requests."""
        self.draining = True
        for stream in self._active.values():
            self._preparing.drop(stream)
            stream.fail(error)
        self._active.clear()
        self._note_end()

    # --- health (any thread)

    @property
    def alive(self) -> bool:
        """Whether the thread can still make steps."""
        return self._thread.alive

    @property
    def failure(self) -> str:
        """What the thread died of; empty when it did not."""
        return self._thread.failure

    @property
    def last_step_age(self) -> float:
        """Seconds since the loop of the thread last came around."""
        return self._thread.last_step_age

    @property
    def view(self) -> LoadView:
        """State between two steps."""
        return self._thread.view

    @property
    def busy(self) -> bool:
        """Whether there is a request."""
        return bool(self._active)

    def load(self, *, worker_id: str, epoch: int) -> pb.Load:
        """The report for routers. Event loop only."""
        view = self._forget_seen()
        self._reports += 1
        return view.to_proto(
            worker_id=worker_id,
            epoch=epoch,
            sequence=self._reports,
            accepted=self._submitted,
            now=time.monotonic(),
            unseen=[*self._preparing.queued(), *(entry for _, entry in self._unseen)],
            age=self.last_step_age,
            draining=self.draining,
            transfer_rate=self.blocks.rate.measured,
            inter_token_s=self._metrics.latest_gap(),
            slow_step_s=self._metrics.slow_step(),
            tokens=self._metrics.tokens,
        )

    # --- inside

    def _begin(self, request: Request, stream: Stream) -> None:
        self._thread.ask(lambda: self._thread.begin(request, stream))
        if not self._thread.alive:  # it died at this moment, and may not have seen the command
            self._deliver([(stream, UnavailableError(DEAD))], CacheChange((), ()))

    def _forget_seen(self) -> LoadView:
        """The engine thread's view, and only what it has not seen yet kept beside it, whether anybody asks or not."""
        view = self.view
        while self._unseen and self._unseen[0][0] <= view.accepted:
            self._unseen.popleft()
        return view

    def _check_open(self, request_id: str, attempt: int) -> None:
        if not self.alive:
            raise UnavailableError(DEAD)
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

    def _deliver(self, outbox: Outbox, change: CacheChange) -> None:
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
