"""Tools of the checks at start: numbers to compute with that are the same on every machine, and a number of threads."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor


def pattern(rows: int, columns: int) -> Tensor:
    """fp32 [rows, columns] in -1 .. 1 with 16 bits each, scattered by a hash: equal wherever it is made.

    (torch's random numbers depend on the processor's vector length.)
    """
    numbers = np.arange(rows * columns, dtype=np.uint64)
    with np.errstate(over="ignore"):
        numbers = (numbers + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        numbers = (numbers ^ (numbers >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (numbers >> np.uint64(48)).astype(np.float32) / np.float32(32768) - np.float32(1)
    return torch.from_numpy(values.reshape(rows, columns))


@contextmanager
def on_threads(count: int) -> Iterator[None]:
    """Let torch use `count` threads for a while."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
