"""Runs steps of a model on torch."""

from collections.abc import Sequence
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from argosy_worker.arrays import sent
from argosy_worker.compute import beside
from argosy_worker.compute.adapted import Adapted, Held
from argosy_worker.compute.adapter import StepAdapters
from argosy_worker.compute.attention.backend import AttentionBackend
from argosy_worker.compute.config import DecoderConfig
from argosy_worker.compute.decoder import Decoder
from argosy_worker.compute.graphs import Graphs
from argosy_worker.compute.pooling import Floats
from argosy_worker.compute.runner import StepRunner
from argosy_worker.core.batch import Pending, SequenceSlice, StepBatch
from argosy_worker.core.layout import make_layout
from argosy_worker.sampling.contract import Sampler
from argosy_worker.sampling.sampler import TORCH

_PARALLEL_WORK = 200_000_000
_PARALLEL_WEIGHTS = 16_000_000
"""Multiply-adds of a layer in a step, and weights of a layer, from which on a step uses all threads. Handing a small
operation to a sleeping thread costs more than it saves: with SmolLM2-135M (3.5 million weights a layer) on 2 cores a
step of one row takes 18 ms with one thread and 30 with two, of 16 rows 52 and 70, of 32 rows 80 and 65."""


class TorchRunner(StepRunner):
    """A runner over a decoder and its attention."""

    def __init__(
        self, decoder: Decoder, attention: AttentionBackend, *, threads: int, sampler: Sampler = TORCH,
        graphs: Graphs | None = None, asynchronous: bool = False,
    ) -> None:  # fmt: skip
        """`graphs`: of the decoder's layers, over the same attention.

        `asynchronous`: whether the layers wait for nothing, so that a launched step is computed beside the host. Tokens
        are drawn by `sampling.together` then.
        """
        super().__init__(attention.cache, sampler)
        self._decoder, self._attention, self._threads, self._graphs = decoder, attention, threads, graphs
        self._held: Held = WeakKeyDictionary()
        self.asynchronous = asynchronous
        """Whether steps are computed beside the host."""
        self._steps = beside.Steps(self._compute, decoder.device) if asynchronous else None

    def launch(self, batch: StepBatch) -> Pending:
        """Compute a step, or begin it; one output for each slice, in order. Writes the KV of all its tokens."""
        with torch.inference_mode():
            slices, steps = batch.slices, self._steps
            if steps is None or not slices:
                return super().launch(batch)
            self.store.move(batch.moves)
            if beside.waits(slices):
                return steps.at_once(slices, lambda: self._answers(slices, self._compute(slices)))
            return steps.launch(slices)

    def prepare(self) -> bool:
        """Record a graph of steps that are likely to come, as `core.batch.prepares` says."""
        if self._graphs is None:
            return False
        with torch.inference_mode():
            return self._graphs.record_one()

    def _hidden(self, slices: Sequence[SequenceSlice], rows: int) -> Tensor:
        torch.set_num_threads(threads_for(self._decoder.config, rows, self._threads))
        device = self._decoder.device
        layout = make_layout(slices, self._attention.cache.spec.block_size)
        if self._steps is not None:
            tokens = self._steps.last.filled(slices)
        else:
            tokens = sent(np.concatenate([np.asarray(s.tokens, dtype=np.int64) for s in slices]), device)
        found = StepAdapters.of(slices)
        if self._graphs is not None and found is None:
            hidden = self._graphs(self._decoder.embedded(tokens), layout)
            if hidden is not None:
                return hidden
        self._attention.prepare(layout)
        positions = sent(layout.positions, device)
        adapted = None if found is None else Adapted(found, device, self._held)
        return self._decoder.hidden(tokens, positions, self._attention, adapted)

    def _sound(self, hidden: Tensor) -> Tensor:
        return hidden.float().sum(-1).isfinite()

    def _normed(self, hidden: Tensor) -> Floats:
        return self._decoder.normed(hidden)

    def _logits(self, hidden: Tensor) -> Tensor:
        return self._decoder.logits(hidden)


def threads_for(config: DecoderConfig, rows: int, threads: int) -> int:
    """Threads that torch takes for a step of so many rows; at most `threads`."""
    weights = config.layer_weights
    return threads if weights >= _PARALLEL_WEIGHTS or rows * weights >= _PARALLEL_WORK else 1
