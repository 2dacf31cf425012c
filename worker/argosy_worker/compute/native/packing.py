"""Weights as the native kernels hold them (argosy_cpu.h): tiles of 16 outputs, blocks of 32 inputs.

What a checkpoint has in 4 bits keeps its numbers (Q4_0, Q4_1); so does Q8_0. All else is rounded to Q8_0's form.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from argosy_worker.compute.native.arena import Arena
from argosy_worker.compute.quant.formats import QuantTensor
from argosy_worker.compute.quant.linear import ROWS_AT_ONCE
from argosy_worker.compute.quant.precision import OWN_FOUR, OWN_GROUP, OWN_TILE

_BLOCK = {4: 256 + 64, 8: 512 + 32}
_LEAST = 6e-8
"""The smallest fp16 scale: a block whose largest weight is smaller becomes zeros."""


def bits_of(formats: Sequence[str]) -> int:
    """4 where all parts have 4 bits, else 8."""
    return 4 if all(name in OWN_FOUR for name in formats) else 8


def pack(parts: Sequence[QuantTensor], bits: int, arena: Arena) -> Tensor:
    """Parts, one below the other -> uint8 [tiles, blocks, bytes of a block], in the arena."""
    outputs, blocks = sum(part.rows for part in parts), parts[0].cols // OWN_GROUP
    packed = arena.empty((outputs // OWN_TILE, blocks, _BLOCK[bits]))
    for begin in range(0, outputs, ROWS_AT_ONCE):
        end = min(begin + ROWS_AT_ONCE, outputs)
        found = [_four(rows) if bits == 4 else _eight(rows) for rows in _between(parts, begin, end)]
        numbers, scales = (torch.cat(each) for each in zip(*found, strict=True))
        _lay_out(numbers, scales, packed[begin // OWN_TILE : end // OWN_TILE], bits)
    return packed


def _between(parts: Sequence[QuantTensor], begin: int, end: int) -> Iterator[QuantTensor]:
    """These rows of the parts, as if they lay one below the other."""
    first = 0
    for part in parts:
        low, high = max(begin - first, 0), min(end - first, part.rows)
        if low < high:
            yield part.part(low, high)
        first += part.rows


def _four(rows: QuantTensor) -> tuple[Tensor, Tensor]:
    """0 .. 15 uint8 [rows, blocks, 32]; scale and minimum fp16 [rows, blocks, 2]."""
    width = 20 if rows.format == "Q4_1" else 18
    blocks = rows.raw.view(rows.rows, -1, width)
    half = blocks[..., : width - 16].contiguous().view(torch.float16)
    nibbles = blocks[..., width - 16 :]
    scales = half if rows.format == "Q4_1" else torch.cat((half, half * -8), -1)
    return torch.cat((nibbles & 15, nibbles >> 4), -1), scales


def _eight(rows: QuantTensor) -> tuple[Tensor, Tensor]:
    """Q + 128 uint8 [rows, blocks, 32]; the scale twice, fp16 [rows, blocks, 2]."""
    if rows.format == "Q8_0":
        blocks = rows.raw.view(rows.rows, -1, 34)
        scale = blocks[..., :2].contiguous().view(torch.float16)
        return blocks[..., 2:] ^ 128, scale.expand(-1, -1, 2)
    values = rows.dequantize().view(rows.rows, -1, OWN_GROUP)
    scale = (values.abs().amax(-1, keepdim=True) / 127).half()
    divisor = scale.float()
    numbers = torch.where(divisor > _LEAST, values / divisor.clamp(min=_LEAST), 0.0).round_().clamp_(-127, 127)
    return (numbers + 128).to(torch.uint8), scale.expand(-1, -1, 2)


def _lay_out(numbers: Tensor, scales: Tensor, packed: Tensor, bits: int) -> None:
    tiles, blocks = packed.shape[:2]
    # [tile, output, block, pair, half, input] -> [tile, block, pair, half, output, input]
    grouped = numbers.view(tiles, OWN_TILE, blocks, 4, 2, 4).permute(0, 2, 3, 4, 1, 5)
    halves = scales.view(tiles, OWN_TILE, blocks, 2).permute(0, 2, 3, 1).contiguous().view(torch.uint8)
    if bits == 4:
        packed[..., :256] = (grouped[:, :, :, 0] | grouped[:, :, :, 1] << 4).reshape(tiles, blocks, 256)
        packed[..., 256:] = halves.reshape(tiles, blocks, 64)
    else:
        packed[..., :512] = grouped.reshape(tiles, blocks, 512)
        packed[..., 512:] = halves[:, :, :1].reshape(tiles, blocks, 32)
