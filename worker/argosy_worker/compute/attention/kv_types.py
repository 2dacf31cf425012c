"""In what numbers keys and values are held. A row is the keys, or the values, of one token and one head.

Each row is coded on its own, by operations that round correctly, so a row's bits depend neither on its company nor on
how its prompt was cut: largest magnitude, division, rounding, and one product on the way back. Keys of types with a
scale are turned first (`spread`), as the queries that meet them are.

int8 and fp8 have a scale for each row, its largest magnitude over the code's: int8 then has 127 even steps, fp8 (e4m3,
"FP8 formats for deep learning", Micikevicius et al., 2022) 3 bits of precision over 18 powers of two.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from argosy_api.errors import ModelUnsupportedError
from argosy_api.memory import kv_row_bytes

SCALE = torch.float32
_MOST = 1e37
"""Magnitudes of scaled rows are cut off here, so that code times scale is finite."""
_LEAST_SCALE = 1e-30
"""Of rows of zeros, and of rows so small that they become zeros."""


@dataclass(frozen=True, slots=True)
class KvType:
    """Elements of a KV cache."""

    name: str
    """As `spec.quantization.kvCache` has it."""
    dtype: torch.dtype
    """What the elements are stored as."""
    code: torch.dtype | None = None
    """For rows with a scale: what the stored bytes mean."""

    def row_bytes(self, head_dim: int) -> int:
        """Bytes of a row, its scale included."""
        return kv_row_bytes(self.name, head_dim)

    def encode(self, rows: Tensor) -> tuple[Tensor, Tensor | None]:
        """[n, head_dim] -> elements of the same shape, and fp32 [n] scales. NaN becomes 0, infinity the largest number.

        (A masked value is multiplied by an exact 0; a NaN of an ended request must not come back through that.)
        """
        if self.code is None:
            sound = torch.nan_to_num(rows)
            if sound.dtype == self.dtype:
                return sound, None
            most = torch.finfo(self.dtype).max  # which the rows' own type may not have
            return sound.to(SCALE).clamp_(-most, most).to(self.dtype), None
        sound = torch.nan_to_num(rows.to(SCALE)).clamp_(-_MOST, _MOST)
        highest = 127.0 if self.code is torch.int8 else torch.finfo(self.code).max
        scales = (sound.abs().amax(-1) / highest).clamp_(min=_LEAST_SCALE)
        codes = sound / scales[:, None]
        codes = codes.round_().to(torch.int8) if self.code is torch.int8 else codes.to(self.code).view(torch.int8)
        return codes, scales

    def decode(self, elements: Tensor, scales: Tensor | None, dtype: torch.dtype) -> Tensor:
        """Elements [..., head_dim] and fp32 scales [...] -> numbers in `dtype`."""
        if scales is None:
            return elements.to(dtype)
        if self.code is torch.int8:
            return elements.to(SCALE).mul_(scales[..., None]).to(dtype)
        # e4m3 is the upper half of fp16 with a bit of exponent less: moved there it is 2**-8 of itself, subnormals too.
        # torch's own conversion takes ten times as long. Codes of NaN, which `encode` never makes, are 480.
        halves = elements.to(torch.int16).bitwise_left_shift_(7).bitwise_and_(~0x4000).view(torch.float16)
        return halves.to(SCALE).mul_((scales * 256.0)[..., None]).to(dtype)

    def sound(self, elements: Tensor, scales: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """What came from elsewhere, without anything that is no finite number."""
        if scales is None:
            return torch.nan_to_num(elements), None
        return elements, torch.nan_to_num(scales).clamp_(0, _MOST / 100)


KV_TYPES = {
    kind.name: kind
    for kind in (
        KvType("fp32", torch.float32),
        KvType("fp16", torch.float16),
        KvType("bf16", torch.bfloat16),
        KvType("int8", torch.int8, torch.int8),
        KvType("fp8", torch.int8, torch.float8_e4m3fn),
    )
}


def kv_type(name: str, activations: torch.dtype) -> KvType:
    """The type of this name; `auto` is that of the activations, which loses nothing.

    Raises:
        ModelUnsupportedError: there is none of this name.

    """
    if name == "auto":
        return next(kind for kind in KV_TYPES.values() if kind.code is None and kind.dtype == activations)
    if name not in KV_TYPES:
        raise ModelUnsupportedError(f"quantization.kvCache {name!r} is unknown; it can: auto, {', '.join(KV_TYPES)}")
    return KV_TYPES[name]


def spread(rows: Tensor) -> Tensor:
    """Rows [..., n], turned by an orthonormal Walsh-Hadamard matrix of the largest power of two that divides n.

    Keys have a few channels that are much larger than the others; with a scale for the whole row these are all that is
    kept of it. Turned, what is in one channel lies evenly over all ("QuaRot", Ashkboos et al., arXiv 2404.00456). It is
    made of additions in pairs, which round a row the same in any company. For SmolLM2-135M it makes the loss of int8
    keys a fifth, of fp8 ones a third; values have no such channels, and turning them too gained nothing.
    """
    width = rows.shape[-1]
    size = width & -width
    turned, half = rows.float(), 1
    while half < size:
        pairs = turned.view(*rows.shape[:-1], -1, 2, half)
        first, second = pairs.select(-2, 0), pairs.select(-2, 1)
        turned = torch.stack((first + second, first - second), -2)
        half *= 2
    return (turned.reshape(rows.shape) * (1 / math.sqrt(size))).to(rows.dtype)
