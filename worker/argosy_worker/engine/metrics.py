"""The Prometheus metrics of a worker."""

from collections import deque
from collections.abc import Callable
from typing import Protocol, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, disable_created_metrics
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from argosy_api import metric_names as names
from argosy_api import plain_metrics as plain
from argosy_worker.core.request import Finish
from argosy_worker.engine.report import LoadView, Tokens
from argosy_worker.speculation.speculator import Counts

_KEPT_GAPS = 512
_KEPT_STEPS = 512
_ODD_STEPS = 3
"""So many of the slowest steps may be accidents: the first one, one in which the process was stopped."""

_M = TypeVar("_M")


class Pulse(Protocol):
    """The engine, as far as health and gauges look at it."""

    @property
    def view(self) -> LoadView:
        """State between two steps."""
        ...

    @property
    def alive(self) -> bool:
        """Whether its thread can still make steps."""
        ...

    @property
    def busy(self) -> bool:
        """Whether there is a request."""
        ...

    @property
    def last_step_age(self) -> float:
        """Seconds since its loop came around."""
        ...


class WorkerMetrics:
    """All metrics of one worker, in a registry of their own.

    What tokens, steps and requests come to is counted by the engine's thread alone, and so in plain numbers.
    """

    def __init__(self, *, model: str, worker: str) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a third of the page, which nobody asks for
        self.registry = CollectorRegistry()
        GCCollector(self.registry)
        PlatformCollector(self.registry)
        ProcessCollector(registry=self.registry)
        self._labels = {"model": model, "worker": worker}
        self._here = (model, worker)
        self.tokens = Tokens()
        self._requests = self._make(plain.Counter, names.WORKER_REQUESTS, "Requests that ended", ("reason",))
        self._prompt_tokens = self._count(names.WORKER_PROMPT_TOKENS, "Prompt tokens of requests that got a token")
        self._cached_tokens = self._count(names.WORKER_CACHED_TOKENS, "Of these, found in the prefix cache")
        self._computed_tokens = self._count(names.WORKER_COMPUTED_TOKENS, "Of these, not found there")
        self._generated = self._count(names.WORKER_GENERATED_TOKENS, "Generated tokens")
        self._preemptions = self._count(names.WORKER_PREEMPTIONS, "Requests that lost their blocks and are recomputed")
        self._step_seconds = self._histogram(names.WORKER_STEP_SECONDS, "Time of a step", names.GAPS)
        self._step_tokens = self._histogram(names.WORKER_STEP_TOKENS, "Tokens of a step", names.LENGTHS)
        self._ttft = self._histogram(names.WORKER_TTFT_SECONDS, "From arrival to the first token", names.SECONDS)
        self._itl = self._histogram(names.WORKER_ITL_SECONDS, "Between two tokens of a request", names.GAPS)
        self._gaps: deque[float] = deque(maxlen=_KEPT_GAPS)
        self._steps: deque[float] = deque(maxlen=_KEPT_STEPS)
        self._queue = self._histogram(names.WORKER_QUEUE_SECONDS, "From arrival to admission", names.SECONDS)
        self._whole = self._histogram(names.WORKER_REQUEST_SECONDS, "From arrival to the last token", names.SECONDS)
        self._prefill = self._histogram(
            names.WORKER_PREFILL_SECONDS, "From admission to the first token", names.SECONDS
        )
        self._decode = self._histogram(
            names.WORKER_DECODE_SECONDS, "From the first token to the last one", names.SECONDS
        )
        self._pace = self._histogram(
            names.WORKER_TOKEN_SECONDS, "Between tokens of a request, its mean; 0 of one token", names.GAPS
        )
        self._prompt_length = self._histogram(names.WORKER_PROMPT_LENGTH, "Tokens of a prompt", names.LENGTHS)
        self._answer_length = self._histogram(names.WORKER_ANSWER_LENGTH, "Tokens of an answer", names.LENGTHS)
        self._drafts = self._count(names.WORKER_DRAFTS, "Guesses ahead, one for each request and step that had one")
        self._drafted = self._count(names.WORKER_DRAFTED_TOKENS, "Tokens guessed ahead")
        self._accepted = self._count(names.WORKER_ACCEPTED_TOKENS, "Of these, right")
        self._accepted_length = self._level(names.WORKER_ACCEPTED_LENGTH, "Right tokens of a guess, mean of the latest")
        self._saved = self._level(names.WORKER_SPECULATION_SAVED, "Time that guesses saved, less what they cost")
        moved = self._make(plain.Counter, names.WORKER_HOST_MOVES, "KV blocks copied to host memory or back", ("to",))
        self._moved_out, self._moved_back = (moved.labels(*self._here, to) for to in ("host", "device"))
        self._move_seconds = self._count(names.WORKER_HOST_SECONDS, "Time of steps that went into these copies")
        self.exported = self._counter(names.WORKER_BLOCKS_EXPORTED, "KV blocks sent to other workers")
        self._imported = self._counter(names.WORKER_BLOCKS_IMPORTED, "KV blocks fetched from other workers")
        self._imports = self._make(Counter, names.WORKER_IMPORTS, "Fetches from other workers", ("result",))
        for result in ("whole", "part", "failed", "refused"):
            self._imports.labels(**self._labels, result=result)
        self.transfer_rate = self._gauge(names.WORKER_TRANSFER_RATE, "Measured speed of fetched blocks")
        self.events_dropped = self._counter(names.WORKER_EVENTS_DROPPED, "KV event batches that Redis never got")
        self.redis_up = self._gauge(names.WORKER_REDIS_UP, "1 while Redis takes our events")

    def step(self, seconds: float, tokens: int, preempted: int) -> None:
        """A step was computed."""
        self._step_seconds.observe(seconds)
        self._steps.append(seconds)
        self._step_tokens.observe(tokens)
        if preempted:
            self._preemptions.inc(preempted)

    def speculation(self, counts: Counts, accepted_length: float, saved_s: float) -> None:
        """What came of a step's drafts, and of all so far."""
        if counts.drafts:
            self._drafts.inc(counts.drafts)
            self._drafted.inc(counts.drafted)
            self._accepted.inc(counts.accepted)
        self._accepted_length.set(accepted_length)
        self._saved.set(saved_s)

    def moved(self, out: int, back: int, seconds: float) -> None:
        """Evicted blocks were copied to host memory, and others came back."""
        self._moved_out.inc(out)
        self._moved_back.inc(back)
        self._move_seconds.inc(seconds)

    def first_token(self, *, queued_s: float, ttft_s: float, prompt_tokens: int, cached_tokens: int) -> None:
        """A request got its first token."""
        self._queue.observe(queued_s)
        self._ttft.observe(ttft_s)
        self._prompt_tokens.inc(prompt_tokens)
        self._cached_tokens.inc(cached_tokens)
        self._computed_tokens.inc(prompt_tokens - cached_tokens)
        self._generated.inc()
        self.tokens.prompt += prompt_tokens
        self.tokens.cached += cached_tokens
        self.tokens.generated += 1

    def next_tokens(self, gap_s: float, count: int) -> None:
        """A request got more tokens, which share the time since the last one."""
        self._itl.observe(gap_s, count)
        for _ in range(count):
            self._gaps.append(gap_s)
        self._generated.inc(count)
        self.tokens.generated += count

    def whole(self, *, took_s: float, prefill_s: float, decode_s: float, prompt_tokens: int, tokens: int) -> None:
        """A request ended by itself, after `tokens` of its own."""
        self._whole.observe(took_s)
        self._prefill.observe(prefill_s)
        self._decode.observe(decode_s)
        self._pace.observe(decode_s / (tokens - 1) if tokens > 1 else 0.0)
        self._prompt_length.observe(prompt_tokens)
        self._answer_length.observe(tokens)

    def latest_gap(self) -> float:
        """The 90th percentile of the latest gaps between tokens, in seconds; 0 before there is one. Any thread."""
        gaps = sorted(self._gaps.copy())
        return gaps[9 * len(gaps) // 10] if gaps else 0.0

    def slow_step(self) -> float:
        """The 99th percentile of the latest steps, in seconds; 0 before there is one. Any thread.

        Of few steps it is no more than their median: the slowest of them, which one pause makes, says nothing of the
        next one.
        """
        steps = sorted(self._steps.copy())
        if not steps:
            return 0.0
        count = len(steps)
        return steps[min(99 * count // 100, max(count - 1 - _ODD_STEPS, (count - 1) // 2))]

    def finished(self, reason: Finish) -> None:
        """A request ended."""
        self._requests.labels(*self._here, reason.value).inc()

    def imported(self, result: str, blocks: int) -> None:
        """A fetch from another worker ended."""
        self._imports.labels(**self._labels, result=result).inc()
        self._imported.inc(blocks)

    def watch(self, engine: Pulse, *, block_size: int) -> None:
        """Gauges that look at the engine when they are scraped. `block_size` in tokens."""
        reads: list[tuple[str, str, Callable[[], float]]] = [
            (names.WORKER_REQUESTS_RUNNING, "Requests that hold blocks", lambda: engine.view.running),
            (names.WORKER_REQUESTS_WAITING, "Requests that wait for admission", lambda: engine.view.waiting),
            (names.WORKER_PREFILL_RATE, "Measured speed of prompts", lambda: engine.view.prefill_rate),
            (names.WORKER_KV_USED, "Of the KV cache's blocks, held by running requests", lambda: engine.view.kv_used),
            (names.WORKER_LAST_STEP_AGE, "Heartbeat of the engine's loop", lambda: engine.last_step_age),
        ]
        for name, text, read in reads:
            self._gauge(name, text).set_function(read)
        blocks = self._make(Gauge, names.WORKER_BLOCKS, "KV cache blocks by state", ("state",))
        states: dict[str, Callable[[], float]] = {
            "free": lambda: engine.view.free_blocks,
            "cached": lambda: engine.view.cached_blocks,
            "used": lambda: engine.view.used_blocks,
        }
        for state, read in states.items():
            blocks.labels(**self._labels, state=state).set_function(read)
        told = {"block_size": str(block_size), "blocks": str(engine.view.total_blocks)}
        self._make(Gauge, names.WORKER_KV_INFO, "The KV cache", tuple(told)).labels(**self._labels, **told).set(1)
        host = self._make(Gauge, names.WORKER_HOST_BLOCKS, "Room for evicted KV blocks in host memory", ("state",))
        host.labels(**self._labels, state="free").set_function(lambda: engine.view.host_free_blocks)
        host.labels(**self._labels, state="cached").set_function(lambda: engine.view.host_cached_blocks)

    def _make(self, kind: Callable[..., _M], name: str, text: str, more: tuple[str, ...] = ()) -> _M:
        return kind(name, text, (*self._labels, *more), registry=self.registry)

    def _counter(self, name: str, text: str) -> Counter:
        return self._make(Counter, name, text).labels(*self._here)

    def _gauge(self, name: str, text: str) -> Gauge:
        return self._make(Gauge, name, text).labels(*self._here)

    def _count(self, name: str, text: str) -> plain.Count:
        return self._make(plain.Counter, name, text).labels(*self._here)

    def _level(self, name: str, text: str) -> plain.Level:
        return self._make(plain.Gauge, name, text).labels(*self._here)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> plain.Distribution:
        made = plain.Histogram(name, text, tuple(self._labels), registry=self.registry, buckets=buckets)
        return made.labels(*self._here)
