"""ggml's K-quants: 256 weights lie together, in groups whose scales are small integers times a unit of all 256.

    q4_K, q5_K   8 groups of 32: scale = d * s, offset = -dmin * m; s and m from 0 to 63
    q6_K         16 groups of 16: scale = d * s, s from -128 to 127

The units d and dmin are fp16. Scales and offsets are found for each group alone, then rounded to steps of the units
here, and only then are codes chosen. `compute/quant/formats.py` has the layouts.
"""

import torch
from torch import Tensor

from argosy_worker.quantize.grids import Coded, Grid

SIZE = 256
"""Weights of a block."""
_UNSIGNED, _SIGNED = (0, 63), (-128, 127)


def in_steps(scale: Tensor, offset: Tensor | None, grid: Grid) -> tuple[Tensor, Tensor | None, Tensor]:
    """Scales and offsets fp32 [rows, groups] as they will be read again, and the units fp32 [rows, blocks, 1 or 2]."""
    steps, unit = _steps(scale, grid)
    found = (steps * unit).view(scale.shape)
    if offset is None:
        return found, None, unit
    low, low_unit = _steps(-offset, grid)
    return found, -(low * low_unit).view(offset.shape), torch.cat((unit, low_unit), 2)


def _steps(values: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
    """Integers fp32 [rows, blocks, groups of a block], and the unit of each block fp32 [rows, blocks, 1]."""
    inner = values.view(len(values), -1, grid.outer)
    least, most = _UNSIGNED if grid.offset else _SIGNED
    if grid.offset:
        unit = inner.amax(2, keepdim=True).clamp_min(0) / most
    else:
        unit = inner.gather(2, inner.abs().argmax(2, keepdim=True)) / least
    unit = unit.half().float()
    return torch.where(unit == 0, 0, inner / unit).round().clamp(least, most), unit


def pack(name: str, coded: Coded) -> Tensor:
    """Blocks of format Q4_K, Q5_K or Q6_K: uint8 [rows, bytes]. Raises ValueError when `coded` has no units."""
    if coded.units is None:
        raise ValueError(f"{name} needs units")
    rows, units = len(coded.codes), coded.units
    inner = coded.scale.view(rows, units.shape[1], -1)
    unit = units[..., :1]
    steps = torch.where(unit == 0, 0, inner / unit).round().view(-1, inner.shape[2])
    codes = coded.codes.view(-1, SIZE)
    if name == "Q6_K":
        found = torch.cat((*_sixes(codes), steps.to(torch.int8).view(torch.uint8), _half(unit)), 1)
        return found.view(rows, -1)
    if coded.offset is None:
        raise ValueError(f"{name} needs offsets")
    low = units[..., 1:]
    minima = torch.where(low == 0, 0, -coded.offset.view(inner.shape) / low).round().view(steps.shape)
    head = (_half(unit), _half(low), _six_bits(steps.to(torch.uint8), minima.to(torch.uint8)))
    groups = codes.view(-1, 8, 32)
    pairs = (groups[:, ::2] & 15 | (groups[:, 1::2] & 15) << 4).reshape(len(codes), -1)
    bits = torch.arange(8, dtype=torch.uint8)[:, None]
    fifth = ((groups >> 4 & 1) << bits).sum(1, dtype=torch.uint8)
    return torch.cat((*head, *((fifth,) if name == "Q5_K" else ()), pairs), 1).view(rows, -1)


def _half(unit: Tensor) -> Tensor:
    """fp32 [rows, blocks, 1] -> uint8 [rows * blocks, 2]."""
    return unit.half().reshape(-1, 1).view(torch.uint8)


def _six_bits(scale: Tensor, low: Tensor) -> Tensor:
    """Eight scales and eight minima of 6 bits: uint8 [blocks, 8] each -> uint8 [blocks, 12]."""
    first = scale[:, :4] | scale[:, 4:] >> 4 << 6
    second = low[:, :4] | low[:, 4:] >> 4 << 6
    return torch.cat((first, second, scale[:, 4:] & 15 | (low[:, 4:] & 15) << 4), 1)


def _sixes(codes: Tensor) -> tuple[Tensor, Tensor]:
    """Codes uint8 [blocks, 256] below 64: their low halves [blocks, 128], and the two bits above them [blocks, 64]."""
    parts = codes.view(-1, 2, 4, 32)
    low = parts[:, :, :2] & 15 | (parts[:, :, 2:] & 15) << 4
    shifts = torch.arange(0, 8, 2, dtype=torch.uint8)[:, None]
    high = ((parts >> 4) << shifts).sum(2, dtype=torch.uint8)
    return low.reshape(len(codes), -1), high.reshape(len(codes), -1)
