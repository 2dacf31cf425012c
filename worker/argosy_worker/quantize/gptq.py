"""GPTQ: rounding a layer's weights so that its output on real inputs changes least.

Columns are rounded one after another, and what each one's rounding changes in the output is made up for by the columns
that follow. Source: Frantar, Ashkboos, Hoefler, Alistarh, "GPTQ: Accurate Post-Training Quantization for Generative
Pre-trained Transformers" (arXiv 2210.17323): the Cholesky form, in blocks of columns. A group's scale is chosen when
its first column is reached, for the weights as they are by then, with the errors weighted by what they will cost.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from argosy_worker.quantize.grids import Coded, Grid, decode, encode, fit, plain

BLOCK = 32
"""Columns after which the rest of the matrix is made up to date: one product instead of many thin ones."""
_TINY = 1e-12
DAMPING = 0.05
"""Part of the mean square over all inputs that is added to each input's own: the sample is small. An equal share for
all keeps the weights of small inputs from growing to make up for large ones, and their group's scale with them."""


def groups_of(weight: Tensor, group: int) -> int:
    """Columns of a group; 0 means the whole row."""
    return group or weight.shape[1]


def solve(weight: Tensor, hessian: Tensor, grid: Grid, group: int) -> Coded:
    """Round fp32 [rows, cols]; `hessian` is the sum of x xᵀ over inputs x, fp32 [cols, cols].

    Groups of `group` columns share a scale in each row; 0 for whole rows. `cols` is a multiple of it.
    """
    rows, cols = weight.shape
    size = groups_of(weight, group)
    factor = _inverse_factor(hessian)
    cost = factor.diagonal().square().reciprocal()
    rest = weight.T.contiguous()  # a column is a row here, so that it lies in one piece
    codes = torch.empty((cols, rows), dtype=torch.uint8)
    scales: list[Tensor] = []
    offsets: list[Tensor] = []
    scale, offset = torch.empty(0), None
    for begin in range(0, cols, BLOCK):
        end = min(begin + BLOCK, cols)
        errors = torch.empty((end - begin, rows))
        for at in range(begin, end):
            if at % size == 0:
                scale, offset = fit(rest[at : at + size].T.contiguous(), cost[at : at + size], grid)
                scales.append(scale)
                offsets += [] if offset is None else [offset]
            code = encode(rest[at][:, None], scale, offset, grid)
            codes[at] = code[:, 0]
            error = errors[at - begin]
            torch.sub(rest[at], decode(code, scale, offset, grid)[:, 0], out=error).div_(factor[at, at])
            rest[at + 1 : end].addr_(factor[at, at + 1 : end], error, alpha=-1)
        rest[end:].addmm_(factor[begin:end, end:].T, errors, alpha=-1)
    return Coded(grid, codes.T.contiguous(), torch.stack(scales, 1), torch.stack(offsets, 1) if offsets else None)


def _inverse_factor(hessian: Tensor) -> Tensor:
    """Upper Cholesky factor of the damped inverse: fp32 [cols, cols].

    Raises torch.linalg.LinAlgError when the matrix is not finite.
    """
    damped = hessian.double()
    squares = damped.diagonal()
    squares.add_(squares.mean().clamp_min(_TINY) * DAMPING)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
    factor: Tensor = torch.linalg.cholesky(inverse, upper=True)
    return factor.float()


def search(weight: Tensor, importance: Tensor, grid: Grid, group: int) -> Coded:
    """Round to the nearest, with searched scales; `importance` is the mean square of each input, fp32 [cols]."""

    def scales(part: Tensor, at: int) -> tuple[Tensor, Tensor | None]:
        return fit(part, importance[at : at + part.shape[1]], grid)

    return _by_group(weight, grid, group, scales)


def round_plainly(weight: Tensor, grid: Grid, group: int) -> Coded:
    """Round to the nearest, with scales from the largest weights."""
    return _by_group(weight, grid, group, lambda part, _: plain(part, grid))


def _by_group(
    weight: Tensor, grid: Grid, group: int, scales_of: Callable[[Tensor, int], tuple[Tensor, Tensor | None]]
) -> Coded:
    rows, cols = weight.shape
    size = groups_of(weight, group)
    codes = torch.empty((rows, cols), dtype=torch.uint8)
    scales = torch.empty((rows, cols // size))
    offsets = torch.empty((rows, cols // size)) if grid.offset else None
    for at in range(0, cols, size):
        part = weight[:, at : at + size]
        scale, offset = scales_of(part, at)
        codes[:, at : at + size] = encode(part, scale, offset, grid)
        scales[:, at // size] = grid.stored(scale)
        if offsets is not None and offset is not None:
            offsets[:, at // size] = grid.stored(offset)
    return Coded(grid, codes, scales, offsets)
