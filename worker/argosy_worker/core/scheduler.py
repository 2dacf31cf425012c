"""Which tokens the next step computes.

One token budget for each step, spent in this order:

1. requests that generate, one token each (nobody's stream stalls because somebody else's prompt is long);
2. one line of prompts, running (partly computed) and waiting alike, in chunks as large as the budget allows.

`argosy_api.order` says who is first in the line: short work and a large priority, but whoever waits long enough gets
his turn. Because each step asks anew, a short prompt overtakes a long one between two of its chunks; while others wait,
one prompt takes no more than `max_prompt_share` of a step. The order decides when a token is computed, never which
token. A request whose deadline has passed ends before the next step. What a step costs the scheduler depends on who
runs, not on how many wait (`line.py`). Whether anybody may join those who run is for `batching.py` to say; by default
anybody may.

A request is admitted only when all its known tokens fit, and takes their blocks at once (with a sliding window those
that it needs at once: `tables.py`). So only a request that has generated since its admission can run out of blocks, and
every preemption has a new token behind it: there is no thrash without progress. Preempted requests take their place in
the line by the same order as all others, as if no work were left of them; they are recomputed, cheaply while their
blocks are cached.

`schedule` may run while one step is out, so that the next one is ready when it comes back (`request.py` says what a
request knows then). Who ends or is preempted meanwhile may be in the step that is out: its rows are void. A token that
it sampled for a preempted request still counts, since computing it again would give the same.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import inf

from argosy_api.errors import InvalidArgumentError, OverloadedError
from argosy_api.order import Discipline
from argosy_worker.core.ahead import Verdict, can_run_ahead
from argosy_worker.core.batch import SequenceSlice, StepBatch, StepOutput, TokenLogprob
from argosy_worker.core.batching import Batching
from argosy_worker.core.blocks import BlockPool
from argosy_worker.core.config import SchedulerConfig
from argosy_worker.core.drafts import Drafter, Harmless, NoDrafts, drafts_of
from argosy_worker.core.line import Line, Place
from argosy_worker.core.request import Finish, Request
from argosy_worker.core.shares import Deadlines, shares, worth
from argosy_worker.core.tables import Tables, check_fits

_DRAFTS_PART = 4
"""Drafts take at most this part of what generating leaves of a step while prompts wait: else many long drafts would
hold up first tokens."""
NOMINAL_PREFILL_RATE = 1000.0
"""Tokens per second, until something was measured. It only weighs work against ageing."""


@dataclass(frozen=True, slots=True)
class Step:
    """What to compute, and for whom: `requests[i]` owns `batch.slices[i]`."""

    batch: StepBatch
    requests: tuple[Request, ...]
    lives: tuple[int, ...]
    """How often each request had been preempted: a later preemption makes its rows void."""
    generating: int = 0
    """The first so many slices are of requests that generate."""
    preempted: int = 0


@dataclass(frozen=True, slots=True)
class Advance:
    """What a step meant for one request."""

    request: Request
    tokens: Sequence[int] = ()
    """Newly known, in order; `finish` is about the last one."""
    logprobs: Sequence[TokenLogprob] = ()
    """One for each of `tokens`, when asked for."""
    finish: Finish | None = None
    stop_reason: str = ""
    error: str = ""


class Scheduler:
    """Owns the line, the running requests and the block pool. Called by one thread."""

    def __init__(self, config: SchedulerConfig, pool: BlockPool, drafter: Drafter | None = None) -> None:
        self.config = config
        self.pool = pool
        self._drafter = NoDrafts() if drafter is None else Harmless(drafter)
        self._out = 0  # steps that are out
        self._deadlines = Deadlines()
        self.step_tokens = config.max_batch_tokens
        """What a step should compute; who generates is never left out for it."""
        self.prefill_rate = NOMINAL_PREFILL_RATE
        self.running: dict[str, Request] = {}
        """Holding blocks; in order of admission."""
        order, batches = Discipline(config.order, config.ageing), config.forming.mode is not Batching.CONTINUOUS
        # a batch ends before the next one begins, so who is of it comes first
        self.line = Line(pool, discipline=order, rate=NOMINAL_PREFILL_RATE, preempted_first=batches)
        """Waiting for admission."""
        self._tables = Tables(pool, step_tokens=config.max_batch_tokens)
        self._places = 0  # of the batch under way, for those who wait; unused where batches are continuous
        self._watermark = pool.total // 64  # slack, so that an admission is not at once followed by a preemption

    # --- requests come and go

    def add(self, request: Request) -> None:
        """Put a request in the line.

        Raises:
            InvalidArgumentError: it can never fit into the KV cache, or its id is in use.
            OverloadedError: too many requests are here.

        """
        if request.request_id in self.running or request.request_id in self.line:
            raise InvalidArgumentError("request_id", f"{request.request_id!r} is already running here")
        check_fits(request, total=self.pool.total, window_blocks=self.pool.window_blocks)
        most = self.config.max_requests
        if len(self.running) + len(self.line) >= most:
            raise OverloadedError(f"this worker has all the {most} requests that it takes at a time")
        if not self.line:
            self._places = 0  # a batch that nobody waits for any more is complete
        self.line.add(request)
        self._deadlines.add(request)

    def expired(self, now: float) -> list[Request]:
        """End the requests whose deadline has passed; they cost no further step. Returns them."""
        late = self._deadlines.passed(now)
        for request in late:
            self.remove(request.request_id)
        return late

    def remove(self, request_id: str) -> Request | None:
        """End a request, wherever it is, and free its blocks. None when it is not here."""
        request = self.running.pop(request_id, None) or self.line.remove(request_id)
        if request is not None:
            self.pool.release(request.table)
            request.table = ()
            request.ended = True
            self._drafter.ended(request)
        return request

    @property
    def has_work(self) -> bool:
        """Whether there is a request."""
        return bool(self.running or self.line)

    @property
    def due(self) -> float:
        """When a step has something to compute, in monotonic seconds: minus infinity for at once, infinity for never.

        In between, requests wait for others to form a batch with.
        """
        if self.running:
            return -inf
        first = self.line.first()
        if first is None:
            return inf
        if self._places or first[0].preemptions:
            return -inf
        return self.config.forming.begins_at(len(self.line), *self.line.arrivals())

    # --- a step

    def schedule(self, now: float) -> Step:
        """Choose what the next step computes, take the blocks for it, and note it as in flight until `update`.

        At most one earlier step may be out. `now`: monotonic seconds. Without a step that is out, an empty batch is
        returned only before `due`.

        Raises:
            RuntimeError: two steps are out.

        """
        if self._out > 1:
            raise RuntimeError("two steps are out")
        config = self.config
        decoding = [r for r in self.running.values() if r.decoding][: config.max_batch_tokens]
        self._tables.go_on(self.running.values())
        preempted = sum(self._make_room(r) for r in decoding if r.request_id in self.running)
        while not (decoding or self._out) and self._tables.stuck(self.running.values()):
            self._preempt()
            preempted += 1
        decoding = [r for r in decoding if r.request_id in self.running]  # a victim may be among them
        budget = max(self.step_tokens - len(decoding), config.least_prompt_tokens)
        budget = min(budget, config.max_batch_tokens - len(decoding))
        slices: list[SequenceSlice] = []
        spare = budget
        if self.line or len(decoding) < len(self.running):  # prompts wait
            spare = max(0, min(budget - config.least_prompt_tokens, budget // _DRAFTS_PART))
        for request, draft in zip(decoding, drafts_of(decoding, self._drafter, self.pool, spare), strict=True):
            slices.append(request.next_slice(1, draft))
            budget -= len(draft)

        chosen = list(decoding)
        self._places = config.forming.places(
            len(self.line), left=self._places, running=bool(self.running), begins=now >= self.due
        )
        prompts = self._prompts(now, admitting=preempted == 0)  # else whom we admit is the next victim
        for prompt, count in shares(prompts, budget, config.max_prompt_share):
            chosen.append(prompt)
            slices.append(prompt.next_slice(count))
        self._out += 1
        lives = tuple(request.preemptions for request in chosen)
        batch = StepBatch(slices, self.pool.host.take_moves())
        return Step(batch, tuple(chosen), lives, generating=len(decoding), preempted=preempted)

    def update(self, step: Step, outputs: Sequence[StepOutput]) -> list[Advance]:
        """Take in what the runner computed: one `Advance` for each slice whose request is still here, in order.

        Steps are taken in in the order in which they were scheduled. Ended requests are removed.
        """
        self._out -= 1
        return [
            self._advance(request, piece, output, lost=life != request.preemptions)
            for request, piece, life, output in zip(step.requests, step.batch.slices, step.lives, outputs, strict=True)
            if not request.ended
        ]

    def can_run_ahead(self, *, copies: bool) -> Verdict:
        """Whether to schedule while a step is out; `copies`: whether blocks are to be copied between two steps."""
        running = self.running.values()

        def drafts() -> bool:
            return self._drafter.hopes([request for request in running if request.awaited])

        return can_run_ahead(running, blocks=self.pool.available, drafts=drafts, copies=copies)

    def prefilling(self) -> list[Place]:
        """Places of the running requests whose prompt is not computed yet, in order."""
        rank = self.line.rank
        found = [r for r in self.running.values() if r.remaining and not r.decoding]
        return sorted(Place(rank(r, r.remaining), i, r.remaining, r.arrival, r.priority) for i, r in enumerate(found))

    # --- how

    def _prompts(self, now: float, *, admitting: bool) -> Iterator[tuple[Request, int]]:
        """Who has prompt tokens to compute (or to recompute), in order, and how many he could; who waits is admitted on
        the way. Nobody overtakes for want of blocks, or the large would starve.
        """
        self.line.refresh(self.prefill_rate)
        prefilling = [r for r in self.running.values() if r.remaining and not r.decoding]
        ranked = deque(sorted(((self.line.rank(r, r.remaining), i) for i, r in enumerate(prefilling))))
        while True:
            waiting = self.line.first() if admitting else None
            if waiting is not None and not (ranked and ranked[0][0] < waiting[1]):
                request = waiting[0]
                admitting = self._admit(request, now)
                if not admitting:
                    continue
            elif ranked:
                request = prefilling[ranked.popleft()[1]]
                self._tables.grow(request)
            else:
                return
            if request.ready:
                yield request, request.ready
            else:
                admitting = False

    def _admit(self, request: Request, now: float) -> bool:
        again = request.preemptions > 0  # it has had a place
        if len(self.running) >= self.config.max_running or not (self._places or again):
            return False
        if not self._tables.begin(request, slack=self._watermark if self.running else 0):
            return False
        if request.admitted_at is None:
            request.admitted_at = now
            request.cached_tokens = min(request.computed, len(request.prompt))
        self.line.remove(request.request_id)
        self.running[request.request_id] = request
        self._places -= not again
        return True

    def _make_room(self, request: Request) -> int:
        """Give a generating request the block of its next token; returns how many requests were preempted for it."""
        preempted = 0
        while request.request_id in self.running and len(request.table) < request.blocks_wanted:
            if self.pool.available:
                request.table += tuple(self.pool.allocate(1))
            else:
                self._preempt()
                preempted += 1
        return preempted

    def _preempt(self) -> None:
        victim = min(reversed(self.running.values()), key=worth)
        self.pool.release(victim.table)
        victim.restart()
        del self.running[victim.request_id]
        self.line.add(victim)

    def _advance(self, request: Request, piece: SequenceSlice, output: StepOutput, *, lost: bool) -> Advance:
        if output.error is not None or (piece.sample_rows and not output.tokens and not lost):
            self.remove(request.request_id)
            return Advance(request, finish=Finish.ERROR, error=output.error or "the runner sampled no token")
        if lost:
            if request.wants_prompt_rows:  # they come with the first token, and are computed anew
                return Advance(request)
            taken = request.accept(output.tokens)
        else:
            request.landed(piece)
            request.prompt_logprobs += output.prompt_logprobs
            taken = request.accept(output.tokens)
            if piece.draft:
                self.pool.release(request.rollback(piece.draft - min(len(taken), len(output.tokens) - 1)))
            for block_id in self._tables.store(request):
                self.line.stored(block_id)
            self._tables.let_go(request)
        if not taken:
            return Advance(request)
        finish, stop_reason = request.finish_after_last_token() or (None, "")
        if finish is not None:
            self.remove(request.request_id)
        return Advance(request, taken, output.logprobs[: len(taken)], finish, stop_reason)
