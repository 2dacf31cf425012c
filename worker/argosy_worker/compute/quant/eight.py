"""Rounding to Q8_0: 8 bits and a scale in fp16 for each 32 weights of a row. No torch."""

import numpy as np
import numpy.typing as npt

from argosy_worker.compute.quant.formats import QuantTensor

ROWS_AT_ONCE = 4096
"""Rows that are worked on at a time, so that no second form of a large matrix is held."""
_GROUP = 32
_LEAST = np.float32(6e-8)
"""The smallest fp16 scale: a block whose largest weight is smaller becomes zeros."""


def over_groups(blocks: npt.NDArray[np.float32], group: int, take: np.ufunc) -> npt.NDArray[np.float32]:
    """fp32 [rows, blocks, 1], one for each 32 weights -> the same, each block with what `take` makes of its group's."""
    width = group // _GROUP
    if width == 1:
        return blocks
    firsts = np.arange(0, blocks.shape[1], width)
    found = np.repeat(take.reduceat(blocks, firsts, axis=1), width, axis=1)
    return found[:, : blocks.shape[1]]


def whole(matrix: QuantTensor) -> QuantTensor:
    """A whole matrix in Q8_0, made some rows at a time."""
    raw = np.concatenate([rounded(rows).raw for rows in matrix.slices(ROWS_AT_ONCE)])
    return QuantTensor("Q8_0", raw, matrix.cols)


def rounded(rows: QuantTensor, group: int = _GROUP) -> QuantTensor:
    """The same matrix, of numpy, in Q8_0: rounded, where it is anything else.

    INT8 with a scale for each so many whole blocks keeps its numbers, and the scales become fp16. `group`: weights that
    share a scale, a multiple of 32; the last group of a row may have fewer.
    """
    if rows.format == "Q8_0" and group == _GROUP:
        return rows
    if (kept := _kept(rows)) is not None:
        return kept
    values: npt.NDArray[np.float32] = rows.dequantize().reshape(rows.rows, -1, _GROUP)
    blocks = np.empty((*values.shape[:2], 2 + _GROUP), dtype=np.uint8)
    with np.errstate(all="ignore"):
        largest = over_groups(np.abs(values).max(-1, keepdims=True), group, np.maximum)
        scale = (largest / np.float32(127)).astype(np.float16)
        divisor = scale.astype(np.float32)
        scaled = np.where(divisor > _LEAST, values / np.maximum(divisor, _LEAST), np.float32(0))
        numbers = np.clip(np.rint(scaled), -127, 127).astype(np.int8)
    blocks[..., :2], blocks[..., 2:] = scale.view(np.uint8), numbers.view(np.uint8)
    return QuantTensor("Q8_0", blocks.reshape(rows.rows, -1), rows.cols)


def _kept(rows: QuantTensor) -> QuantTensor | None:
    """INT8 that is symmetric, in groups of whole blocks, with scales that fp16 has."""
    if rows.format != "INT8" or rows.zero is not None or rows.scale is None or rows.group % _GROUP:
        return None
    numbers = rows.raw.view(np.int8).reshape(rows.rows, -1, _GROUP)
    with np.errstate(over="ignore"):
        scale = rows.scale.astype(np.float16)
    if (numbers == -128).any() or not (np.isfinite(scale) & (np.abs(scale) > 2**-14)).all():
        return None
    scales = np.repeat(scale, rows.group // _GROUP, axis=1)[..., None]
    blocks = np.concatenate((scales.view(np.uint8), numbers.view(np.uint8)), -1)
    return QuantTensor("Q8_0", blocks.reshape(rows.rows, -1), rows.cols)
