"""How loaded the engine is: an immutable view that the engine thread leaves behind after each turn."""

from collections.abc import Sequence
from dataclasses import dataclass
from heapq import merge

from argosy_api import limits
from argosy_api.v1 import worker_pb2 as pb
from argosy_worker.core.line import Place
from argosy_worker.core.scheduler import Scheduler


@dataclass(frozen=True, slots=True)
class Queued:
    """A request whose prompt is not computed yet."""

    uncached_tokens: int
    arrival: float
    """Monotonic seconds."""
    priority: int


@dataclass(slots=True)
class Tokens:
    """Counts since the process began."""

    prompt: int = 0
    """Of requests that got a token."""
    cached: int = 0
    """Of these, found in the prefix cache."""
    generated: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadView:
    """State of scheduler and pool between two steps."""

    accepted: int = 0
    """Submissions that the engine thread has seen."""
    running: int = 0
    waiting: int = 0
    total_blocks: int = 0
    free_blocks: int = 0
    cached_blocks: int = 0
    used_blocks: int = 0
    host_free_blocks: int = 0
    host_cached_blocks: int = 0
    prefill_rate: float = 0.0
    """Measured tokens per second; 0 until something was measured."""
    prefilling: Sequence[Place] = ()
    """Running requests whose prompt is not computed yet, in order."""
    line: Sequence[Place] = ()
    """The first MAX_REPORTED waiting ones, in order."""
    uncached_tokens: int = 0
    decode_tokens: int = 0

    @property
    def kv_used(self) -> float:
        """Of all blocks those that requests hold, 0 to 1: what is cached for nobody counts as free."""
        return self.used_blocks / self.total_blocks if self.total_blocks else 0.0

    def to_proto(
        self,
        *,
        worker_id: str,
        epoch: int,
        sequence: int,
        accepted: int,
        now: float,
        unseen: Sequence[Queued],
        age: float,
        draining: bool,
        transfer_rate: float = 0.0,
        inter_token_s: float = 0.0,
        slow_step_s: float = 0.0,
        tokens: Tokens | None = None,
    ) -> pb.Load:
        """The report, number `sequence` of its epoch.

        `accepted`: all submissions so far. `unseen`: those that the engine thread has not seen yet; they wait as well.
        """
        known = [
            Queued(place.uncached_tokens, place.arrival, place.priority) for place in merge(self.prefilling, self.line)
        ]
        queue = [*known, *unseen][: limits.MAX_REPORTED]
        tokens = tokens or Tokens()
        return pb.Load(
            worker_id=worker_id,
            epoch=epoch,
            running=self.running,
            waiting=self.waiting + len(unseen),
            total_blocks=self.total_blocks,
            free_blocks=self.free_blocks,
            cached_blocks=self.cached_blocks,
            used_blocks=self.used_blocks,
            prefill_tokens_per_second=self.prefill_rate,
            queue=[
                pb.QueuedWork(
                    uncached_tokens=q.uncached_tokens, waited_seconds=max(0.0, now - q.arrival), priority=q.priority
                )
                for q in queue
            ],
            last_step_age_seconds=age,
            draining=draining,
            uncached_tokens=self.uncached_tokens + sum(q.uncached_tokens for q in unseen),
            decode_tokens=self.decode_tokens,
            sequence=sequence,
            accepted=accepted,
            transfer_bytes_per_second=transfer_rate,
            inter_token_seconds=inter_token_s if self.decode_tokens else 0.0,
            slow_step_seconds=slow_step_s,
            prompt_tokens=tokens.prompt,
            cached_tokens=tokens.cached,
            generated_tokens=tokens.generated,
        )


def view_of(scheduler: Scheduler, *, accepted: int, prefill_rate: float) -> LoadView:
    """Look at scheduler and pool. Engine thread only; after each step, so what waits must not be walked through."""
    pool = scheduler.pool
    prefilling = scheduler.prefilling()
    return LoadView(
        accepted=accepted,
        running=len(scheduler.running),
        waiting=len(scheduler.line),
        total_blocks=pool.total,
        free_blocks=pool.free,
        cached_blocks=pool.cached,
        used_blocks=pool.used,
        host_free_blocks=pool.host.free,
        host_cached_blocks=pool.host.cached,
        prefill_rate=prefill_rate,
        prefilling=prefilling,
        line=scheduler.line.head(limits.MAX_REPORTED),
        uncached_tokens=scheduler.line.uncached_tokens + sum(place.uncached_tokens for place in prefilling),
        decode_tokens=sum(r.computed for r in scheduler.running.values() if r.decoding),
    )
