"""Tools of the checks at start: numbers to compute with that are the same on every machine, and a number of threads."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from argosy_worker.compute import rowcheck


def pattern(rows: int, columns: int) -> Tensor:
    """`rowcheck.pattern` as a tensor."""
    return torch.from_numpy(rowcheck.pattern(rows, columns))


@contextmanager
def on_threads(count: int) -> Iterator[None]:
    """Let torch use `count` threads for a while."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
