"""Grids of numbers that weights are rounded to, and the choice of a group's scale.

A group of weights shares a scale d, and on some grids an offset m; a code c stands for `d * levels[c] + m`. Scales and
offsets are rounded to the type in which they are stored before codes are chosen, so nothing is lost in writing.

Plain rounding takes the scale from the group's largest weights. `fit` searches: some scales around that one, each
improved by weighted least squares for the codes that it leads to; the one with the least weighted squared error is
taken. With the mean squares of a layer's inputs as weights that error is the expected squared error of its output, as
far as the inputs are independent (llama.cpp's "importance matrix" is the same idea).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

_SHRINKS = tuple(0.70 + 0.03 * i for i in range(14))
"""Factors of the plain scale that are tried."""
_TINY = 1e-30


@dataclass(frozen=True, slots=True)
class Grid:
    """Codes 0, 1, ... and what they stand for."""

    levels: tuple[float, ...]
    """Ascending."""
    offset: bool = False
    """Whether a group has an offset beside its scale. The levels are 0, 1, 2, ... then."""
    signed: bool = True
    """Whether scales may be negative, so that the longer side of the levels serves the group's longer side."""
    scale_type: torch.dtype = torch.float16
    """In which scales and offsets are stored."""
    outer: int = 0
    """Groups whose scales are integers times a common unit (`kquants.py`); offsets are never above zero then."""

    @property
    def uniform(self) -> bool:
        """Whether the levels are consecutive integers."""
        return self.levels[-1] - self.levels[0] == len(self.levels) - 1

    def stored(self, values: Tensor) -> Tensor:
        """Scales or offsets as they will be read again: fp32."""
        return values.to(self.scale_type).float()

    def stored_offset(self, values: Tensor) -> Tensor:
        """Offsets as `stored`, and within their range."""
        return self.stored(values.clamp_max(0) if self.outer else values)

    def nearest(self, x: Tensor) -> Tensor:
        """Codes of fp32 values in units of the scale: uint8."""
        if self.uniform:
            return (x - self.levels[0]).round_().clamp_(0, len(self.levels) - 1).to(torch.uint8)
        levels = torch.tensor(self.levels)
        return torch.bucketize(x, (levels[1:] + levels[:-1]) / 2).to(torch.uint8)

    def values(self, codes: Tensor) -> Tensor:
        """Levels of codes: fp32."""
        if self.uniform:
            return codes.float() + self.levels[0]
        return torch.tensor(self.levels)[codes.long()]


def integers(low: int, high: int, **options: bool | int | torch.dtype) -> Grid:
    """The grid of the integers low .. high."""
    return Grid(tuple(float(i) for i in range(low, high + 1)), **options)  # type: ignore[arg-type]  # Grid's own fields


@dataclass(frozen=True, slots=True)
class Coded:
    """A matrix on a grid."""

    grid: Grid
    codes: Tensor
    """uint8 [rows, cols]."""
    scale: Tensor
    """fp32 [rows, groups]; exact in the grid's `scale_type`."""
    offset: Tensor | None
    """fp32 [rows, groups], where the grid has offsets."""
    units: Tensor | None = None
    """fp32 [rows, blocks, 1 or 2], where the grid is an `outer` one: what scales, and offsets, are integers of."""

    def dequantize(self) -> Tensor:
        """fp32 [rows, cols]."""
        rows, cols = self.codes.shape
        values = self.grid.values(self.codes).view(rows, self.scale.shape[1], -1) * self.scale[..., None]
        if self.offset is not None:
            values += self.offset[..., None]
        return values.view(rows, cols)


def encode(group: Tensor, scale: Tensor, offset: Tensor | None, grid: Grid) -> Tensor:
    """Codes of fp32 [n, size] with scales (and offsets) [n]: uint8 [n, size]."""
    inverse = torch.where(scale == 0, 0.0, 1 / scale)[:, None]
    return grid.nearest((group if offset is None else group - offset[:, None]) * inverse)


def decode(codes: Tensor, scale: Tensor, offset: Tensor | None, grid: Grid) -> Tensor:
    """fp32 [n, size] of codes with scales (and offsets) [n]."""
    values = grid.values(codes) * scale[:, None]
    return values if offset is None else values + offset[:, None]


def plain(group: Tensor, grid: Grid) -> tuple[Tensor, Tensor | None]:
    """Scales (and offsets) of fp32 [n, size] from the largest weights alone, not rounded yet: as ggml's quantizers do.

    Symmetric 8-bit integers go from -127 to 127 then.
    """
    if grid.offset:
        low = group.amin(1).clamp_max(0) if grid.outer else group.amin(1)
        return (group.amax(1) - low) / grid.levels[-1], low
    largest = group.gather(1, group.abs().argmax(1, keepdim=True))[:, 0]
    if grid.signed and len(grid.levels) < 256:
        return largest / grid.levels[0], None
    return largest.abs() / grid.levels[-1], None


def fit(group: Tensor, weight: Tensor, grid: Grid) -> tuple[Tensor, Tensor | None]:
    """Scales (and offsets) of fp32 [n, size] with the least squared error found, weighted by `weight` [size]."""
    scale, low = plain(group, grid)
    best, offset = grid.stored(scale), None if low is None else grid.stored_offset(low)
    least = _error(group, weight, best, offset, grid)
    for first in _candidates(group, grid):
        scale, low = _refined(group, weight, *first, grid)
        error = _error(group, weight, scale, low, grid)
        better = error < least
        least = torch.where(better, error, least)
        best = torch.where(better, scale, best)
        if offset is not None and low is not None:
            offset = torch.where(better, low, offset)
    return best, offset


def _candidates(group: Tensor, grid: Grid) -> Iterator[tuple[Tensor, Tensor | None]]:
    if grid.offset:
        low, high = group.amin(1), group.amax(1)
        middle, half = (low + high) / 2, (high - low) / 2
        for factor in _SHRINKS:
            yield grid.stored(2 * half * factor / grid.levels[-1]), grid.stored_offset(middle - half * factor)
        return
    largest = group.gather(1, group.abs().argmax(1, keepdim=True))[:, 0]
    for end in (grid.levels[0], grid.levels[-1]) if grid.signed else (grid.levels[-1],):
        full = (largest if grid.signed else largest.abs()) / end
        for factor in _SHRINKS:
            yield grid.stored(full * factor), None


def _refined(
    group: Tensor, weight: Tensor, scale: Tensor, offset: Tensor | None, grid: Grid
) -> tuple[Tensor, Tensor | None]:
    """Weighted least squares for the codes that a scale leads to."""
    q = grid.values(encode(group, scale, offset, grid))
    wq = weight * q
    qq, qx = (wq * q).sum(1), (wq * group).sum(1)
    if offset is None:
        better = qx / qq.clamp_min(_TINY)
        return grid.stored(torch.where(qq > _TINY, better, scale)), None
    total, q1, x1 = weight.sum(), wq.sum(1), (weight * group).sum(1)
    spread = total * qq - q1 * q1
    fine = spread > _TINY * total * total
    slope = torch.where(fine, (total * qx - q1 * x1) / spread.clamp_min(_TINY), scale)
    low = torch.where(fine, (x1 - slope * q1) / total.clamp_min(_TINY), offset)
    return grid.stored(slope), grid.stored_offset(low)


def _error(group: Tensor, weight: Tensor, scale: Tensor, offset: Tensor | None, grid: Grid) -> Tensor:
    difference = decode(encode(group, scale, offset, grid), scale, offset, grid) - group
    return (difference.square_() * weight).sum(1)
