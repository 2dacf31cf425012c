"""The reference attention's view of a step: which pages each query reads and writes, as index tensors.

Made from a `StepLayout` once a step and used by every layer.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from argosy_worker.compute.attention.rows import Rows
from argosy_worker.core.blocks import NULL_BLOCK
from argosy_worker.core.layout import Ints, StepLayout

TILE = 128
"""Keys that are multiplied at once. Tiles lie at absolute positions, which is what makes results independent of how a
prompt was cut into chunks. 128 wastes little on short contexts and keeps the number of tiles small on long ones."""


def tile_size(block_size: int) -> int:
    """Keys of a tile for this block size: TILE, or the next multiple of the block size."""
    return -(-TILE // block_size) * block_size


@dataclass(frozen=True, slots=True)
class SingleGroup:
    """All slices of one token (decode), worked on together, longest context first.

    A pair is one sequence and one of its key tiles. Pairs are ordered by tile, and `counts[j]` sequences have a tile j:
    they are the first ones, so that adding a tile's results to the running sums is a plain slice.
    """

    rows: Tensor
    """int64 [S]: row of each sequence in the step."""
    pair_seq: Tensor | None
    """int64 [P]: sequence of each pair; None when each sequence has one tile (pair i is sequence i)."""
    counts: tuple[int, ...]
    keys: Tensor
    """int64 [P * kv_heads * tile / block_size]: cache pages of the keys."""
    values: Tensor
    """The same of the values."""
    masked: Tensor
    """bool [P, 1, 1, tile]: positions beyond the sequence's end."""


@dataclass(frozen=True, slots=True)
class ChunkBlock:
    """Some tokens of one slice, as many as are worked on at once."""

    first: int
    """Row in the step."""
    tokens: int
    tiles: int
    """Key tiles that the last token of the block can see."""
    masked: Tensor
    """bool [n, 1, tokens, 1, tile], of the last n tiles: keys after the query's own position. Others hide none."""


@dataclass(frozen=True, slots=True)
class PrefillRows:
    """A slice of two or more tokens (prefill)."""

    tiles: int
    keys: Tensor
    """int64 [tiles * kv_heads * tile / block_size]: cache pages of the keys, tile by tile, head by head."""
    values: Tensor
    """The same of the values."""
    blocks: tuple[ChunkBlock, ...]


@dataclass(frozen=True, slots=True)
class Tiles:
    """Everything that a layer needs to write its keys and values and to attend."""

    tile: int
    writes: Tensor
    """int64 [rows * 2 * kv_heads]: slot of each row's keys, then values, per head."""
    singles: SingleGroup | None
    chunks: tuple[PrefillRows, ...]


def make_tiles(layout: StepLayout, *, kv_heads: int, rows: Rows, device: torch.device) -> Tiles:
    """The tiles of a step, over a cache whose layers are [blocks, 2 (keys, values), kv_heads, block_size, head_dim]."""
    tile, size = tile_size(layout.block_size), layout.block_size
    blocks, places = np.divmod(layout.slots.astype(np.int64), size)
    writes = (blocks[:, None] * (2 * kv_heads) + np.arange(2 * kv_heads)) * size + places[:, None]
    counts = np.diff(layout.cu_rows)
    ones = np.flatnonzero(counts == 1)
    make = _Maker(layout, tile, kv_heads, device)
    return Tiles(
        tile=tile,
        writes=make.put(writes.ravel()),
        singles=make.singles(ones) if len(ones) else None,
        chunks=tuple(make.chunk(i, rows.query_block) for i in np.flatnonzero(counts > 1).tolist()),
    )


class _Maker:
    def __init__(self, layout: StepLayout, tile: int, kv_heads: int, device: torch.device) -> None:
        self._layout, self._tile, self._kv_heads, self._device = layout, tile, kv_heads, device
        self._per = tile // layout.block_size

    def put(self, array: npt.NDArray[np.generic]) -> Tensor:
        return torch.from_numpy(array).to(self._device)

    def _table(self, sequence: int, end: int) -> npt.NDArray[np.int64]:
        """Blocks of positions 0 .. end, as [tiles, blocks of a tile], filled up with the null block."""
        used = -(-end // self._layout.block_size)
        table = np.full((-(-end // self._tile), self._per), NULL_BLOCK, dtype=np.int64)
        table.reshape(-1)[:used] = self._layout.block_table[sequence, :used]
        return table

    def _pages(self, blocks: npt.NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Pages of the keys and of the values of [n, blocks of a tile]: head by head for each of the n."""
        heads = np.arange(self._kv_heads)[:, None]
        keys = (blocks[:, None, :] * (2 * self._kv_heads) + heads).ravel()
        return self.put(keys), self.put(keys + self._kv_heads)

    def singles(self, ones: Ints | npt.NDArray[np.intp]) -> SingleGroup:
        ends = self._layout.context_lens[ones] - 1
        order = np.argsort(-ends, kind="stable")
        ones, ends = ones[order], ends[order].tolist()
        tables = [self._table(i, end + 1) for i, end in zip(ones, ends, strict=True)]
        longest = len(tables[0])
        pairs = [(i, j) for j in range(longest) for i, table in enumerate(tables) if len(table) > j]
        keys, values = self._pages(np.stack([tables[i][j] for i, j in pairs]))
        last = np.array([ends[i] - j * self._tile for i, j in pairs])  # last visible position, within the tile
        return SingleGroup(
            rows=self.put(self._layout.cu_rows[ones].astype(np.int64)),
            pair_seq=self.put(np.array([i for i, _ in pairs])) if longest > 1 else None,
            counts=tuple(sum(len(table) > j for table in tables) for j in range(longest)),
            keys=keys,
            values=values,
            masked=self.put(np.arange(self._tile) > last[:, None])[:, None, None, :],
        )

    def chunk(self, sequence: int, query_block: int) -> PrefillRows:
        first, after = (int(n) for n in self._layout.cu_rows[sequence : sequence + 2])
        table = self._table(sequence, int(self._layout.context_lens[sequence]))
        keys, values = self._pages(table)
        blocks = []
        for begin in range(first, after, query_block):
            positions = self._layout.positions[begin : min(begin + query_block, after)]
            tiles = -(-int(positions[-1] + 1) // self._tile)
            whole = int(positions[0] + 1) // self._tile * self._tile
            masked = np.arange(whole, tiles * self._tile).reshape(-1, 1, self._tile) > positions[:, None]
            blocks.append(
                ChunkBlock(
                    first=begin, tokens=len(positions), tiles=tiles, masked=self.put(masked)[:, None, :, None, :]
                )
            )
        return PrefillRows(tiles=len(table), keys=keys, values=values, blocks=tuple(blocks))
