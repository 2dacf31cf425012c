"""Elementwise functions whose bits do not depend on how many rows are computed at once.

torch computes `exp`, `silu` and the like 32 floats at a time and the rest of a thread's share one by one, with another
implementation whose last bit may differ. A share is `ceil(numel / threads)` elements, where at most one thread is
used for each 32,768 elements (at::internal::GRAIN_SIZE). When a share is no multiple of 32, who is "the rest" depends
on the number of rows: seen with silu on [255, 288] and 2 threads. Such tensors are therefore computed in pieces of one
share. Add, multiply, divide and square root round correctly in both versions and need no such care.
"""

from collections.abc import Callable

import torch
from torch import Tensor

GRAIN = 32768
VECTOR = 32


def aligned(inplace: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Apply an in-place elementwise function to a contiguous tensor; a row's bits depend on that row alone."""
    if x.device.type != "cpu":
        return inplace(x)
    if x.shape[-1] % VECTOR:  # a row's end falls into the middle of a vector
        for row in x.view(-1, x.shape[-1]):
            inplace(row)
        return x
    if shares_aligned(x.numel(), torch.get_num_threads()):
        return inplace(x)
    flat = x.view(-1)
    for begin in range(0, flat.numel(), GRAIN):
        inplace(flat[begin : begin + GRAIN])
    return x


def shares_aligned(numel: int, threads: int) -> bool:
    """Whether every thread's share of `numel` elements begins at a multiple of the vector length."""
    used = min(threads, -(-numel // GRAIN))
    return used <= 1 or -(-numel // used) % VECTOR == 0
