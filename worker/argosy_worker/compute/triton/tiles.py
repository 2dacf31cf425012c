"""Which tiles attention's kernel gets, and into how many ranges it cuts the keys. Pure: no torch, no Triton.

The sizes are those that compile without spilled registers for sm_80, sm_89 and sm_90 (`make test-gpu-kernels`); which
of them are fastest is for a GPU to say (benchmarks/gpu.py).
"""

from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int32]

SHORT_RANGE = 256
"""Keys of a range at least, where keys are cut to fill the GPU: with fewer, joining costs more than it gains."""
CHUNK = 512
"""Keys of a range where sums must not depend on the step."""
MOST_SPLITS = 64
_WAVES = 2
"""Programs for each multiprocessor that are enough: what two of them have on the way hides the memory's latency."""


@dataclass(frozen=True, slots=True)
class Tile:
    """A shape of the kernel."""

    rows: int
    """Of the product: tokens times query heads of a key/value head."""
    keys: int
    """That are multiplied at once."""
    warps: int
    stages: int
    """Of the pipeline that loads keys and values."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Heads:
    """Shape of a model's attention."""

    heads: int
    kv_heads: int
    head_dim: int
    width: int
    """Bytes of a number of the activations: 4 (fp32) or 2."""
    coded: bool = False
    """Whether keys and values are held in 8 bits: they take registers on their way to 16."""

    @property
    def queries(self) -> int:
        """Query heads of each key/value head."""
        return self.heads // self.kv_heads

    @property
    def padded_dim(self) -> int:
        """The next power of two."""
        return 1 << max(4, (self.head_dim - 1).bit_length())


def least_rows(queries: int) -> int:
    """Rows of the smallest tile: tensor cores multiply 16 at a time."""
    return max(16, 1 << (queries - 1).bit_length())


def tile_for(shape: Heads, tokens: int) -> Tile:
    """The tile for sequences of at most so many tokens in a step."""
    least, dim = least_rows(shape.queries), shape.padded_dim
    if shape.width == 4:
        return Tile(least, 16 if dim > 64 else 32, 4, 2)
    if tokens * shape.queries <= least < 64:
        return Tile(least, 16, 4, 2) if dim > 128 else Tile(least, 32 if dim > 64 else 64, 4, 3)
    if tokens * shape.queries <= 64 and least <= 32:
        return Tile(32, 32, 4, 2 if dim > 128 else 3)
    if dim > 128:
        return Tile(64, 32, 8, 2)
    if shape.coded:
        return Tile(64, 32, 4, 3) if dim > 64 else Tile(64, 64, 8, 2)
    return Tile(128, 64, 8, 2)


def invariant_tile(shape: Heads) -> Tile:
    """The one tile of all sequences, where sums must not depend on the step."""
    if shape.width == 2:  # it holds its sums twice
        return Tile(least_rows(shape.queries), 16, *((8, 2) if shape.padded_dim > 128 else (4, 3)))
    return tile_for(shape, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """Tiles of one shape: the sequences of a step that have few tokens, or those that have many."""

    tile: Tile
    begin: int
    """First of them, among all of the step's."""
    count: int
    tokens: int
    """Of the fullest tile."""
    keys: int
    """That a tile's sequence has at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a step's launches are."""

    sequence: Ints
    """[tiles]: whose tokens a tile holds."""
    block: Ints
    """[tiles]: which of its tokens: so many blocks of a tile's tokens come before."""
    launches: tuple[Launch, ...]


def plan(shape: Heads, cu_rows: Ints, context_lens: Ints, *, invariant: bool = False) -> Plan:
    """Tiles of a step: first those of the sequences whose tokens fit into one of the smallest.

    Args:
        shape: of the attention.
        cu_rows: int32 [S + 1], as in a `StepLayout`.
        context_lens: int32 [S], likewise.
        invariant: one shape of tile for all, so that a row's sums do not depend on the company.

    """
    counts = np.diff(cu_rows)
    fits = counts * shape.queries <= least_rows(shape.queries)
    groups = [np.flatnonzero(fits), np.flatnonzero(~fits)] if not invariant else [np.arange(len(counts))]
    sequences, blocks, launches = [], [], []
    for group in groups:
        if not len(group):
            continue
        most = int(counts[group].max())
        tile = invariant_tile(shape) if invariant else tile_for(shape, most)
        tokens = tile.rows // shape.queries
        tiles = -(-counts[group] // tokens)
        sequences.append(np.repeat(group, tiles))
        blocks.append(np.arange(int(tiles.sum())) - np.repeat(np.cumsum(tiles) - tiles, tiles))
        launches.append((tile, int(tiles.sum()), min(most, tokens), int(context_lens[group].max())))
    begins = [0, *accumulate(count for _, count, _, _ in launches)]
    return Plan(
        sequence=np.concatenate(sequences).astype(np.int32),
        block=np.concatenate(blocks).astype(np.int32),
        launches=tuple(
            Launch(tile=tile, begin=begin, count=count, tokens=tokens, keys=keys)
            for begin, (tile, count, tokens, keys) in zip(begins, launches, strict=False)
        ),
    )


def splits(launch: Launch, kv_heads: int, multiprocessors: int, window: int, *, invariant: bool = False) -> int:
    """Ranges that keys are cut into, by how many programs there would be without, and how many keys there are.

    So few tokens or many, one sequence or hundreds: where the GPU is not full, keys are cut. Each tile makes as many of
    the ranges as its own keys allow, on the device; the others are empty. `invariant`: the cuts are given, and the
    question is only whether each is a program.
    """
    keys = min(launch.keys, window + launch.tokens + launch.tile.keys) if window else launch.keys
    programs = launch.count * kv_heads
    wanted = -(-_WAVES * multiprocessors // programs)
    if invariant:
        cuts = keys // CHUNK + 2 if window else -(-keys // CHUNK)
        return cuts if wanted > 1 else 1
    return max(1, min(wanted, -(-keys // SHORT_RANGE), MOST_SPLITS))
