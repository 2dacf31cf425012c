"""How a linear with weights of 4 or 8 bits is computed for so many rows. Pure: no torch, no Triton.

Few rows wait for the weights to be read, so these are read as they are held. Many rows wait for the tensor cores, which
cuBLAS keeps busier: there the weights are made floats first. Where the one ends and the other begins is arithmetic.
Writing and reading the floats costs 4 bytes a weight, at 3 TB/s 1.3 ps; a row costs 2 operations a weight, at 800
TFLOP/s 2.5 fs, and on kernels that are half as good as cuBLAS as much again: 533 rows. benchmarks/gpu.py measures both
sides of it.

Where activations may have 8 bits, too, tensor cores compute whole numbers, twice as fast. Few rows gain nothing by it:
they wait for the weights, which are the same bytes. On a kernel that is half as good as cuBLAS a row costs 5 fs a
weight, and the weight's byte 333 fs: from 67 rows on the arithmetic takes longer. So from 65 on, which are a tile more.
"""

from dataclasses import dataclass, replace

_FLOATS_FROM = 513
"""Rows from which on weights are made floats first."""
_CODED_FROM = 65
"""Rows from which on activations get 8 bits where they may."""
FLOAT8_FROM = (8, 9)
"""Compute capability from which on tensor cores multiply floats of 8 bits."""
_LEAST_BLOCKS = 4
"""Blocks of the inputs that a split has at least."""
_WAVES = 2


@dataclass(frozen=True, slots=True)
class LinearTile:
    """A shape of the kernel: [outputs, inputs at once] x [inputs, rows]."""

    rows: int
    outputs: int
    inputs: int
    warps: int
    stages: int


@dataclass(frozen=True, slots=True)
class Path:
    """How to compute."""

    tile: LinearTile | None
    """None: make floats, and leave the rest to cuBLAS."""
    splits: int = 1
    """Parts of the inputs, each of a program of its own; their sums are added in order."""
    coded: bool = False
    """Whether activations get 8 bits first."""


def half_of(group: int) -> int:
    """Bytes of a block of 4-bit weights, which holds twice as many: a half lies within a group."""
    return min(group, 64)


def path(*, rows: int, outputs: int, inputs: int, bits: int, group: int, multiprocessors: int) -> Path:
    """For x [rows, inputs] and weights [outputs, inputs]; `group` 0: a scale for each output."""
    if rows >= _FLOATS_FROM:
        return Path(None)
    tile = tile_for(rows, bits, group)
    return Path(tile, _splits(tile, rows, outputs, inputs, multiprocessors))


def takes_codes(rows: int) -> bool:
    """Whether activations of so many rows get 8 bits where they may."""
    return rows >= _CODED_FROM


def float8_product(*, rows: int, outputs: int, inputs: int, capability: tuple[int, int]) -> bool:
    """Whether activations of so many rows get e4m3, and torch multiplies them with weights of e4m3.

    It does that from compute capability 8.9 on, for outputs and inputs that are multiples of 16. Else weights are read
    as they are held, and multiplied in the activations' type.
    """
    return takes_codes(rows) and capability >= FLOAT8_FROM and outputs % 16 == inputs % 16 == 0


def coded_path(*, rows: int, outputs: int, inputs: int, multiprocessors: int) -> Path:
    """For activations in 8 bits and int8 weights with a scale for each output."""
    tile = coded_tile(rows)
    return Path(tile, _splits(tile, rows, outputs, inputs, multiprocessors), coded=True)


def coded_tile(rows: int) -> LinearTile:
    """The tile of whole numbers for so many rows."""
    return LinearTile(64, 64, 128, 4, 4) if rows <= 256 else LinearTile(128, 128, 128, 8, 3)


def _splits(tile: LinearTile, rows: int, outputs: int, inputs: int, multiprocessors: int) -> int:
    """Parts of the inputs: as many as fill the GPU, with some blocks in each."""
    programs = -(-outputs // tile.outputs) * -(-rows // tile.rows)
    wanted = -(-_WAVES * multiprocessors // programs)
    return max(1, min(wanted, -(-inputs // tile.inputs) // _LEAST_BLOCKS, 16))


def tile_for(rows: int, bits: int, group: int) -> LinearTile:
    """The tile for so many rows."""
    columns = 16 if rows <= 16 else 32 if rows <= 32 and (bits == 4 or group in (0, 128)) else 64
    if bits == 4:
        return LinearTile(columns, 64, 2 * half_of(group), 4, 4)
    return LinearTile(columns, 64, min(group or 128, 128), 4, 4 if columns < 64 else 3)


def rows_of_tile(pairs: int, experts: int) -> int:
    """Pairs of a tile where so many are spread over the experts: enough for a mean expert's rows, at most 64."""
    return 16 if pairs <= 16 * experts else 64


def most_tiles(pairs: int, experts: int, rows: int) -> int:
    """Tiles of so many rows that there are at most, however pairs are spread."""
    return min(pairs, pairs // rows + experts)


def pairs_at_once(pairs: int) -> int:
    """Pairs that are looked through at once, where each expert's are found."""
    return 256 if pairs <= 1024 else 2048


def grouped_tile(rows: int, bits: int, group: int, width: int = 2) -> LinearTile:
    """The tile of a product of experts: that of a linear, or, where weights are floats of so many bytes, its own."""
    if bits != 16:
        return replace(tile_for(rows, bits, group), rows=rows)
    if width == 4:
        return LinearTile(rows, 64, 32, 4, 3)
    return LinearTile(rows, 64, 64, 4 if rows < 64 else 8, 4)
