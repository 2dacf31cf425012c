"""GPTQ: rounding a layer's weights so that its output on real inputs changes least.

Columns are rounded one after another, and what each one's rounding changes in the output is made up for by the columns
that follow. Source: Frantar, Ashkboos, Hoefler, Alistarh, "GPTQ: Accurate Post-Training Quantization for Generative
Pre-trained Transformers" (arXiv 2210.17323): the Cholesky form, in blocks of columns.

The scales are those of `search`, found before. Chosen on the way, for the weights as they are by then, they lose more:
measured with six layers of SmolLM2-135M as Q4_0, change of the perplexity on the model's own text and on the standard
library's documentation, and mean difference of the tokens' log-probabilities there:

    plain rounding                        +7.8 %, +3.1 %     0.263, 0.271
    search                                +4.0 %, +0.3 %     0.180, 0.174
    gptq, scales on the way, damping 0.05 +2.7 %, +0.9 %     0.140, 0.167
    gptq, search's scales, damping 0.05   +2.7 %, +1.2 %     0.136, 0.149
    gptq, search's scales, damping 0.5    +2.5 %, -0.2 %     0.136, 0.149
"""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from argosy_worker.quantize import kquants
from argosy_worker.quantize.grids import Coded, Grid, decode, encode, fit, plain

BLOCK = 32
"""Columns after which the rest of the matrix is made up to date: one product instead of many thin ones."""
DAMPING = 0.5
"""Part of each input's mean square that is added to it: correlations that only the sample has should not count."""
_LEAST = 1e-6
"""The same, of the mean over all inputs: some may be zero in the whole sample."""


def groups_of(weight: Tensor, group: int) -> int:
    """Columns of a group; 0 means the whole row."""
    return group or weight.shape[1]


def solve(weight: Tensor, hessian: Tensor, start: Coded) -> Coded:
    """Round fp32 [rows, cols] with the scales of `start`; `hessian` is a weighted sum of x xᵀ, fp32 [cols, cols].

    Raises torch.linalg.LinAlgError when the hessian is not finite.
    """
    rows, cols = weight.shape
    size = cols // start.scale.shape[1]
    grid, factor = start.grid, _inverse_factor(hessian)
    rest = weight.T.contiguous()  # a column is a row here, so that it lies in one piece
    codes = torch.empty((cols, rows), dtype=torch.uint8)
    for begin in range(0, cols, BLOCK):
        end = min(begin + BLOCK, cols)
        errors = torch.empty((end - begin, rows))
        for at in range(begin, end):
            scale = start.scale[:, at // size]
            offset = None if start.offset is None else start.offset[:, at // size]
            code = encode(rest[at][:, None], scale, offset, grid)
            codes[at] = code[:, 0]
            error = errors[at - begin]
            torch.sub(rest[at], decode(code, scale, offset, grid)[:, 0], out=error).div_(factor[at, at])
            rest[at + 1 : end].addr_(factor[at, at + 1 : end], error, alpha=-1)
        rest[end:].addmm_(factor[begin:end, end:].T, errors, alpha=-1)
    return replace(start, codes=codes.T.contiguous())


def _inverse_factor(hessian: Tensor) -> Tensor:
    """Upper Cholesky factor of the damped inverse: fp32 [cols, cols]."""
    damped = hessian.double()
    squares = damped.diagonal()
    squares.add_(squares * DAMPING + squares.mean().clamp_min(1e-12) * _LEAST)
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
            offsets[:, at // size] = grid.stored_offset(offset)
    if not grid.outer:
        return Coded(grid, codes, scales, offsets)
    scales, offsets, units = kquants.in_steps(scales, offsets, grid)
    for at in range(0, cols, size):  # scales have changed
        offset = None if offsets is None else offsets[:, at // size]
        codes[:, at : at + size] = encode(weight[:, at : at + size], scales[:, at // size], offset, grid)
    return Coded(grid, codes, scales, offsets, units)
