"""Weights as the native kernels hold them (argosy_cpu.h): tiles of 16 outputs, blocks of 32 inputs.

What a checkpoint has in 4 bits keeps its numbers (Q4_0, Q4_1, Q4_K); so does Q8_0. All else is
rounded to Q8_0's form, or to that of Q4_1 where 4 bits are asked for.
"""

from collections.abc import Sequence

import numpy as np

from argosy_worker.arrays import address
from argosy_worker.compute.native import library
from argosy_worker.compute.native.arena import Arena, Bytes
from argosy_worker.compute.quant.eight import ROWS_AT_ONCE, rounded
from argosy_worker.compute.quant.formats import QuantTensor
from argosy_worker.compute.quant.four import blocks_of
from argosy_worker.compute.quant.precision import OWN_GROUP, OWN_TILE, OwnForm


def pack(parts: Sequence[QuantTensor], form: OwnForm, group: int, arena: Arena) -> Bytes:
    """Parts, one below the other -> uint8 [tiles, blocks, bytes of a block], in the arena.

    `group`: weights that share a scale where they must be rounded, a multiple of 32.

    Raises:
        RuntimeError: there are no native kernels.

    """
    loaded = library.load()
    if loaded is None:
        raise RuntimeError("there are no native kernels here")
    outputs, blocks = sum(part.rows for part in parts), parts[0].cols // OWN_GROUP
    packed = arena.empty((outputs // OWN_TILE, blocks, OWN_TILE * form.block_bytes))
    first = 0
    for part in parts:
        for rows in part.of_numpy().slices(ROWS_AT_ONCE):
            raw = np.ascontiguousarray(
                blocks_of(rows, form.scale_bits, group) if form.bits == 4 else rounded(rows, group).raw
            )
            loaded.argosy_pack(*form, address(raw), rows.rows, blocks, first, address(packed))
            first += rows.rows
    return packed
