"""Storage formats of weights, and their exact dequantization, with numpy or torch.

Block layouts follow ggml (ggml-common.h; formulas from ggml-quants.c): blocks run along the last dimension of a row,
`d` and `m` are fp16, nibble j of 16 bytes holds element j (low half) and element j + 16 (high half).

    Q4_0  d, 16 B nibbles                      d (q - 8)              32 weights, 18 bytes
    Q4_1  d, m, 16 B nibbles                   d q + m                32, 20
    Q5_0  d, 4 B fifth bits, 16 B nibbles      d (q - 16)             32, 22
    Q5_1  d, m, 4 B fifth bits, 16 B nibbles   d q + m                32, 24
    Q8_0  d, 32 int8                           d q                    32, 34
    Q2_K  16 B scales (low half) and minima (high half), 64 B 2-bit, d, dmin    d s q - dmin m    256, 84 (16 groups)
    Q3_K  32 B third bits, 64 B 2-bit, 12 B 6-bit scales, d    d (s - 32) (q - 4)    256, 110 (16 groups of 16)
    Q4_K  d, dmin, 12 B scales, 128 B nibbles  d s q - dmin m         256, 144 (8 groups of 32, 6-bit s and m)
    Q5_K  like Q4_K with 32 B of fifth bits    d s q - dmin m         256, 176
    Q6_K  128 B low, 64 B high bits, 16 int8 scales, d    d s (q - 32)  256, 210 (16 groups of 16)
    IQ4_NL  d, 16 B nibbles                    d table[q]             32, 18
    MXFP4   e, 16 B nibbles                    2**(e - 128) table[q]  32, 17 (e: exponent of OCP's microscaling formats)

F32, F16, BF16, F8_E4M3 and F8_E5M2 are single numbers; so are INT8, UINT8 and INT4 (0 .. 15, one in a byte), which
are no types of files: checkpoints of quantized safetensors are read into them.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from argosy_worker import arrays
from argosy_worker.arrays import Array, floats, integers, is_numpy, joined, like, read_as
from argosy_worker.compute.quant.layout import BLOCKS

_PLAIN = {
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "INT8": "int8",
    "UINT8": "uint8",
    "INT4": "uint8",
}
IQ4_NL = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
_E2M1 = (0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12)
"""Twice the values of four bits with two for the exponent and one for the mantissa."""


@dataclass(frozen=True, slots=True)
class QuantTensor:
    """A matrix as it is stored: `raw` is uint8 [rows, bytes of a row]; `cols` weights in a row.

    Formats whose blocks hold no scales may come with some: a weight is then (number - zero) * scale. Its arrays are all
    of numpy, or all of torch; what is computed from them is, too.
    """

    format: str
    raw: Array
    cols: int
    scale: Array | None = None
    """fp32 [rows, groups]: of as many weights side by side in each group."""
    zero: Array | None = None
    """fp32 [rows, groups], for INT8, UINT8 and INT4."""

    @property
    def rows(self) -> int:
        """Number of rows (out features)."""
        return int(self.raw.shape[0])

    @property
    def group(self) -> int:
        """Weights that share one of the scales; 0 where there are none."""
        return 0 if self.scale is None else self.cols // int(self.scale.shape[1])

    def numbers(self) -> Array:
        """The stored numbers without `zero` and `scale`: fp32 [rows, cols]."""
        return dequantize(self.format, self.raw, self.cols)

    def dequantize(self) -> Array:
        """fp32 [rows, cols], on the device of `raw`."""
        values = self.numbers()
        if self.scale is None:
            return values
        grouped = values.reshape(self.rows, -1, self.group)
        if self.zero is not None:
            grouped = grouped - self.zero[..., None]
        return (grouped * self.scale[..., None]).reshape(self.rows, self.cols)

    def select(self, rows: Array) -> Array:
        """Dequantize only these rows (an embedding lookup): int64 [n] -> fp32 [n, cols]."""
        return self.permuted(rows).dequantize()

    def part(self, begin: int, end: int) -> "QuantTensor":
        """These rows alone, as a view."""
        return self._each(lambda t: t[begin:end])

    def slices(self, rows: int) -> Iterator["QuantTensor"]:
        """All rows in order, so many at a time."""
        return (self.part(begin, begin + rows) for begin in range(0, self.rows, rows))

    def columns(self, begin: int, end: int) -> "QuantTensor":
        """These columns alone. Raises ValueError when they would cut a block or a group."""
        block, width = BLOCKS[self.format]
        whole = self.group or block
        if begin % whole or end % whole:
            raise ValueError(f"columns {begin} to {end} cut blocks of {whole} {self.format} weights")
        scale, zero = (None if t is None else t[:, begin // whole : end // whole] for t in (self.scale, self.zero))
        raw = arrays.solid(self.raw[:, begin // block * width : end // block * width])
        return QuantTensor(self.format, raw, end - begin, scale, zero)

    def permuted(self, order: Array) -> "QuantTensor":
        """The same matrix with its rows in another order: int64 [rows]."""
        return self._each(lambda t: t[order])

    def of_numpy(self) -> "QuantTensor":
        """The same matrix in arrays of numpy, on the CPU."""
        return self if is_numpy(self.raw) else self._each(lambda t: t.numpy())

    def of_torch(self) -> "QuantTensor":
        """The same matrix in tensors of torch, which have the same memory. Loads torch."""
        return self._each(arrays.to_torch) if is_numpy(self.raw) else self

    def to(self, device: Any) -> "QuantTensor":
        """The same matrix, of torch, on another device of torch's."""
        return self._each(lambda t: t.to(device))

    def _each(self, change: Callable[[Array], Array]) -> "QuantTensor":
        scale, zero = (None if t is None else change(t) for t in (self.scale, self.zero))
        return QuantTensor(self.format, change(self.raw), self.cols, scale, zero)


def from_bytes(name: str, raw: Array, rows: int, cols: int) -> QuantTensor:
    """View uint8 [n] as a matrix of format `name`. Raises ValueError when the sizes do not fit."""
    block, width = BLOCKS[name]
    size = math.prod(raw.shape)
    if cols % block or size != rows * (cols // block) * width:
        raise ValueError(f"{size} bytes are no {name} matrix of {rows} x {cols}")
    return QuantTensor(name, raw.reshape(rows, cols // block * width), cols)


def from_plain(tensor: Array) -> QuantTensor:
    """An array of floats [rows, cols] (or [n], one row) as it is. Raises KeyError for other types."""
    kinds = {kind: name for name, kind in _PLAIN.items() if "float" in kind}
    name = kinds[str(tensor.dtype).removeprefix("torch.")]
    matrix = tensor.reshape(1, -1) if len(tensor.shape) == 1 else tensor
    return QuantTensor(name, read_as(matrix, "uint8"), int(matrix.shape[1]))


def dequantize(name: str, raw: Array, cols: int) -> Array:
    """Rows of format `name`: uint8 [rows, bytes] -> fp32 [rows, cols]."""
    if name in _PLAIN:
        return _plain(_PLAIN[name], raw)
    width = BLOCKS[name][1]
    with np.errstate(all="ignore"):  # scales may be no numbers: so are the weights then
        return _DECODERS[name](raw.reshape(-1, width)).reshape(raw.shape[0], cols)


def _plain(kind: str, raw: Array) -> Array:
    if not is_numpy(raw) or kind not in ("bfloat16", "float8_e4m3fn", "float8_e5m2"):
        return floats(read_as(raw, kind))
    if kind == "bfloat16":
        return (read_as(raw, "uint16").astype(np.uint32) << 16).view(np.float32)
    return floats(read_as(arrays.to_torch(raw), kind)).numpy()  # numpy has no floats of 8 bits


def _half(blocks: Array, at: int) -> Array:
    """fp16 at byte `at` of each block: fp32 [blocks, 1]."""
    return floats(read_as(blocks[:, at : at + 2], "float16"))


def _nibbles(packed: Array) -> Array:
    """uint8 [..., n] -> uint8 [..., 2 n]: all low halves, then all high halves."""
    return joined((packed & 15, packed >> 4))


def _fifth_bits(blocks: Array, at: int) -> Array:
    """Bit j of the little-endian u32 at byte `at`: uint8 [blocks, 32]."""
    shifts = like(blocks, np.arange(8, dtype=np.uint8))
    return (blocks[:, at : at + 4, None] >> shifts & 1).reshape(-1, 32)


def _q4_0(b: Array) -> Array:
    return (floats(_nibbles(b[:, 2:])) - 8) * _half(b, 0)


def _q4_1(b: Array) -> Array:
    return floats(_nibbles(b[:, 4:])) * _half(b, 0) + _half(b, 2)


def _q5_0(b: Array) -> Array:
    return (floats(_nibbles(b[:, 6:]) | _fifth_bits(b, 2) << 4) - 16) * _half(b, 0)


def _q5_1(b: Array) -> Array:
    return floats(_nibbles(b[:, 8:]) | _fifth_bits(b, 4) << 4) * _half(b, 0) + _half(b, 2)


def _q8_0(b: Array) -> Array:
    return floats(read_as(b[:, 2:], "int8")) * _half(b, 0)


def _iq4_nl(b: Array) -> Array:
    return _looked_up(IQ4_NL, b[:, 2:]) * _half(b, 0)


def _mxfp4(b: Array) -> Array:
    exponent = integers(b[:, :1])
    small = like(b, np.array([[0x00200000]], dtype=np.int32)) << exponent  # below 2: no normal number
    bits = arrays.where(exponent < 2, small, (exponent - 1) << 23)
    return _looked_up(_E2M1, b[:, 1:]) * read_as(bits, "float32")


def _looked_up(table: tuple[int, ...], packed: Array) -> Array:
    return like(packed, np.array(table, dtype=np.float32))[integers(_nibbles(packed))]


def _crumbs(packed: Array) -> Array:
    """64 bytes of 2-bit numbers -> uint8 [blocks, 16, 16]: each 32 bytes hold four times 32, lowest bits first."""
    shifts = like(packed, np.arange(0, 8, 2, dtype=np.uint8)[:, None])
    return (packed.reshape(-1, 2, 1, 32) >> shifts & 3).reshape(-1, 16, 16)


def _q2_k(b: Array) -> Array:
    scale = floats(b[:, :16] & 15) * _half(b, 80)
    minimum = floats(b[:, :16] >> 4) * _half(b, 82)
    return floats(_crumbs(b[:, 16:80])) * scale[..., None] - minimum[..., None]


def _q3_k(b: Array) -> Array:
    packed = b[:, 96:108]
    low = joined((packed[:, :8] & 15, packed[:, :8] >> 4))
    shifts = like(b, np.arange(0, 8, 2, dtype=np.uint8)[:, None])
    high = (packed[:, None, 8:] >> shifts & 3).reshape(-1, 16)
    scale = (floats(low | high << 4) - 32) * _half(b, 108)
    bits = like(b, np.arange(8, dtype=np.uint8)[:, None])
    third = (b[:, None, :32] >> bits & 1).reshape(
        -1, 16, 16
    )  # bit i of byte j: element 32 i + j; set where 4 is not taken
    return (floats(_crumbs(b[:, 32:96]) | third << 2) - 4) * scale[..., None]


def k_scales(b: Array) -> tuple[Array, Array]:
    """Eight 6-bit scales and eight minima in the 12 bytes after d and dmin, times these: fp32 [blocks, 8, 1] each."""
    s = b[:, 4:16]
    low, mid, high = s[:, :4], s[:, 4:8], s[:, 8:]
    scale = floats(joined((low & 63, (high & 15) | (low >> 6) << 4))) * _half(b, 0)
    minimum = floats(joined((mid & 63, (high >> 4) | (mid >> 6) << 4))) * _half(b, 2)
    return scale[..., None], minimum[..., None]


def k_nibbles(packed: Array) -> Array:
    """128 bytes -> uint8 [blocks, 8, 32]: each 32 bytes hold two groups, low halves first."""
    pairs = packed.reshape(-1, 4, 32)
    return arrays.stacked((pairs & 15, pairs >> 4), 2).reshape(-1, 8, 32)


def _q4_k(b: Array) -> Array:
    scale, minimum = k_scales(b)
    return floats(k_nibbles(b[:, 16:])) * scale - minimum


def _q5_k(b: Array) -> Array:
    scale, minimum = k_scales(b)
    shifts = like(b, np.arange(8, dtype=np.uint8)[:, None])
    fifth = b[:, None, 16:48] >> shifts & 1  # bit g of byte j belongs to element j of group g
    return floats(k_nibbles(b[:, 48:]) | fifth << 4) * scale - minimum


def _q6_k(b: Array) -> Array:
    low = b[:, :128].reshape(-1, 2, 2, 32)
    high = b[:, 128:192].reshape(-1, 2, 1, 32)
    shifts = like(b, np.arange(0, 8, 2, dtype=np.uint8)[:, None])
    q = joined((low & 15, low >> 4), 2) | (high >> shifts & 3) << 4  # [blocks, 2, 4, 32]
    scale = floats(read_as(b[:, 192:208], "int8")) * _half(b, 208)
    return (floats(q.reshape(-1, 16, 16)) - 32) * scale[..., None]


_DECODERS: dict[str, Callable[[Array], Array]] = {
    "Q4_0": _q4_0,
    "Q4_1": _q4_1,
    "Q5_0": _q5_0,
    "Q5_1": _q5_1,
    "Q8_0": _q8_0,
    "Q2_K": _q2_k,
    "Q3_K": _q3_k,
    "Q4_K": _q4_k,
    "Q5_K": _q5_k,
    "Q6_K": _q6_k,
    "IQ4_NL": _iq4_nl,
    "MXFP4": _mxfp4,
}
