"""Rotary positions: the angles of a step's positions, and the rotation of halves.

Cosines and sines are computed in each step for the positions that it has. A table for all positions would have the
length that the model's file claims, which can be any number; a step of one row costs four small operations instead.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from argosy_worker.compute.config import DecoderConfig, LinearRope, Llama3Rope
from argosy_worker.compute.elementwise import aligned


class Rotation(NamedTuple):
    """Of the rows of a step: [rows, 1, head_dim] each; the first half of `sin` is negative, as `rotate` wants it."""

    cos: Tensor
    sin: Tensor


def frequencies(config: DecoderConfig, factors: Tensor | None = None) -> Tensor:
    """Angle per position of each pair: fp32 [head_dim / 2], computed as the transformers library does, in fp32.

    `factors` are divisors from the model's file.
    """
    exponents = torch.arange(0, config.head_dim, 2, dtype=torch.int64).float() / config.head_dim
    base = 1.0 / (config.rope_theta**exponents)
    match config.rope_scaling:
        case LinearRope(factor):
            base = base / factor
        case Llama3Rope():
            base = _llama3(base, config.rope_scaling)
        case None:
            pass
    return base if factors is None else base / factors


def _llama3(base: Tensor, rope: Llama3Rope) -> Tensor:
    """Scale by wavelength: long / factor, short as it is, linear in between. Source: Llama 3.1's reference code."""
    wavelength = 2 * math.pi / base
    turns = rope.original_context / wavelength
    ramp = ((turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)).clamp(0, 1)
    return (1 - ramp) * base / rope.factor + ramp * base


def rotation(inverse: Tensor, positions: Tensor, dtype: torch.dtype) -> Rotation:
    """For integer positions [rows] below 2**24 and fp32 frequencies [head_dim / 2]."""
    angles = torch.outer(positions.float(), inverse)
    cos, sin = aligned(torch.Tensor.cos_, angles.clone()), aligned(torch.Tensor.sin_, angles)
    return Rotation(torch.cat((cos, cos), -1).to(dtype)[:, None], torch.cat((-sin, sin), -1).to(dtype)[:, None])


def rotate(x: Tensor, by: Rotation) -> Tensor:
    """Rotate [rows, heads, head_dim]: (a, b) -> (a cos - b sin, b cos + a sin)."""
    half = x.shape[-1] // 2
    return (x * by.cos).add_(x.roll(half, -1).mul_(by.sin))
