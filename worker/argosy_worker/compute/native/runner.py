"""Runs steps on the native kernels from the embedding to the token. No torch."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from argosy_worker.arrays import address
from argosy_worker.compute.adapter import StepAdapters
from argosy_worker.compute.angles import Turns
from argosy_worker.compute.native.cache import NativeKvCache
from argosy_worker.compute.native.decoder import NativeDecoder
from argosy_worker.compute.native.picking import sampler
from argosy_worker.compute.native.stack import Floats, Stack
from argosy_worker.compute.native.whole import WholeSteps, plain
from argosy_worker.compute.pooling import normed
from argosy_worker.compute.runner import FAULT, StepRunner
from argosy_worker.core.batch import Finished, Pending, SequenceSlice, StepBatch, StepOutput, accepted
from argosy_worker.core.layout import make_layout


class NativeRunner(StepRunner):
    """A runner over a decoder and a cache."""

    def __init__(self, decoder: NativeDecoder, cache: NativeKvCache) -> None:
        super().__init__(cache, sampler(decoder.crew))
        self._decoder, self._config, self._block_size = decoder, decoder.config, cache.spec.block_size
        self._stack = Stack(decoder.config.layer_specs(), decoder.layers)
        self._stack.bind(cache.places, cache.spec.dtype)
        self._turns = {rope: Turns(rope) for rope in decoder.config.ropes}
        self._norm = address(decoder.final_norm)
        self._room: Floats = np.empty((0, decoder.config.vocab_size), dtype=np.float32)
        self._whole = WholeSteps(decoder) if WholeSteps.able(decoder) else None

    def launch(self, batch: StepBatch) -> Pending:
        """As its base; where nothing but tokens is asked for, the kernels are called once."""
        slices = batch.slices
        if self._whole is None or not slices or not all(map(plain, slices)):
            return super().launch(batch)
        self.store.move(batch.moves)
        rows = batch.num_tokens
        layout = make_layout(slices, self._block_size)
        turned = {rope: turns(layout.positions) for rope, turns in self._turns.items()}
        step = self._stack.step(rows, layout, turned)
        picked = self._whole(slices, rows, self._stack, step, self._logits_room(rows))
        return Finished(self._told(slices, picked))

    @staticmethod
    def _told(slices: Sequence[SequenceSlice], picked: Sequence[int]) -> list[StepOutput]:
        outputs, end = [], 0
        for s in slices:
            begin, end = end, end + len(s.tokens)
            tokens = picked[begin:end]
            if min(tokens) < 0:
                outputs.append(StepOutput(error=FAULT))
            elif s.draft:
                outputs.append(StepOutput(tokens[: accepted(s.tokens[len(s.tokens) - s.draft :], tokens)]))
            else:
                outputs.append(StepOutput(tokens))
        return outputs

    def _hidden(self, slices: Sequence[SequenceSlice], rows: int) -> Floats:
        layout = make_layout(slices, self._block_size)
        tokens = np.array([token for s in slices for token in s.tokens], dtype=np.int64)
        x: Floats = self._decoder.embedded(tokens)
        if self._config.embed_scale != 1:
            x *= np.float32(self._config.embed_scale)
        turned = {rope: turns(layout.positions) for rope, turns in self._turns.items()}
        self._stack(address(x), rows, layout, turned, StepAdapters.of(slices))
        return x

    def _sound(self, hidden: Floats) -> npt.NDArray[np.bool_]:
        return np.array(self._sampler.healthy(hidden))

    def _normed(self, hidden: Floats) -> Floats:
        return normed(hidden, self._decoder.final_norm, self._config.rms_eps)

    def _logits(self, hidden: Floats) -> Floats:
        count, decoder, config = len(hidden), self._decoder, self._config
        logits = self._logits_room(count)
        decoder.crew.logits(decoder.head.struct, self._norm, config.rms_eps, address(hidden), count, address(logits))
        if config.logit_divisor != 1:
            logits /= np.float32(config.logit_divisor)
        if cap := config.logit_softcap:
            for row in logits:  # each by itself: its bits do not depend on its company
                row[:] = np.tanh(row / np.float32(cap)) * np.float32(cap)
        return logits

    def _logits_room(self, rows: int) -> Floats:
        if rows > len(self._room):
            self._room = np.empty((rows, self._config.vocab_size), dtype=np.float32)
        return self._room[:rows]
