"""How many rows a product of attention may have here, so that each row's bits do not depend on the others.

torch multiplies batches of matrices through MKL, which picks a kernel by the number of rows, and other kernels on each
kind of processor: rows of 1, 2, 3 and of 4 and more differ on one, of up to 7 and from 8 on another, of up to 12 and
from 16 on a third; with AVX2 on a fourth (Cascade Lake) even 16 rows differ by how many products there are. So the
sizes are found on the very machine: rows are padded to a multiple of the smallest number for which all sizes that can
occur give the same bits; where there is none, every product gets the same number of rows.
"""

import functools
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from argosy_worker.compute.probe import on_threads, pattern

QUERY_BLOCK = 64
"""Query tokens of one slice that are worked on at once; bounds the memory for scores."""
MULTIPLES = (4, 8, 16, 32)
FIXED = (16, 24)
"""For products of one number of rows: AVX2 kernels work on 4 or 6 rows at a time, so 24 leaves none of them a rest."""
_ALL_UP_TO = 64
"""So many sizes are all tried; of more, the smaller ones and every eighth."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Sizes of the products of a model's attention."""

    multiple: int
    """Rows are padded to a multiple of this."""
    query_block: int
    """Query tokens of one slice that are worked on at once."""

    def padded(self, rows: int) -> int:
        """Rows of the product for so many real ones."""
        return -(-rows // self.multiple) * self.multiple


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What decides the shapes of the products: [kv_heads, rows, head_dim] x [head_dim, tile], and the way back."""

    kv_heads: int
    queries: int
    """Query heads of each key/value head."""
    head_dim: int
    tile: int


@functools.cache
def choose(shape: Shape, threads: int) -> tuple[Rows, str | None]:
    """The sizes for this machine, and what is wrong with them when even one fixed size does not help."""
    for multiple in MULTIPLES:
        rows = Rows(multiple, QUERY_BLOCK)
        if problem(shape, rows, threads) is None:
            return rows, None
    tried = []
    for fixed in FIXED:
        size = -(-shape.queries // fixed) * fixed
        rows = Rows(size, size // shape.queries)
        tried.append((rows, problem(shape, rows, threads)))
        if tried[-1][1] is None:
            return tried[-1]
    return tried[0]


def operands(shape: Shape, rows: Rows) -> Iterator[tuple[Tensor, Tensor]]:
    """Fixed numbers for both products (queries x keys, weights x values) at their largest."""
    most = rows.padded(rows.query_block * shape.queries)
    for wide, columns, transposed in ((shape.head_dim, shape.tile, True), (shape.tile, shape.head_dim, False)):
        left = pattern(shape.kv_heads * most, wide).view(shape.kv_heads, most, wide)
        # as in use: keys are rows to be transposed, values are columns already
        right = pattern(shape.kv_heads * columns, wide).view(shape.kv_heads, columns, wide).transpose(1, 2)
        yield left, right if transposed else right.contiguous()


def problem(shape: Shape, rows: Rows, threads: int) -> str | None:
    """Multiply with every number of rows that can occur, with one thread and with all; say where a row differs."""
    for name, (left, right) in zip(("q k", "w v"), operands(shape, rows), strict=True):
        most = left.shape[1]
        with on_threads(threads):
            full = torch.bmm(left, right)
        for used in {1, threads}:
            with on_threads(used):
                for size in _sizes(rows.multiple, most):
                    if not torch.equal(torch.bmm(left[:, :size].contiguous(), right), full[:, :size]):
                        return f"attention: rows of a product ({name}) of {size} rows differ from those of {most}"
                if not _batches(left[:, : rows.multiple], right, full[:, : rows.multiple]):
                    return f"attention: rows of a product ({name}) depend on the number of products"
        moved = left[:, :1].expand(-1, rows.multiple, -1).contiguous()
        if not torch.equal(torch.bmm(moved, right), full[:, :1].expand(-1, rows.multiple, -1)):
            return f"attention: rows of a product ({name}) depend on their place in it"
    return None


def _sizes(multiple: int, most: int) -> Iterator[int]:
    for i, size in enumerate(range(multiple, most + 1, multiple)):
        if i < _ALL_UP_TO or i % 8 == 0 or size == most:
            yield size


def _batches(left: Tensor, right: Tensor, full: Tensor) -> bool:
    """Whether one product, and 8 times as many, give the same."""
    many = torch.bmm(left.repeat(8, 1, 1), right.repeat(8, 1, 1))
    one = torch.bmm(left[:1].contiguous(), right[:1])
    return torch.equal(many, full.repeat(8, 1, 1)) and torch.equal(one, full[:1])
