"""What adapters add to linears that torch computes.

On the CPU every product has TILE rows of one adapter, filled up with zeros, so that a row's sums are made in one way
however many rows there are (as `quant.fp32_cpu.Fp32Tiles`).
"""

from collections.abc import Callable, Sequence
from functools import partial
from weakref import WeakKeyDictionary

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812  # the name that torch users know
from torch import Tensor

from argosy_worker.arrays import sent, to_torch
from argosy_worker.compute.adapter import LoadedAdapter, LowRank, StepAdapters

TILE = 16
"""Rows of every product."""

Matrices = tuple[Tensor, Sequence[tuple[int, int, Tensor] | None]]
"""`down` [rank, in]; for each part of the linear its first row of it, its first output, and `up` [outputs, rank]."""
Held = WeakKeyDictionary[LoadedAdapter, dict[tuple[int, str], Matrices]]
"""Matrices as tensors, of adapters that were used."""


class Adapted:
    """The adapters of a step's rows."""

    def __init__(self, adapters: StepAdapters, device: torch.device, held: Held) -> None:
        self.adapters = adapters
        self._device, self._held = device, held
        places = range(len(adapters.adapters))
        self._rows: list[Tensor] = [sent(np.flatnonzero(adapters.rows == place), device) for place in places]

    def layer(self, number: int) -> Callable[[str, Tensor, Tensor], None]:
        """What is added to the linears of a layer: see `mlp.Adds`."""
        return partial(self._add, number)

    def _add(self, layer: int, role: str, x: Tensor, out: Tensor) -> None:
        for adapter, rows in zip(self.adapters.adapters, self._rows, strict=True):
            low = adapter.added.get((layer, role))
            if low is None:
                continue
            down, ups = self._matrices(adapter, (layer, role), low, x.dtype)
            narrow = _product(x.index_select(0, rows), down)
            for part in ups:
                if part is not None:
                    first, begin, up = part
                    here = out[:, begin : begin + len(up)]
                    wide = _product(narrow[:, first : first + up.shape[1]], up)
                    here[rows] = here.index_select(0, rows) + wide.to(out.dtype)

    def _matrices(self, adapter: LoadedAdapter, where: tuple[int, str], low: LowRank, dtype: torch.dtype) -> Matrices:
        held = self._held.setdefault(adapter, {})
        found = held.get(where)
        if found is None:
            ups = [
                None if up is None else (up.first, up.begin, to_torch(up.matrix).t().to(self._device, dtype))
                for up in low.ups
            ]
            found = held[where] = to_torch(low.down).to(self._device, dtype), ups
        return found


def _product(x: Tensor, weight: Tensor) -> Tensor:
    """X [rows, in], weight [out, in] -> [rows, out]."""
    if x.device.type != "cpu":
        return F.linear(x, weight)
    rows = len(x)
    tiles = F.pad(x, (0, 0, 0, -rows % TILE)).view(-1, TILE, x.shape[-1])
    return torch.cat([F.linear(tile, weight) for tile in tiles])[:rows]
