"""Codes, scales and offsets as the bytes of ggml's blocks (`compute/quant/formats.py` has the layouts)."""

import torch
from torch import Tensor

from argosy_worker.compute.quant.formats import QuantTensor
from argosy_worker.quantize import kquants
from argosy_worker.quantize.grids import Coded

SIZE = 32
"""Weights in a block of all these formats."""


def pack(name: str, coded: Coded) -> QuantTensor:
    """A matrix in groups of 32 as blocks of format `name`: Q4_0, Q4_1, Q5_0, Q5_1, IQ4_NL or Q8_0; or as a K-quant."""
    rows, cols = coded.codes.shape
    if name.endswith("_K"):
        return QuantTensor(name, kquants.pack(name, coded), cols)
    codes = coded.codes.view(-1, SIZE)
    parts = [_half(coded.scale)]
    if coded.offset is not None:
        parts.append(_half(coded.offset))
    if name == "Q8_0":
        parts.append((codes.short() - 128).to(torch.int8).view(torch.uint8))
    else:
        if name.startswith("Q5"):
            parts.append(_fifth_bits(codes))
        parts.append(codes[:, :16] & 15 | (codes[:, 16:] & 15) << 4)
    return QuantTensor(name, torch.cat(parts, 1).view(rows, -1), cols)


def _half(values: Tensor) -> Tensor:
    """fp32 [rows, groups] -> uint8 [rows * groups, 2]."""
    return values.half().reshape(-1, 1).view(torch.uint8)


def _fifth_bits(codes: Tensor) -> Tensor:
    """Bit 4 of each of 32 codes, as little-endian u32: uint8 [blocks, 4]."""
    bits = (codes >> 4 & 1).view(-1, 4, 8)
    return (bits << torch.arange(8, dtype=torch.uint8)).sum(2, dtype=torch.uint8)
