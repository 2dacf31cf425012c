"""Layers of a step from a recorded CUDA graph: one call of the host instead of a launch for each kernel.

Recorded are steps of the kinds of `triton.buckets`, each when it is first met, and those that are likely to come while
there is nothing else to do; all others, and those with adapters, are launched kernel by kernel. Embedding, head and
sampling stand outside. What runs in a graph must not wait for the device
or for other processes, so `able` asks the layers.
"""

import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from argosy_worker.compute.attention.backend import AttentionBackend
from argosy_worker.compute.quant.linear import Verdict
from argosy_worker.compute.stack import Stack
from argosy_worker.compute.triton.buckets import Bucket, bucket_of, filled, nothing
from argosy_worker.core.layout import StepLayout

log = logging.getLogger(__name__)

MOST_GRAPHS = 128
"""That are recorded: each holds some memory, of which the cache of keys and values knows nothing."""
MOST_EXPECTED = 96
"""That are recorded before they are met: some room is left for others."""
Record = Callable[[Callable[[], Tensor]], Callable[[], Tensor]]
"""Take what computes on fixed memory, and give what computes it again: its result is in the same place each time."""


class Fixed(Protocol):
    """What attention reads of a step, in memory that stays."""

    @property
    def positions(self) -> Tensor:
        """int32 [rows]."""
        ...


class FixedAttention(AttentionBackend, Protocol):
    """Attention that can be recorded."""

    def fix(self, layout: StepLayout, keys: int) -> Fixed:
        """Make room for a step's arrays; `keys` are those of a sequence at most."""
        ...

    def take(self, fixed: Fixed, layout: StepLayout) -> None:
        """`prepare` in that room, for a step of the same shape."""
        ...


@dataclass(frozen=True, slots=True)
class _Recorded:
    x: Tensor
    fixed: Fixed
    again: Callable[[], Tensor]


class Graphs:
    """Of a stack over its attention, recorded by `record`."""

    def __init__(
        self, stack: Stack, attention: FixedAttention, record: Record, *, longest: int, width: int,
        expected: Sequence[Bucket] = (),
    ) -> None:  # fmt: skip
        """`longest`: the model's context. `width`: numbers of a row between two layers.

        `expected`: what `record_one` is to record, in this order.
        """
        self._stack, self._attention, self._record = stack, attention, record
        self._longest, self._width, self._expected = longest, width, deque(expected)
        self._recorded: dict[Bucket, _Recorded] = {}
        self._off = False

    @property
    def buckets(self) -> frozenset[Bucket]:
        """Those that were recorded."""
        return frozenset(self._recorded)

    def __call__(self, x: Tensor, layout: StepLayout) -> Tensor | None:
        """What the layers make of x [rows, hidden], valid until the next call; None: no graph computes this step."""
        bucket = None if self._off else bucket_of(layout, self._longest)
        if bucket is None or (bucket not in self._recorded and len(self._recorded) >= MOST_GRAPHS):
            return None
        whole = filled(layout, bucket)
        found = self._recorded.get(bucket)
        if found is None:
            found = self._made(bucket, whole)
            if found is None:
                return None
        found.x[: len(x)].copy_(x)
        self._attention.take(found.fixed, whole)
        return found.again()[: len(x)]

    def record_one(self) -> bool:
        """Record one more of those that are expected, and tell whether there are others.

        No step may be out: whatever is launched while a graph is recorded would be recorded, or refused.
        """
        while self._expected and self._expected[0] in self._recorded:
            self._expected.popleft()
        if self._expected and not self._off and len(self._recorded) < MOST_GRAPHS:
            bucket = self._expected.popleft()
            self._made(bucket, filled(nothing(self._attention.cache.spec.block_size), bucket))
        return bool(self._expected) and not self._off and len(self._recorded) < MOST_GRAPHS

    def _made(self, bucket: Bucket, whole: StepLayout) -> _Recorded | None:
        fixed = self._attention.fix(whole, bucket.keys)
        room = torch.zeros((bucket.rows, self._width), dtype=self._stack.dtype, device=self._stack.device)
        self._attention.take(fixed, whole)
        try:
            again = self._record(lambda: self._stack(room, fixed.positions, self._attention))
        except RuntimeError as error:
            self._off = True
            log.warning("graphs are off: %s was not recorded: %s", bucket, error)
            return None
        self._recorded[bucket] = _Recorded(room, fixed, again)
        return self._recorded[bucket]


def able(stack: Stack, attention: AttentionBackend) -> Verdict:
    """Whether steps can be recorded, and why not."""
    if stack.device.type != "cuda":
        return Verdict(ok=False, reason=f"CUDA has graphs, the model is on {stack.device.type}")
    if not hasattr(attention, "fix"):
        return Verdict(ok=False, reason="attention by torch asks the device about each step")
    for layer in stack.layers:
        waits = getattr(layer, "waits", "a layer is not by Triton's kernels")
        if waits:
            return Verdict(ok=False, reason=waits)
    return Verdict(ok=True, reason="steps of single tokens, and of drafts, are recorded when met, or before")


class CudaRecord:
    """`Record` by CUDA. Graphs share memory, as no two compute at once."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, run: Callable[[], Tensor]) -> Callable[[], Tensor]:
        """Compute once, so that nothing is compiled or set up while it is recorded, and record."""
        now, aside = torch.cuda.current_stream(), torch.cuda.Stream()  # type: ignore[no-untyped-call]
        aside.wait_stream(now)
        with torch.cuda.stream(aside):
            run()
        now.wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            out = run()

        def again() -> Tensor:
            graph.replay()
            return out

        return again
