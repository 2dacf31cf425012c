"""Softmax over keys that come stripe by stripe, each row on its own.

Of the stripes so far a row keeps its highest score, the sum of its weights and the weighted sum of values (Milakov and
Gimelshein, "Online normalizer calculation for softmax", 2018, as FlashAttention uses it). A stripe in which a row sees
nothing leaves its bits as they are: its highest score stays, so what it has is multiplied by exp(0) = 1 and gets
exact zeros added. So its bits are the same whether its company makes it pass by stripes that it does not see or not.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from argosy_worker.compute.elementwise import VECTOR, aligned

LOWEST = -1e30
"""Stands for the highest score of a row that has seen no key: less than any score, and finite, since -inf less -inf is
no number. exp(LOWEST - score) is 0."""


class Sums(NamedTuple):
    """Of some rows, over the stripes so far; fp32."""

    highest: Tensor
    """[..., rows, 1]: highest score."""
    norm: Tensor
    """[..., rows, 1]: sum of the weights, which are exp(score - highest)."""
    total: Tensor
    """[..., rows, head_dim]: weighted sum of the values."""


def nothing(total: Tensor) -> Sums:
    """Sums over no keys, for totals of this shape."""
    norm = total.new_zeros((*total.shape[:-1], 1))
    return Sums(torch.full_like(norm, LOWEST), norm, torch.zeros_like(total))


def soft_cap(scores: Tensor, cap: float) -> Tensor:
    """Cap * tanh(scores / cap), in place; cap 0 leaves them as they are."""
    return aligned(torch.Tensor.tanh_, scores.div_(cap)).mul_(cap) if cap else scores


def weigh(scores: Tensor, highest: Tensor) -> Tensor:
    """exp(scores - highest), in place."""
    return aligned(torch.Tensor.exp_, scores.sub_(highest))


def add(before: Sums, more: Sums) -> Sums:
    """Sums over both; `more.highest` is the highest of both."""
    shrink = _exp(before.highest - more.highest)
    return Sums(more.highest, before.norm * shrink + more.norm, before.total * shrink + more.total)


def finish(sums: Sums, sink: Tensor | None = None) -> Tensor:
    """The weighted means. A sink [..., rows, 1] is one score more, whose value is 0."""
    if sink is None:
        return sums.total / sums.norm
    highest = torch.maximum(sums.highest, sink)
    shrink = _exp(sums.highest - highest)
    return sums.total * shrink / (sums.norm * shrink + _exp(sink - highest))


def _exp(column: Tensor) -> Tensor:
    """Exp of [..., 1], a whole vector for each number: by twos or threes they would be rounded by where they lie."""
    wide = column.expand(*column.shape[:-1], VECTOR).contiguous()
    return aligned(torch.Tensor.exp_, wide)[..., :1]
