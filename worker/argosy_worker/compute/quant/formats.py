"""Storage formats of weights, and their exact dequantization with torch.

Block layouts follow ggml (ggml-common.h; formulas from ggml-quants.c): blocks run along the last dimension of a row,
`d` and `m` are fp16, nibble j of 16 bytes holds element j (low half) and element j + 16 (high half).

    Q4_0  d, 16 B nibbles                      d (q - 8)              32 weights, 18 bytes
    Q4_1  d, m, 16 B nibbles                   d q + m                32, 20
    Q5_0  d, 4 B fifth bits, 16 B nibbles      d (q - 16)             32, 22
    Q5_1  d, m, 4 B fifth bits, 16 B nibbles   d q + m                32, 24
    Q8_0  d, 32 int8                           d q                    32, 34
    Q4_K  d, dmin, 12 B scales, 128 B nibbles  d s q - dmin m         256, 144 (8 groups of 32, 6-bit s and m)
    Q5_K  like Q4_K with 32 B of fifth bits    d s q - dmin m         256, 176
    Q6_K  128 B low, 64 B high bits, 16 int8 scales, d    d s (q - 32)  256, 210 (16 groups of 16)
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from argosy_worker.compute.quant.layout import BLOCKS

_PLAIN = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


@dataclass(frozen=True, slots=True)
class QuantTensor:
    """A matrix as it is stored: `raw` is uint8 [rows, bytes of a row]; `cols` weights in a row."""

    format: str
    raw: Tensor
    cols: int

    @property
    def rows(self) -> int:
        """Number of rows (out features)."""
        return self.raw.shape[0]

    def dequantize(self) -> Tensor:
        """fp32 [rows, cols], on the device of `raw`."""
        return dequantize(self.format, self.raw, self.cols)

    def select(self, rows: Tensor) -> Tensor:
        """Dequantize only these rows (an embedding lookup): int64 [n] -> fp32 [n, cols]."""
        return dequantize(self.format, self.raw.index_select(0, rows), self.cols)

    def columns(self, begin: int, end: int) -> "QuantTensor":
        """These columns alone. Raises ValueError when they would cut a block."""
        block, width = BLOCKS[self.format]
        if begin % block or end % block:
            raise ValueError(f"columns {begin} to {end} cut blocks of {block} {self.format} weights")
        raw = self.raw[:, begin // block * width : end // block * width].contiguous()
        return QuantTensor(self.format, raw, end - begin)

    def permuted(self, order: Tensor) -> "QuantTensor":
        """The same matrix with its rows in another order: int64 [rows]."""
        return QuantTensor(self.format, self.raw.index_select(0, order), self.cols)


def from_bytes(name: str, raw: Tensor, rows: int, cols: int) -> QuantTensor:
    """View uint8 [n] as a matrix of format `name`. Raises ValueError when the sizes do not fit."""
    block, width = BLOCKS[name]
    if cols % block or raw.numel() != rows * (cols // block) * width:
        raise ValueError(f"{raw.numel()} bytes are no {name} matrix of {rows} x {cols}")
    return QuantTensor(name, raw.view(rows, cols // block * width), cols)


def from_plain(tensor: Tensor) -> QuantTensor:
    """A float tensor [rows, cols] (or [n], one row) as it is. Raises KeyError for other types."""
    name = {dtype: name for name, dtype in _PLAIN.items()}[tensor.dtype]
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
    "Q4_K": _q4_k,
    "Q5_K": _q5_k,
    "Q6_K": _q6_k,
}
