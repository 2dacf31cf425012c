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
from argosy_worker.compute.pooling import normed
from argosy_worker.compute.runner import StepRunner
from argosy_worker.core.batch import SequenceSlice
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
        if count > len(self._room):
            self._room = np.empty((count, config.vocab_size), dtype=np.float32)
        logits = self._room[:count]
        decoder.crew.logits(decoder.head.struct, self._norm, config.rms_eps, address(hidden), count, address(logits))
        if config.logit_divisor != 1:
            logits /= np.float32(config.logit_divisor)
        if cap := config.logit_softcap:
            for row in logits:  # each by itself: its bits do not depend on its company
                row[:] = np.tanh(row / np.float32(cap)) * np.float32(cap)
        return logits
