"""The torch attention's view of a step: which pages each query reads and writes, as index tensors.

Made from a `StepLayout` once a step, for each window that layers have, and used by all layers with that window.

Keys are cut twice, at absolute positions: into tiles of 128, which are multiplied at once, and into stripes of 16
tiles, whose scores are held at once. The cuts decide how a row's sums are rounded, so they depend on nothing else.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from argosy_worker.compute.attention.rows import Rows
from argosy_worker.core.blocks import NULL_BLOCK
from argosy_worker.core.layout import StepLayout

TILE = 128
"""Keys that are multiplied at once. 128 wastes little on short contexts and keeps the number of tiles small on long
ones."""
STRIPE = 16
"""Tiles whose scores are held at once: 2,048 keys. With 32 heads and 64 queries that is 17 MB."""
PAIR_NUMBERS = 1 << 22
"""Numbers of keys that decoding gathers at once: 16 MB in fp32, and as many for the values."""

Longs = npt.NDArray[np.int64]


def tile_size(block_size: int) -> int:
    """Keys of a tile for this block size: TILE, or the next multiple of the block size."""
    return -(-TILE // block_size) * block_size


@dataclass(frozen=True, slots=True)
class SingleStripe:
    """The keys of one stripe for slices of one token.

    A pair is one sequence and one of its key tiles. Pairs are ordered by the tile's number among the sequence's own
    here, and `counts[j]` sequences have a j-th tile: they are the first ones, so that adding a tile's results to the
    running sums is a plain slice.
    """

    members: Tensor | None
    """int64 [M]: places in the group of the sequences with keys here, most tiles first; None: all, as they are."""
    pair_seq: Tensor | None
    """int64 [P]: place among the members of each pair's sequence; None when each member has one tile."""
    counts: tuple[int, ...]
    keys: Tensor
    """int64 [P * kv_heads * tile / block_size]: cache pages of the keys."""
    values: Tensor
    """The same of the values."""
    masked: Tensor
    """bool [P, 1, 1, tile]: positions that the row does not see."""


@dataclass(frozen=True, slots=True)
class SingleGroup:
    """Slices of one token (decode) that are worked on together."""

    rows: Tensor
    """int64 [S]: row of each sequence in the step."""
    stripes: tuple[SingleStripe, ...]


@dataclass(frozen=True, slots=True)
class Piece:
    """Some tokens of one slice, as many as are worked on at once, and the tiles of a stripe that they see."""

    block: int
    """Number of the tokens' block in the slice."""
    first: int
    """Row in the step."""
    tokens: int
    begin: int
    """First tile, among those of the stripe."""
    tiles: int
    masks: tuple[tuple[int, Tensor], ...]
    """(first tile, bool [n, 1, tokens, 1, tile]: keys that a query does not see). Other tiles hide none."""
    last: bool
    """Whether these are the last tiles that the tokens see."""


@dataclass(frozen=True, slots=True)
class ChunkStripe:
    """The keys of one stripe for a slice of two or more tokens (prefill)."""

    keys: Tensor
    """int64 [tiles * kv_heads * tile / block_size]: cache pages of the keys, tile by tile, head by head."""
    values: Tensor
    """The same of the values."""
    pieces: tuple[Piece, ...]


@dataclass(frozen=True, slots=True)
class View:
    """What layers with one window see."""

    singles: tuple[SingleGroup, ...]
    chunks: tuple[tuple[ChunkStripe, ...], ...]


@dataclass(frozen=True, slots=True)
class Tiles:
    """Everything that layers need to write their keys and values and to attend."""

    tile: int
    writes: Tensor
    """int64 [rows * 2 * kv_heads]: slot of each row's keys, then values, per head."""
    views: dict[int, View]
    """By window; 0: all positions."""


def make_tiles(
    layout: StepLayout,
    *,
    kv_heads: int,
    head_dim: int,
    rows: Rows,
    device: torch.device,
    windows: Collection[int] = (0,),
    stripe: int = STRIPE,
) -> Tiles:
    """The tiles of a step, over a cache whose layers are [blocks, 2 (keys, values), kv_heads, block_size, head_dim]."""
    tile, size = tile_size(layout.block_size), layout.block_size
    blocks, places = np.divmod(layout.slots.astype(np.int64), size)
    writes = (blocks[:, None] * (2 * kv_heads) + np.arange(2 * kv_heads)) * size + places[:, None]
    counts = np.diff(layout.cu_rows)
    ones, more = np.flatnonzero(counts == 1), np.flatnonzero(counts > 1).tolist()
    make = _Maker(layout, tile, kv_heads, stripe, device)
    most_pairs = max(1, PAIR_NUMBERS // (kv_heads * tile * head_dim))
    return Tiles(
        tile=tile,
        writes=make.put(writes.ravel()),
        views={
            window: View(
                singles=tuple(make.singles(ones, window, most_pairs)),
                chunks=tuple(tuple(make.chunk(i, window, rows.query_block)) for i in more),
            )
            for window in windows
        },
    )


class _Maker:
    def __init__(self, layout: StepLayout, tile: int, kv_heads: int, stripe: int, device: torch.device) -> None:
        self._layout, self._tile, self._kv_heads, self._device = layout, tile, kv_heads, device
        self._stripe = stripe
        sequences, used = layout.block_table.shape
        per = tile // layout.block_size
        tables = np.full((sequences, -(-used // per) * per), NULL_BLOCK, dtype=np.int64)
        tables[:, :used] = layout.block_table
        self._tables = tables.reshape(sequences, -1, per)  # [sequence, tile] -> blocks

    def put(self, array: npt.NDArray[np.generic]) -> Tensor:
        return torch.from_numpy(array).to(self._device)

    def _pages(self, blocks: Longs) -> tuple[Tensor, Tensor]:
        """Pages of the keys and of the values of [n, blocks of a tile]: head by head for each of the n."""
        heads = np.arange(self._kv_heads)[:, None]
        keys = (blocks[:, None, :] * (2 * self._kv_heads) + heads).ravel()
        return self.put(keys), self.put(keys + self._kv_heads)

    def _first_tile(self, positions: Longs, window: int) -> Longs:
        """First tile that rows at these positions see."""
        seen = np.maximum(positions - (window - 1), 0) // self._tile
        return seen if window else np.zeros_like(positions)

    def _hidden(self, tiles: Longs, positions: Longs, window: int) -> npt.NDArray[np.bool_]:
        """Keys of tiles [n] that rows at positions [n or 1, m] do not see: [n, m, tile]."""
        keys = (tiles[:, None] * self._tile + np.arange(self._tile))[:, None, :]
        hidden = keys > positions[..., None]
        return hidden | (keys <= positions[..., None] - window) if window else hidden

    def singles(self, ones: npt.NDArray[np.intp], window: int, most_pairs: int) -> Iterator[SingleGroup]:
        """Groups of at most `most_pairs` pairs in a stripe (and of one sequence at least), longest context first."""
        ends = self._layout.context_lens[ones].astype(np.int64) - 1
        order = np.argsort(-ends, kind="stable")
        ones, ends = ones[order], ends[order]
        tiles = np.minimum(ends // self._tile - self._first_tile(ends, window) + 1, self._stripe)
        begin, pairs = 0, 0
        for i, count in enumerate(tiles.tolist()):
            if pairs + count > most_pairs and i > begin:
                yield self._group(ones[begin:i], ends[begin:i], window)
                begin, pairs = i, 0
            pairs += count
        if len(ones):
            yield self._group(ones[begin:], ends[begin:], window)

    def _group(self, sequences: npt.NDArray[np.intp], ends: Longs, window: int) -> SingleGroup:
        begins, afters = self._first_tile(ends, window), ends // self._tile + 1
        stripes = []
        for edge in range(int(begins.min()) // self._stripe * self._stripe, int(afters.max()), self._stripe):
            firsts = np.maximum(begins, edge)
            counts = np.minimum(afters, edge + self._stripe) - firsts
            members = np.argsort(-counts, kind="stable")
            members = members[counts[members] > 0]
            if len(members):
                stripes.append(self._single_stripe(sequences, ends, members, firsts[members], counts[members], window))
        return SingleGroup(rows=self.put(self._layout.cu_rows[sequences].astype(np.int64)), stripes=tuple(stripes))

    def _single_stripe(  # noqa: PLR0917  # arrays of one table
        self,
        sequences: npt.NDArray[np.intp],
        ends: Longs,
        members: npt.NDArray[np.intp],
        firsts: Longs,
        counts: Longs,
        window: int,
    ) -> SingleStripe:
        has = counts > np.arange(counts[0])[:, None]  # [tile, member]
        number, who = np.nonzero(has)
        tiles = firsts[who] + number
        keys, values = self._pages(self._tables[sequences[members[who]], tiles])
        in_order = np.array_equal(members, np.arange(len(sequences)))
        return SingleStripe(
            members=None if in_order else self.put(members),
            pair_seq=self.put(who) if counts[0] > 1 else None,
            counts=tuple(has.sum(1).tolist()),
            keys=keys,
            values=values,
            masked=self.put(self._hidden(tiles, ends[members[who]][:, None], window))[:, None],
        )

    def chunk(self, sequence: int, window: int, query_block: int) -> Iterator[ChunkStripe]:
        """The stripes that the rows of a slice see, in order."""
        first, after = (int(n) for n in self._layout.cu_rows[sequence : sequence + 2])
        starts = range(first, after, query_block)
        rows = [self._layout.positions[begin : min(begin + query_block, after)].astype(np.int64) for begin in starts]
        spans = [(int(self._first_tile(p[:1], window)[0]), int(p[-1]) // self._tile + 1) for p in rows]
        begin, end = spans[0][0], spans[-1][1]
        for edge in range(begin // self._stripe * self._stripe, end, self._stripe):
            low, high = max(begin, edge), min(end, edge + self._stripe)
            keys, values = self._pages(self._tables[sequence, low:high])
            pieces = []
            for number, (row, positions, span) in enumerate(zip(starts, rows, spans, strict=True)):
                tiles = np.arange(max(low, span[0]), min(high, span[1]))
                if len(tiles):
                    pieces.append(
                        Piece(
                            block=number,
                            first=row,
                            tokens=len(positions),
                            begin=int(tiles[0]) - low,
                            tiles=len(tiles),
                            masks=tuple(self._masks(tiles, positions, window)),
                            last=span[1] <= high,
                        )
                    )
            yield ChunkStripe(keys=keys, values=values, pieces=tuple(pieces))

    def _masks(self, tiles: Longs, positions: Longs, window: int) -> Iterator[tuple[int, Tensor]]:
        """Of tiles in a row: (first, mask) of each run of tiles in which some row does not see some key."""
        partly = (tiles + 1) * self._tile - 1 > positions[0]
        if window:
            partly |= tiles * self._tile <= positions[-1] - window
        found = np.flatnonzero(partly)
        for run in np.split(found, np.flatnonzero(np.diff(found) > 1) + 1):
            if len(run):
                hidden = self._hidden(tiles[run], positions[None], window)
                yield int(run[0]), self.put(hidden)[:, None, :, None, :]
