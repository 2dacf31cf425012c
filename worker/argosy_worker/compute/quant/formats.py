"""Storage formats of weights, and their exact dequantization with torch.

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

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from argosy_worker.compute.quant.layout import BLOCKS

_PLAIN = {
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "INT8": torch.int8,
    "UINT8": torch.uint8,
    "INT4": torch.uint8,
}
IQ4_NL = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
_E2M1 = (0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12)
"""Twice the values of four bits with two for the exponent and one for the mantissa."""


@dataclass(frozen=True, slots=True)
class QuantTensor:
    """A matrix as it is stored: `raw` is uint8 [rows, bytes of a row]; `cols` weights in a row.

    Formats whose blocks hold no scales may come with some: a weight is then (number - zero) * scale.
    """

    format: str
    raw: Tensor
    cols: int
    scale: Tensor | None = None
    """fp32 [rows, groups]: of as many weights side by side in each group."""
    zero: Tensor | None = None
    """fp32 [rows, groups], for INT8, UINT8 and INT4."""

    @property
    def rows(self) -> int:
        """Number of rows (out features)."""
        return self.raw.shape[0]

    @property
    def group(self) -> int:
        """Weights that share one of the scales; 0 where there are none."""
        return 0 if self.scale is None else self.cols // self.scale.shape[1]

    def numbers(self) -> Tensor:
        """The stored numbers without `zero` and `scale`: fp32 [rows, cols]."""
        return dequantize(self.format, self.raw, self.cols)

    def dequantize(self) -> Tensor:
        """fp32 [rows, cols], on the device of `raw`."""
        values = self.numbers()
        if self.scale is None:
            return values
        grouped = values.view(self.rows, -1, self.group)
        if self.zero is not None:
            grouped = grouped - self.zero[..., None]
        return (grouped * self.scale[..., None]).view(self.rows, self.cols)

    def select(self, rows: Tensor) -> Tensor:
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
        raw = self.raw[:, begin // block * width : end // block * width].contiguous()
        return QuantTensor(self.format, raw, end - begin, scale, zero)

    def permuted(self, order: Tensor) -> "QuantTensor":
        """The same matrix with its rows in another order: int64 [rows]."""
        return self._each(lambda t: t.index_select(0, order))

    def to(self, device: torch.device) -> "QuantTensor":
        """The same matrix on another device."""
        return self._each(lambda t: t.to(device))

    def _each(self, change: Callable[[Tensor], Tensor]) -> "QuantTensor":
        scale, zero = (None if t is None else change(t) for t in (self.scale, self.zero))
        return QuantTensor(self.format, change(self.raw), self.cols, scale, zero)


def from_bytes(name: str, raw: Tensor, rows: int, cols: int) -> QuantTensor:
    """View uint8 [n] as a matrix of format `name`. Raises ValueError when the sizes do not fit."""
    block, width = BLOCKS[name]
    if cols % block or raw.numel() != rows * (cols // block) * width:
        raise ValueError(f"{raw.numel()} bytes are no {name} matrix of {rows} x {cols}")
    return QuantTensor(name, raw.view(rows, cols // block * width), cols)


def from_plain(tensor: Tensor) -> QuantTensor:
    """A float tensor [rows, cols] (or [n], one row) as it is. Raises KeyError for other types."""
    name = {dtype: name for name, dtype in _PLAIN.items() if dtype.is_floating_point}[tensor.dtype]
    matrix = tensor.reshape(1, -1) if tensor.dim() == 1 else tensor
    return QuantTensor(name, matrix.contiguous().view(torch.uint8), matrix.shape[1])


def dequantize(name: str, raw: Tensor, cols: int) -> Tensor:
    """Rows of format `name`: uint8 [rows, bytes] -> fp32 [rows, cols]."""
    if name in _PLAIN:
        return raw.view(_PLAIN[name]).to(torch.float32)
    width = BLOCKS[name][1]
    return _DECODERS[name](raw.reshape(-1, width)).view(raw.shape[0], cols)


def _half(blocks: Tensor, at: int) -> Tensor:
    """fp16 at byte `at` of each block: fp32 [blocks, 1]."""
    return blocks[:, at : at + 2].contiguous().view(torch.float16).float()


def _nibbles(packed: Tensor) -> Tensor:
    """uint8 [..., n] -> uint8 [..., 2 n]: all low halves, then all high halves."""
    return torch.cat((packed & 15, packed >> 4), -1)


def _fifth_bits(blocks: Tensor, at: int) -> Tensor:
    """Bit j of the little-endian u32 at byte `at`: uint8 [blocks, 32]."""
    shifts = torch.arange(8, dtype=torch.uint8, device=blocks.device)
    return (blocks[:, at : at + 4, None] >> shifts & 1).view(-1, 32)


def _q4_0(b: Tensor) -> Tensor:
    return (_nibbles(b[:, 2:]).float() - 8) * _half(b, 0)


def _q4_1(b: Tensor) -> Tensor:
    return _nibbles(b[:, 4:]).float() * _half(b, 0) + _half(b, 2)


def _q5_0(b: Tensor) -> Tensor:
    return ((_nibbles(b[:, 6:]) | _fifth_bits(b, 2) << 4).float() - 16) * _half(b, 0)


def _q5_1(b: Tensor) -> Tensor:
    return (_nibbles(b[:, 8:]) | _fifth_bits(b, 4) << 4).float() * _half(b, 0) + _half(b, 2)


def _q8_0(b: Tensor) -> Tensor:
    return b[:, 2:].view(torch.int8).float() * _half(b, 0)


def _iq4_nl(b: Tensor) -> Tensor:
    return _looked_up(IQ4_NL, b[:, 2:]) * _half(b, 0)


def _mxfp4(b: Tensor) -> Tensor:
    exponent = b[:, :1].to(torch.int32)
    small = torch.tensor(0x00200000, dtype=torch.int32, device=b.device) << exponent  # below 2: no normal number
    bits = torch.where(exponent < 2, small, (exponent - 1) << 23)
    return _looked_up(_E2M1, b[:, 1:]) * bits.view(torch.float32)


def _looked_up(table: tuple[int, ...], packed: Tensor) -> Tensor:
    values = torch.tensor(table, dtype=torch.float32, device=packed.device)
    return values[_nibbles(packed).to(torch.int32)]


def _crumbs(packed: Tensor) -> Tensor:
    """64 bytes of 2-bit numbers -> uint8 [blocks, 16, 16]: each 32 bytes hold four times 32, lowest bits first."""
    shifts = torch.arange(0, 8, 2, dtype=torch.uint8, device=packed.device)[:, None]
    return (packed.reshape(-1, 2, 1, 32) >> shifts & 3).view(-1, 16, 16)


def _q2_k(b: Tensor) -> Tensor:
    scale = (b[:, :16] & 15).float() * _half(b, 80)
    minimum = (b[:, :16] >> 4).float() * _half(b, 82)
    return _crumbs(b[:, 16:80]).float() * scale[..., None] - minimum[..., None]


def _q3_k(b: Tensor) -> Tensor:
    packed = b[:, 96:108]
    low = torch.cat((packed[:, :8] & 15, packed[:, :8] >> 4), 1)
    shifts = torch.arange(0, 8, 2, dtype=torch.uint8, device=b.device)[:, None]
    high = (packed[:, None, 8:] >> shifts & 3).view(-1, 16)
    scale = ((low | high << 4).float() - 32) * _half(b, 108)
    bits = torch.arange(8, dtype=torch.uint8, device=b.device)[:, None]
    third = (b[:, None, :32] >> bits & 1).view(
        -1, 16, 16
    )  # bit i of byte j: element 32 i + j; set where 4 is not taken
    return ((_crumbs(b[:, 32:96]) | third << 2).float() - 4) * scale[..., None]


def _k_scales(b: Tensor) -> tuple[Tensor, Tensor]:
    """Eight 6-bit scales and eight minima in the 12 bytes after d and dmin, times these: fp32 [blocks, 8, 1] each."""
    s = b[:, 4:16]
    low, mid, high = s[:, :4], s[:, 4:8], s[:, 8:]
    scale = torch.cat((low & 63, (high & 15) | (low >> 6) << 4), 1).float() * _half(b, 0)
    minimum = torch.cat((mid & 63, (high >> 4) | (mid >> 6) << 4), 1).float() * _half(b, 2)
    return scale[..., None], minimum[..., None]


def _k_nibbles(packed: Tensor) -> Tensor:
    """128 bytes -> uint8 [blocks, 8, 32]: each 32 bytes hold two groups, low halves first."""
    pairs = packed.view(-1, 4, 32)
    return torch.stack((pairs & 15, pairs >> 4), 2).view(-1, 8, 32)


def _q4_k(b: Tensor) -> Tensor:
    scale, minimum = _k_scales(b)
    return _k_nibbles(b[:, 16:].contiguous()).float() * scale - minimum


def _q5_k(b: Tensor) -> Tensor:
    scale, minimum = _k_scales(b)
    shifts = torch.arange(8, dtype=torch.uint8, device=b.device)[:, None]
    fifth = b[:, None, 16:48] >> shifts & 1  # bit g of byte j belongs to element j of group g
    return (_k_nibbles(b[:, 48:].contiguous()) | fifth << 4).float() * scale - minimum


def _q6_k(b: Tensor) -> Tensor:
    low = b[:, :128].reshape(-1, 2, 2, 32)
    high = b[:, 128:192].reshape(-1, 2, 1, 32)
    shifts = torch.arange(0, 8, 2, dtype=torch.uint8, device=b.device)[:, None]
    q = torch.cat((low & 15, low >> 4), 2) | (high >> shifts & 3) << 4  # [blocks, 2, 4, 32]
    scale = b[:, 192:208].contiguous().view(torch.int8).float() * _half(b, 208)
    return (q.view(-1, 16, 16).float() - 32) * scale[..., None]


_DECODERS: dict[str, Callable[[Tensor], Tensor]] = {
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
