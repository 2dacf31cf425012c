"""Rotary positions: tables of cosine and sine, and the rotation of halves."""

import math

import torch
from torch import Tensor

from argosy_worker.models.config import DecoderConfig, Llama3Rope


def frequencies(config: DecoderConfig, factors: Tensor | None = None) -> Tensor:
    """Angle per position of each pair: fp32 [head_dim / 2], computed as the transformers library does, in fp32."""
    exponents = torch.arange(0, config.head_dim, 2, dtype=torch.int64).float() / config.head_dim
    base = 1.0 / (config.rope_theta**exponents)
    if factors is not None:
        return base / factors
    return base if config.rope_scaling is None else _llama3(base, config.rope_scaling)


def _llama3(base: Tensor, rope: Llama3Rope) -> Tensor:
    """Scale by wavelength: long / factor, short as it is, linear in between. Source: Llama 3.1's reference code."""
    wavelength = 2 * math.pi / base
    turns = rope.original_context / wavelength
    ramp = ((turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)).clamp(0, 1)
    return (1 - ramp) * base / rope.factor + ramp * base


def tables(inverse: Tensor, context: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """(cos, signed sin), each [context, head_dim]; the first half of sin is negative, as `rotate` wants it."""
    angles = torch.outer(torch.arange(context, dtype=torch.float32), inverse)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat((cos, cos), -1).to(device, dtype), torch.cat((-sin, sin), -1).to(device, dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate [rows, heads, head_dim] by [rows, 1, head_dim] tables: (a, b) -> (a cos - b sin, b cos + a sin)."""
    half = x.shape[-1] // 2
    return (x * cos).add_(x.roll(half, -1).mul_(sin))
