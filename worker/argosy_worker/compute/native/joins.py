"""Where native layers that ranks share wait for each other: the kernels call here, four times for each layer."""

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from weakref import WeakMethod

import torch
from torch import Tensor

from argosy_worker.compute.native import library

Columns = Callable[[Tensor, Sequence[int]], Tensor]
"""Columns [R, n] of this rank and the widths of all ranks', in order -> those of all, [R, sum of widths]."""

_ROWS, _GROUP, _RECORD = 8, 32, 8 * (32 + 12)
"""As argosy_cpu.h has them: rows of a record, numbers of a block, bytes of a record."""


@dataclass(frozen=True, slots=True)
class Widths:
    """Of a shared layer, columns of each rank, in order."""

    heads: Sequence[int]
    """Of what its attention gives."""
    hidden: Sequence[int]
    """Of what a linear of all ranks adds to the rows."""
    ffn: Sequence[int]
    """Of the gated part."""


class Joins:
    """Of layers that one call computes. Used by one thread at a time."""

    def __init__(self, columns: Columns, part: int, widths: Sequence[Widths]) -> None:
        """`part`: which of the ranks this one is. `widths`: of each layer."""
        self._columns, self._part, self._rows = columns, part, 0
        self._bytes = [
            (
                [4 * width for width in of.heads],
                [4 * width for width in of.hidden],
                [width // _GROUP * _RECORD for width in of.ffn],
                [4 * width for width in of.hidden],
            )
            for of in widths
        ]
        self._call = library.Join(_weakly(WeakMethod(self._join)))  # lives as long as this, and keeps it not
        self.failure: BaseException | None = None
        """Why the last step was broken off."""

    def begin(self, rows: int) -> ctypes.c_void_p:
        """What the kernels call in a step of so many rows."""
        self._rows, self.failure = rows, None
        return ctypes.cast(self._call, ctypes.c_void_p)

    def _join(self, layer: int, what: int, mine: int, all_: int) -> int:
        try:
            widths = self._bytes[layer][what]
            rows = -(-self._rows // _ROWS) if what == library.GATED else self._rows
            held = (ctypes.c_uint8 * (rows * widths[self._part])).from_address(mine)
            own = torch.frombuffer(held, dtype=torch.uint8).view(rows, -1)
            found = self._columns(own, widths).contiguous()
            ctypes.memmove(all_, found.data_ptr(), found.numel())
        except BaseException as error:  # noqa: BLE001 - nothing is raised through C: `Stack` raises it
            self.failure = error
            return 1
        return 0


def _weakly(method: "WeakMethod[Callable[[int, int, int, int], int]]") -> Callable[[int, int, int, int], int]:
    """As the method. A connection to other ranks is to be closed as soon as nobody has it, whether rubbish is collected
    or not.
    """

    def call(layer: int, what: int, mine: int, all_: int) -> int:
        found = method()
        return 1 if found is None else found(layer, what, mine, all_)

    return call


def padding(part: int) -> Columns:
    """In place of the other ranks, for a check at start: their columns are zeros."""

    def columns(x: Tensor, widths: Sequence[int]) -> Tensor:
        whole = x.new_zeros((len(x), sum(widths)))
        begin = sum(widths[:part])
        whole[:, begin : begin + x.shape[1]] = x
        return whole

    return columns
