"""Weights as the native kernels hold them (argosy_cpu.h): tiles of 16 outputs, blocks of 32 inputs.

What a checkpoint has in 4 bits keeps its numbers (Q4_0, Q4_1); so does Q8_0. All else is rounded to Q8_0's form.
"""

from collections.abc import Sequence

import numpy as np

from argosy_worker.arrays import address
from argosy_worker.compute.native import library
from argosy_worker.compute.native.arena import Arena, Bytes
from argosy_worker.compute.quant.eight import ROWS_AT_ONCE, rounded
from argosy_worker.compute.quant.formats import QuantTensor
from argosy_worker.compute.quant.precision import OWN_FOUR, OWN_GROUP, OWN_TILE

_BLOCK = {4: 256 + 64, 8: 512 + 32}


def bits_of(formats: Sequence[str]) -> int:
    """4 where all parts have 4 bits, else 8."""
    return 4 if all(name in OWN_FOUR for name in formats) else 8


def pack(parts: Sequence[QuantTensor], bits: int, arena: Arena) -> Bytes:
    """Parts, one below the other -> uint8 [tiles, blocks, bytes of a block], in the arena.

    Raises:
        RuntimeError: there are no native kernels.

    """
    loaded = library.load()
    if loaded is None:
        raise RuntimeError("there are no native kernels here")
    outputs, blocks = sum(part.rows for part in parts), parts[0].cols // OWN_GROUP
    packed = arena.empty((outputs // OWN_TILE, blocks, _BLOCK[bits]))
    first = 0
    for part in parts:
        for rows in part.of_numpy().slices(ROWS_AT_ONCE):
            raw = np.ascontiguousarray(_four(rows) if bits == 4 else rounded(rows).raw)
            loaded.argosy_pack(bits, address(raw), rows.rows, blocks, first, address(packed))
            first += rows.rows
    return packed


def _four(rows: QuantTensor) -> Bytes:
    """Blocks of Q4_1."""
    raw: Bytes = rows.raw
    if rows.format == "Q4_1":
        return raw
    blocks = raw.reshape(rows.rows, -1, 18)
    scale = np.ascontiguousarray(blocks[..., :2]).view(np.float16)
    with np.errstate(over="ignore"):
        minimum = (scale * np.float16(-8)).view(np.uint8)
    return np.concatenate((blocks[..., :2], minimum, blocks[..., 2:]), -1).reshape(rows.rows, -1)
