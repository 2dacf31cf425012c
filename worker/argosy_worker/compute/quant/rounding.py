"""Plain rounding of weights to 8 and 4 bits, with the scales that the kernels of this machine can use.

What is stored in the wanted grid already keeps its numbers: nothing is rounded twice. All take some rows of a matrix
and give them back as numbers and scales; a weight is about number * scale, and for int4 (number - 8) * scale + middle.
"""

import torch
from torch import Tensor

from argosy_worker.compute.quant import eight
from argosy_worker.compute.quant.formats import QuantTensor
from argosy_worker.compute.quant.precision import NATIVE, OWN_GROUP
from argosy_worker.compute.quant.sizes import EMBEDDED, WIDE

_LEAST = 1e-30
"""Of a scale: rows of zeros have one, too."""
_E4M3_TOP = 448.0
_ROWS_AT_ONCE = 4096


def int8(rows: QuantTensor, group: int) -> tuple[Tensor, Tensor]:
    """Symmetric int8: (int8 [rows, cols], fp32 scales [rows, cols / group]); with group 0 one scale for each row."""
    width = group or rows.cols
    if rows.format == "INT8" and rows.zero is None and rows.scale is not None and rows.group == width:
        return rows.raw.view(torch.int8), rows.scale
    if rows.format == "Q8_0" and width == 32:
        blocks = rows.raw.view(rows.rows, -1, 34)
        scales = blocks[..., :2].contiguous().view(torch.float16)[..., 0].float()
        return blocks[..., 2:].reshape(rows.rows, rows.cols).view(torch.int8), scales
    grouped = rows.dequantize().view(rows.rows, -1, width)
    scale = (grouped.abs().amax(-1, keepdim=True) / 127).clamp_min_(_LEAST)
    return (grouped / scale).round_().to(torch.int8).view(rows.rows, rows.cols), scale[..., 0]


def float8(rows: QuantTensor) -> tuple[Tensor, Tensor]:
    """F8_E4M3, the largest weight of a row at the type's largest: (fp8 [rows, cols], fp32 scales [rows, 1])."""
    if rows.format == "F8_E4M3" and (rows.scale is None or rows.scale.shape[1] == 1):
        ones = torch.ones((rows.rows, 1))
        return rows.raw.view(torch.float8_e4m3fn), ones if rows.scale is None else rows.scale
    values = rows.dequantize()
    scale = (values.abs().amax(1, keepdim=True) / _E4M3_TOP).clamp_min_(_LEAST)
    return (values / scale).to(torch.float8_e4m3fn), scale


def int4(rows: QuantTensor, group: int) -> tuple[Tensor, Tensor, Tensor]:
    """Four bits from the least to the largest weight of each group.

    (uint8 0 .. 15 [rows, cols], bf16 scales and bf16 middles [rows, cols / group]). The numbers are rounded with the
    scales and middles as bf16 holds them; what comes in numbers of 4 bits in such groups keeps them.
    """
    kept = _kept_int4(rows, group)
    if kept is not None:
        return kept
    grouped = rows.dequantize().view(rows.rows, -1, group)
    least, largest = grouped.amin(-1), grouped.amax(-1)
    scale = ((largest - least) / 15).clamp_min_(_LEAST).to(torch.bfloat16)
    middle = (least + 8 * scale.float()).to(torch.bfloat16)
    numbers = ((grouped - middle.float()[..., None]) / scale.float()[..., None]).round_().add_(8).clamp_(0, 15)
    return numbers.to(torch.uint8).view(rows.rows, rows.cols), scale, middle


def _kept_int4(rows: QuantTensor, group: int) -> tuple[Tensor, Tensor, Tensor] | None:
    if rows.format == "INT4" and rows.scale is not None and rows.group == group:
        zero = torch.full_like(rows.scale, 8) if rows.zero is None else rows.zero
        return rows.raw, rows.scale.to(torch.bfloat16), ((8 - zero) * rows.scale).to(torch.bfloat16)
    if rows.format not in ("Q4_0", "Q4_1") or group != 32:
        return None
    head = 2 if rows.format == "Q4_0" else 4
    blocks = rows.raw.view(rows.rows, -1, head + 16)
    halves = blocks[..., :head].contiguous().view(torch.float16).float()
    scale = halves[..., 0]
    middle = torch.zeros_like(scale) if head == 2 else halves[..., 1] + 8 * scale
    numbers = torch.cat((blocks[..., head:] & 15, blocks[..., head:] >> 4), -1)
    return numbers.view(rows.rows, rows.cols), scale.to(torch.bfloat16), middle.to(torch.bfloat16)


def embedding(matrix: QuantTensor, weights: str) -> QuantTensor:
    """The table of a model whose linears hold `weights`: no wider than they, but 8 bits in groups of 32 at least."""
    if matrix.format not in WIDE or weights not in EMBEDDED or matrix.format == EMBEDDED[weights]:
        return matrix
    if weights in NATIVE and matrix.cols % OWN_GROUP == 0:
        return eight.whole(matrix.of_numpy()).of_torch()
    raws, scales = [], []
    for rows in matrix.slices(_ROWS_AT_ONCE):
        if EMBEDDED[weights] == "INT8":
            numbers, scale = int8(rows, 32 if matrix.cols % 32 == 0 else 0)
            scales.append(scale)
        else:
            numbers = rows.dequantize().to(torch.float16 if weights == "fp16" else torch.bfloat16)
        raws.append(numbers.view(torch.uint8))
    return QuantTensor(EMBEDDED[weights], torch.cat(raws), matrix.cols, torch.cat(scales) if scales else None)


def power_of_two(values: Tensor) -> tuple[Tensor, Tensor]:
    """fp32 [rows, cols] -> (fp16 [rows, cols], fp32 powers of two [rows, 1]) whose product they are.

    The largest of a row lies from 2**14 on, so that numbers down to 2**-31 of it keep 8 bits, as many as bf16 has.
    Smaller ones are off by less than 2**-38 of the largest.
    """
    _, exponent = torch.frexp(values.abs().amax(1, keepdim=True))
    scale = torch.ldexp(torch.ones(len(values), 1), exponent - 15)
    return (values / scale).half(), scale
