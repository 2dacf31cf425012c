"""Weights as the native kernels hold them (argosy_cpu.h): tiles of 16 outputs, blocks of 32 inputs.

What a checkpoint has in 4 bits keeps its numbers (Q4_0, Q4_1, Q4_K); so does Q8_0. All else is rounded to Q8_0's form.
"""

from collections.abc import Sequence

import numpy as np

from argosy_worker.arrays import address
from argosy_worker.compute.native import library
from argosy_worker.compute.native.arena import Arena, Bytes
from argosy_worker.compute.quant.eight import ROWS_AT_ONCE, rounded
from argosy_worker.compute.quant.formats import QuantTensor, k_nibbles, k_scales
from argosy_worker.compute.quant.precision import OWN_GROUP, OWN_TILE, OwnForm


def pack(parts: Sequence[QuantTensor], form: OwnForm, arena: Arena) -> Bytes:
    """Parts, one below the other -> uint8 [tiles, blocks, bytes of a block], in the arena.

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
            raw = np.ascontiguousarray(_four(rows, form.scale_bits) if form.bits == 4 else rounded(rows).raw)
            loaded.argosy_pack(*form, address(raw), rows.rows, blocks, first, address(packed))
            first += rows.rows
    return packed


def _four(rows: QuantTensor, scale_bits: int) -> Bytes:
    """Blocks of Q4_1, or the same with scales and minima in fp32."""
    raw: Bytes = rows.raw
    if rows.format == "Q4_1" and scale_bits == 16:
        return raw
    wanted = np.dtype(np.float32 if scale_bits == 32 else np.float16)
    if rows.format == "Q4_K":
        blocks = raw.reshape(-1, 144)
        scale, minimum = k_scales(blocks)
        minimum, numbers = -minimum, k_nibbles(blocks[:, 16:]).reshape(-1, 2, 16)
        nibbles = numbers[:, 0] | numbers[:, 1] << 4
    else:
        head = 2 if rows.format == "Q4_0" else 4
        blocks = raw.reshape(-1, head + 16)
        halves, nibbles = np.ascontiguousarray(blocks[:, :head]).view(np.float16).astype(wanted), blocks[:, head:]
        with np.errstate(over="ignore"):
            scale, minimum = halves[:, :1], halves[:, 1:] if head == 4 else halves * np.array(-8, dtype=wanted)
    found = [np.ascontiguousarray(part, dtype=wanted).reshape(-1, 1).view(np.uint8) for part in (scale, minimum)]
    return np.concatenate((*found, nibbles), -1).reshape(rows.rows, -1)
