"""Launches of the kernels of `kernels/experts.py`. Loads Triton."""

from typing import NamedTuple

import torch
from torch import Tensor

from argosy_worker.compute.config import Experts
from argosy_worker.compute.triton.kernels.experts import grouped_linear, join_experts, order_pairs, pick_experts
from argosy_worker.compute.triton.paths import grouped_tile, most_tiles, pairs_at_once, rows_of_tile

_JOINED_AT_ONCE = 1024


class Held(NamedTuple):
    """A linear's weights on the device: those of a `Packed`, or floats [outputs, inputs] without scales."""

    weight: Tensor
    scale: Tensor | None
    middle: Tensor | None
    bias: Tensor | None
    inputs: int
    group: int


class Bank(NamedTuple):
    """One linear of all experts: their `Held` tensors, with a dimension of experts before the others."""

    weight: Tensor
    scale: Tensor | None
    middle: Tensor | None
    bias: Tensor | None
    inputs: int
    group: int

    @property
    def outputs(self) -> int:
        """Of each expert."""
        return int(self.weight.shape[1])

    @property
    def bits(self) -> int:
        """Of a weight; 16: floats."""
        return 16 if self.scale is None else 8 if self.middle is None else 4


def room(one: Held, count: int) -> Bank:
    """For so many experts that are held as this one."""
    weight, scale, middle, bias = (None if t is None else t.new_empty((count, *t.shape)) for t in _tensors(one))
    if weight is None:
        raise ValueError("no weights")
    return Bank(weight, scale, middle, bias, one.inputs, one.group)


def put(held: Bank, number: int, one: Held) -> None:
    """Copy an expert's weights to their place. Raises ValueError where they are not held as the others are."""
    for whole, part in zip(_tensors(held), _tensors(one), strict=True):
        if whole is None and part is None:
            continue
        if whole is None or part is None or whole.shape[1:] != part.shape:
            raise ValueError(f"expert {number} is not held as those before it")
        whole[number] = part


def _tensors(held: Held | Bank) -> tuple[Tensor | None, ...]:
    return held.weight, held.scale, held.middle, held.bias


class Routing(NamedTuple):
    """Who computes what in a step: see `kernels/experts.py`."""

    chosen: Tensor
    """int32 [rows, used]."""
    weights: Tensor
    """fp32 [rows, used]."""
    order: Tensor
    """int32 [pairs]."""
    tiles: Tensor
    """int32 [3, tiles]."""
    tile_rows: int
    """Pairs of a tile."""


def routing(scores: Tensor, spec: Experts) -> Routing:
    """Choose each row's experts by scores [rows, count], and sort the pairs. The host does not wait."""
    rows, pairs, device = len(scores), len(scores) * spec.used, scores.device
    block = 1 << (spec.count - 1).bit_length()
    tile_rows = rows_of_tile(pairs, spec.count)
    most = most_tiles(pairs, spec.count, tile_rows)
    whole = torch.zeros(spec.count, dtype=torch.int32, device=device)
    chosen = torch.empty((rows, spec.used), dtype=torch.int32, device=device)
    weights = torch.empty((rows, spec.used), dtype=torch.float32, device=device)
    order = torch.empty(pairs, dtype=torch.int32, device=device)
    tiles = torch.empty((3, most), dtype=torch.int32, device=device)
    pick_experts[(rows,)](
        scores.contiguous(), chosen, weights, whole, spec.count, spec.used, BLOCK=block,
        UB=1 << (spec.used - 1).bit_length(), NORMALIZED=spec.normalized, num_warps=1, num_stages=1,
    )  # fmt: skip
    order_pairs[(spec.count,)](
        chosen, whole, order, tiles, pairs, most, spec.count, BM=tile_rows, BLOCK=block, NB=pairs_at_once(pairs),
        num_warps=4, num_stages=1,
    )  # fmt: skip
    return Routing(chosen, weights, order, tiles, tile_rows)


def products(x: Tensor, held: Bank, found: Routing, *, scatter: bool) -> Tensor:
    """Each pair's product with the weights of its expert: -> [pairs, outputs], in x's type.

    x [rows, inputs] gives results in the pairs' order; with `scatter` x [pairs, inputs] is in that order, and the
    results are by number of the pair.
    """
    pairs = len(found.order)
    tile = grouped_tile(found.tile_rows, held.bits, held.group, x.element_size())
    out = torch.empty((pairs, held.outputs), dtype=x.dtype, device=x.device)
    grouped_linear[-(-held.outputs // tile.outputs), found.tiles.shape[1]](
        x, held.weight, out if held.scale is None else held.scale, out if held.middle is None else held.middle,
        out if held.bias is None else held.bias, out, found.order, found.tiles, held.outputs, held.inputs, x.stride(0),
        found.chosen.shape[1], held.weight.shape[2] // (tile.inputs // 2) if held.bits == 4 else 0,
        0 if held.scale is None else held.scale.shape[1], BITS=held.bits, GROUP=held.group, BM=tile.rows,
        BN=tile.outputs, BK=tile.inputs, SCATTER=scatter, HAS_BIAS=held.bias is not None, num_warps=tile.warps,
        num_stages=tile.stages,
    )  # fmt: skip
    return out


def join(parts: Tensor, weights: Tensor) -> Tensor:
    """The weighted sum of each row, in the order of the weights: parts [rows * used, columns] -> [rows, columns]."""
    rows, used = weights.shape
    out = torch.empty((rows, parts.shape[1]), dtype=parts.dtype, device=parts.device)
    join_experts[rows, -(-parts.shape[1] // _JOINED_AT_ONCE)](
        parts, weights, out, parts.shape[1], used, BLOCK=_JOINED_AT_ONCE, num_warps=4, num_stages=1
    )
    return out
