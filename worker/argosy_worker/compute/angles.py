"""Rotary positions: how far each pair of numbers turns, and cosines and sines of positions. No torch."""

import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from argosy_worker.arrays import address
from argosy_worker.compute.rope_spec import FactorRope, LinearRope, Llama3Rope, Rope, YarnRope

Floats = npt.NDArray[np.float32]
_CHUNK = 256
_ONE = np.float32(1)


def inverse(rope: Rope) -> tuple[Floats, float]:
    """Angle per position of each pair, fp32 [dims / 2], as the transformers library has it; factor of cos and sin."""
    powers = (rope.theta ** (np.arange(0, rope.dims, 2) / rope.dims)).astype(np.float32)
    base = _ONE / powers
    match rope.scaling:
        case LinearRope(by):
            return base / np.float32(by), 1.0
        case Llama3Rope():
            return _llama3(base, rope.scaling), 1.0
        case YarnRope():
            return _yarn(powers, rope, rope.scaling), rope.scaling.attention_factor
        case FactorRope():
            factors = np.array(rope.scaling.factors, dtype=np.float32)
            return _ONE / (factors * powers), rope.scaling.attention_factor
        case None:
            return base, 1.0


def _llama3(base: Floats, rope: Llama3Rope) -> Floats:
    """Scale by wavelength: long / factor, short as it is, linear in between. Source: Llama 3.1's reference code."""
    wavelength = np.float32(2 * math.pi) / base
    turns = np.float32(rope.original_context) / wavelength
    width = np.float32(rope.high_freq_factor - rope.low_freq_factor)
    ramp = np.clip((turns - np.float32(rope.low_freq_factor)) / width, 0, 1).astype(np.float32)
    scaled: Floats = (_ONE - ramp) * base / np.float32(rope.factor) + ramp * base
    return scaled


def _yarn(powers: Floats, rope: Rope, yarn: YarnRope) -> Floats:
    """Pairs that turn more than `beta_fast` times in the original context stay, less than `beta_slow` are slowed."""

    def pair(turns: float) -> float:
        return rope.dims * math.log(yarn.original_context / (turns * 2 * math.pi)) / (2 * math.log(rope.theta))

    low, high = pair(yarn.beta_fast), pair(yarn.beta_slow)
    if yarn.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, rope.dims - 1)
    places = np.arange(rope.dims // 2, dtype=np.float32)
    ramp = np.clip((places - np.float32(low)) / np.float32((high - low) or 0.001), 0, 1).astype(np.float32)
    scaled: Floats = ramp / (np.float32(yarn.factor) * powers) + (_ONE - ramp) / powers
    return scaled


class Turns:
    """Cosines and sines of the positions that steps have had so far, and some more.

    They are computed in chunks that begin at fixed positions, so a position's bits are always the same. The model's
    file may claim any context; what is held grows with the positions that are really used.
    """

    def __init__(self, rope: Rope) -> None:
        self._inverse, self._factor = inverse(rope)
        self._held = np.empty((2, 0, len(self._inverse)), dtype=np.float32)
        self._places = (0, 0)
        self._known = 0
        self._rows = np.empty((2, 0, len(self._inverse)), dtype=np.float32)

    def __call__(self, positions: npt.NDArray[np.int32]) -> tuple[int, int]:
        """Where cosines and sines of all positions from 0 on lie, these among them; each fp32 [positions, dims / 2].

        They stay there until the next call.
        """
        self._reach(positions)
        return self._places

    def taken(self, positions: npt.NDArray[np.int32]) -> tuple[Floats, Floats]:
        """Cosines and sines of these rows, each fp32 [rows, dims / 2]; the next call writes over them."""
        rows = len(positions)
        self._reach(positions)
        if rows > self._rows.shape[1]:
            self._rows = np.empty((2, 2 * rows, len(self._inverse)), dtype=np.float32)
        for held, out in zip(self._held, self._rows, strict=True):
            np.take(held, positions, axis=0, out=out[:rows], mode="clip")
        return self._rows[0, :rows], self._rows[1, :rows]

    def rows(self, positions: npt.NDArray[np.int64]) -> Floats:
        """Cosines and sines of single positions, which need not be remembered: fp32 [rows, 2, dims / 2]."""
        chunks = [list(self._chunk(int(p) // _CHUNK * _CHUNK)) for p in positions]
        return np.array([[part[p % _CHUNK] for part in chunk] for p, chunk in zip(positions, chunks, strict=True)])

    def _reach(self, positions: npt.NDArray[np.int32]) -> None:
        last = int(positions[0]) if len(positions) == 1 else int(positions.max())
        if last >= self._known:
            self._learn(last)

    def _learn(self, last: int) -> None:
        wanted = (last // _CHUNK + 1) * _CHUNK
        if wanted > self._held.shape[1]:
            held = np.empty((2, max(wanted, 2 * self._held.shape[1]), len(self._inverse)), dtype=np.float32)
            held[:, : self._known] = self._held[:, : self._known]
            self._held = held
            self._places = (address(held[0]), address(held[1]))
        for begin in range(self._known, wanted, _CHUNK):
            for held, chunk in zip(self._held, self._chunk(begin), strict=True):
                held[begin : begin + _CHUNK] = chunk
        self._known = wanted

    def _chunk(self, begin: int) -> Iterator[Floats]:
        positions = np.arange(begin, begin + _CHUNK, dtype=np.float32)
        angles = (positions[:, None] * self._inverse).astype(np.float64)
        for function in (np.cos, np.sin):
            yield function(angles).astype(np.float32) * np.float32(self._factor)
