"""Steps in which a token is plainly drawn after every row: from tokens to tokens in one call of the kernels.

Most steps of most servers are such ones. The kernels are those that other steps call one after the other, so the tokens
are the same; what is saved is the Python between the calls, which waits for memory more than it computes.
"""

import ctypes
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from argosy_worker.arrays import address
from argosy_worker.compute.native import library
from argosy_worker.compute.native.decoder import NativeDecoder
from argosy_worker.compute.native.picking import draw_of
from argosy_worker.compute.native.stack import Floats, Stack
from argosy_worker.core.batch import SequenceSlice


def plain(piece: SequenceSlice) -> bool:
    """Whether all that a slice wants is a token after each of its rows, of which no single one is ruled out."""
    params = piece.params
    return (
        len(piece.sample_rows) == len(piece.tokens)
        and piece.rules is None
        and piece.adapter is None
        and piece.pool is None
        and not (piece.barred_rows or piece.prompt_targets)
        and params.logprobs is None
        and (params.typical_p >= 1 or params.greedy)
    )


class WholeSteps:
    """Of one decoder. Used by one thread at a time."""

    def __init__(self, decoder: NativeDecoder) -> None:
        config = decoder.config
        self._decoder, self._hidden = decoder, config.hidden
        self._table: npt.NDArray[np.uint8] = decoder.embed.raw
        self._ends = library.Ends(
            address(self._table), config.embed_scale, decoder.head.struct, address(decoder.final_norm), config.rms_eps
        )
        self._x: Floats = np.empty((0, self._hidden), dtype=np.float32)
        self._tokens = np.empty((2, 0), dtype=np.int32)
        self._greedy = (library.Draw * 0)()

    @staticmethod
    def able(decoder: NativeDecoder) -> bool:
        """Whether the kernels look up this embedding, and nothing is done to logits behind the head."""
        config, raw = decoder.config, decoder.embed.raw
        return (
            decoder.embed.format == "Q8_0"
            and bool(raw.flags.c_contiguous)
            and raw.size >= config.vocab_size * config.hidden // 32 * 34
            and config.logit_divisor == 1
            and not config.logit_softcap
        )

    def __call__(
        self, slices: Sequence[SequenceSlice], rows: int, stack: Stack, step: library.Step, logits: Floats
    ) -> list[int]:
        """The token after each row; -1 where its logits, fp32 [rows, vocab] in the room given, are no numbers."""
        if rows > len(self._x):
            self._x = np.empty((rows, self._hidden), dtype=np.float32)
            self._tokens = np.empty((2, rows), dtype=np.int32)
            self._greedy = (library.Draw * rows)()
        tokens, picked = self._tokens
        tokens[:rows] = [token for s in slices for token in s.tokens]
        self._decoder.crew.step(
            stack.layers, step, stack.cosines, stack.sines, self._ends, address(tokens), self._draws(slices, rows),
            address(self._x), address(logits), address(picked),
        )  # fmt: skip
        found: list[int] = picked[:rows].tolist()
        return found

    def _draws(self, slices: Sequence[SequenceSlice], rows: int) -> "ctypes.Array[library.Draw]":
        if all(s.params.greedy for s in slices):
            return self._greedy  # a draw of zeros takes the highest logit
        draws = [draw_of(s.params, s.params.seed or 0, s.start + i + 1) for s in slices for i in range(len(s.tokens))]
        return (library.Draw * rows)(*draws)
