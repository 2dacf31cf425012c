"""Which KV rows each query of a step reads and writes: index tensors, made once a step and used by every layer."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from argosy_worker.core.batch import SequenceSlice

TILE = 128
"""Keys that are multiplied at once. Tiles lie at absolute positions, which is what makes results independent of how a
prompt was cut into chunks. 128 wastes little on short contexts and keeps the number of tiles small on long ones."""
QUERY_BLOCK = 64
"""Query tokens of one slice that are worked on at once; bounds the memory for scores."""
NULL_BLOCK = 0


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
    """Up to QUERY_BLOCK tokens of one slice."""

    first: int
    """Row in the step."""
    tokens: int
    tiles: int
    """Key tiles that the last token of the block can see."""
    masked: Tensor
    """bool [tokens, 1, tiles * tile]: keys after the query's own position."""


@dataclass(frozen=True, slots=True)
class PrefillRows:
    """A slice of two or more tokens (prefill)."""

    keys: Tensor
    """int64 [kv_heads * tiles * tile / block_size]: cache pages of the keys, head by head."""
    values: Tensor
    """The same of the values."""
    blocks: tuple[ChunkBlock, ...]


@dataclass(frozen=True, slots=True)
class AttentionPlan:
    """Everything a layer needs to write its keys and values and to attend."""

    tile: int
    writes: Tensor
    """int64 [rows * 2 * kv_heads]: slot of each row's keys, then values, per head."""
    singles: SingleGroup | None
    chunks: tuple[PrefillRows, ...]


def make_plan(
    slices: Sequence[SequenceSlice], *, block_size: int, kv_heads: int, device: torch.device
) -> AttentionPlan:
    """Plan one step. Rows are the slices' tokens, one slice after another.

    The cache of a layer is [blocks, 2 (keys, values), kv_heads, block_size, head_dim].
    """
    tile = tile_size(block_size)
    first, ones, chunks = 0, [], []
    writes: list[npt.NDArray[np.int64]] = []
    heads = np.arange(2 * kv_heads)
    for s in slices:
        count = len(s.tokens)
        positions = np.arange(s.start, s.start + count)
        blocks = np.asarray(s.table, dtype=np.int64)[positions // block_size]
        writes.append(
            ((blocks[:, None] * (2 * kv_heads) + heads) * block_size + (positions % block_size)[:, None]).ravel()
        )
        if count == 1:
            ones.append((first, s))
        else:
            chunks.append(_chunk(s, first, tile=tile, block_size=block_size, kv_heads=kv_heads, device=device))
        first += count
    return AttentionPlan(
        tile=tile,
        writes=_put(np.concatenate(writes), device),
        singles=_singles(ones, tile, block_size, kv_heads, device) if ones else None,
        chunks=tuple(chunks),
    )


def _put(array: npt.NDArray[np.generic], device: torch.device) -> Tensor:
    return torch.from_numpy(array).to(device)


def _tiled_table(s: SequenceSlice, end: int, tile: int, block_size: int) -> npt.NDArray[np.int64]:
    """Blocks of positions 0 .. end, as [tiles, blocks of a tile], filled up with the null block."""
    used, per = -(-end // block_size), tile // block_size
    table = np.full((-(-end // tile), per), NULL_BLOCK, dtype=np.int64)
    table.reshape(-1)[:used] = s.table[:used]
    return table


def _singles(
    ones: list[tuple[int, SequenceSlice]], tile: int, block_size: int, kv_heads: int, device: torch.device
) -> SingleGroup:
    ones = sorted(ones, key=lambda item: -item[1].start)
    tables = [_tiled_table(s, s.start + 1, tile, block_size) for _, s in ones]
    longest = len(tables[0])
    pairs = [(i, j) for j in range(longest) for i, table in enumerate(tables) if len(table) > j]
    blocks = np.stack([tables[i][j] for i, j in pairs])  # [P, blocks of a tile]
    keys = blocks[:, None, :] * (2 * kv_heads) + np.arange(kv_heads)[:, None]
    ends = np.array([ones[i][1].start - j * tile for i, j in pairs])  # last visible position, within the tile
    return SingleGroup(
        rows=_put(np.array([row for row, _ in ones]), device),
        pair_seq=_put(np.array([i for i, _ in pairs]), device) if longest > 1 else None,
        counts=tuple(sum(len(table) > j for table in tables) for j in range(longest)),
        keys=_put(keys.ravel(), device),
        values=_put(keys.ravel() + kv_heads, device),
        masked=_put(np.arange(tile) > ends[:, None], device)[:, None, None, :],
    )


def _chunk(
    s: SequenceSlice, first: int, *, tile: int, block_size: int, kv_heads: int, device: torch.device
) -> PrefillRows:
    table = _tiled_table(s, s.start + len(s.tokens), tile, block_size).ravel()
    keys = table * (2 * kv_heads) + np.arange(kv_heads)[:, None]
    blocks = []
    for offset in range(0, len(s.tokens), QUERY_BLOCK):
        count = min(QUERY_BLOCK, len(s.tokens) - offset)
        positions = np.arange(s.start + offset, s.start + offset + count)
        tiles = -(-int(positions[-1] + 1) // tile)
        masked = np.arange(tiles * tile) > positions[:, None]
        blocks.append(
            ChunkBlock(first=first + offset, tokens=count, tiles=tiles, masked=_put(masked, device)[:, None, :])
        )
    return PrefillRows(
        keys=_put(keys.ravel(), device), values=_put(keys.ravel() + kv_heads, device), blocks=tuple(blocks)
    )
