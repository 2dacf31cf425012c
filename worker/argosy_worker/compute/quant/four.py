"""Rounding to Q4_1's form: 4 bits, and for each 32 weights of a row a scale and a minimum. No torch.

What is in 4 bits already keeps its numbers: Q4_0, Q4_1 and Q4_K, and INT4 of checkpoints whose groups are whole blocks.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from argosy_worker.compute.quant.eight import over_groups
from argosy_worker.compute.quant.formats import QuantTensor, k_nibbles, k_scales

_GROUP = 32
_LEAST = np.float32(1e-30)
Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]


def blocks_of(rows: QuantTensor, scale_bits: int, group: int = _GROUP) -> Bytes:
    """Of a matrix of numpy: uint8 [rows, bytes of a row], blocks of scale, minimum and 16 bytes of nibbles.

    `scale_bits`: 16, or 32 for scales and minima that fp16 would round. `group`: weights that share them where the
    matrix must be rounded, a multiple of 32; the last group of a row may have fewer.
    """
    if rows.format == "Q4_1" and group == _GROUP and scale_bits == 16:
        raw: Bytes = rows.raw
        return raw
    wanted: np.dtype[Any] = np.dtype(np.float32 if scale_bits == 32 else np.float16)
    with np.errstate(all="ignore"):
        scale, minimum, numbers = _kept(rows, group) or _made(rows.dequantize(), group, wanted)
        found = [np.ascontiguousarray(part, dtype=wanted).reshape(-1, 1).view(np.uint8) for part in (scale, minimum)]
    nibbles = numbers[:, :16] | numbers[:, 16:] << 4
    return np.concatenate((*found, nibbles), -1).reshape(rows.rows, -1)


def _kept(rows: QuantTensor, group: int) -> tuple[Floats, Floats, Bytes] | None:
    """Scales and minima, fp32 [blocks], and numbers, uint8 [blocks, 32], where there are 4 bits in such groups."""
    if rows.format == "Q4_K" and group == _GROUP:
        blocks = rows.raw.reshape(-1, 144)
        scale, minimum = k_scales(blocks)
        return scale, -minimum, k_nibbles(blocks[:, 16:]).reshape(-1, 32)
    if rows.format in ("Q4_0", "Q4_1") and group == _GROUP:
        head = 2 if rows.format == "Q4_0" else 4
        blocks = rows.raw.reshape(-1, head + 16)
        halves = np.ascontiguousarray(blocks[:, :head]).view(np.float16).astype(np.float32)
        packed = blocks[:, head:]
        numbers = np.concatenate((packed & 15, packed >> 4), -1)
        return halves[:, 0], halves[:, 1] if head == 4 else halves[:, 0] * -8, numbers
    if rows.format == "INT4" and rows.scale is not None and rows.group % _GROUP == 0:
        zero = np.float32(0) if rows.zero is None else rows.zero
        each = rows.group // _GROUP
        scale, minimum = (np.repeat(part, each, axis=1) for part in (rows.scale, -zero * rows.scale))
        return scale, minimum, rows.raw.reshape(-1, 32)
    return None


def _made(values: Floats, group: int, wanted: np.dtype[Any]) -> tuple[Floats, Floats, Bytes]:
    """From the least to the largest weight of each group, with scale and minimum as `wanted` holds them."""
    blocks = values.reshape(len(values), -1, _GROUP)
    least = over_groups(blocks.min(-1, keepdims=True), group, np.minimum)
    largest = over_groups(blocks.max(-1, keepdims=True), group, np.maximum)
    minimum = least.astype(wanted).astype(np.float32)
    scale = ((largest - minimum) / np.float32(15)).astype(wanted).astype(np.float32)
    numbers = np.clip(np.rint((blocks - minimum) / np.maximum(scale, _LEAST)), 0, 15)
    return scale, minimum, numbers.astype(np.uint8).reshape(-1, _GROUP)
