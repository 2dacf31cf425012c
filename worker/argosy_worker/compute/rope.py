"""Rotary positions: the angles of a step's positions, and the rotation of halves.

Cosines and sines are computed in each step for the positions that it has. A table for all positions would have the
length that the model's file claims, which can be any number; a step of one row costs four small operations instead.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from argosy_worker.compute.elementwise import aligned
from argosy_worker.compute.rope_spec import FactorRope, LinearRope, Llama3Rope, Rope, YarnRope


class Frequencies(NamedTuple):
    """Of a rope: fp32 [dims / 2] angles per position, and the factor of cosines and sines."""

    inverse: Tensor
    attention_factor: float


class Rotation(NamedTuple):
    """Of the rows of a step: [rows, 1, dims] each; the first half of `sin` is negative, as `rotate` wants it."""

    cos: Tensor
    sin: Tensor


def frequencies(rope: Rope, device: torch.device | None = None) -> Frequencies:
    """Angle per position of each pair, computed as the transformers library does, in fp32."""
    powers = rope.theta ** (torch.arange(0, rope.dims, 2, dtype=torch.int64).float() / rope.dims)
    base, factor = 1.0 / powers, 1.0
    match rope.scaling:
        case LinearRope(by):
            base = base / by
        case Llama3Rope():
            base = _llama3(base, rope.scaling)
        case YarnRope():
            base, factor = _yarn(powers, rope, rope.scaling), rope.scaling.attention_factor
        case FactorRope():
            base, factor = 1.0 / (torch.tensor(rope.scaling.factors) * powers), rope.scaling.attention_factor
        case None:
            pass
    return Frequencies(base.to(device), factor)


def _llama3(base: Tensor, rope: Llama3Rope) -> Tensor:
    """Scale by wavelength: long / factor, short as it is, linear in between. Source: Llama 3.1's reference code."""
    wavelength = 2 * math.pi / base
    turns = rope.original_context / wavelength
    ramp = ((turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)).clamp(0, 1)
    return (1 - ramp) * base / rope.factor + ramp * base


def _yarn(powers: Tensor, rope: Rope, yarn: YarnRope) -> Tensor:
    """Pairs that turn more than `beta_fast` times in the original context stay, less than `beta_slow` are slowed."""

    def pair(turns: float) -> float:
        return rope.dims * math.log(yarn.original_context / (turns * 2 * math.pi)) / (2 * math.log(rope.theta))

    low, high = pair(yarn.beta_fast), pair(yarn.beta_slow)
    if yarn.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, rope.dims - 1)
    ramp = ((torch.arange(rope.dims // 2).float() - low) / ((high - low) or 0.001)).clamp(0, 1)
    return ramp / (yarn.factor * powers) + (1 - ramp) / powers


def rotation(of: Frequencies, positions: Tensor, dtype: torch.dtype) -> Rotation:
    """For integer positions [rows] below 2**24."""
    angles = torch.outer(positions.float(), of.inverse)
    cos, sin = aligned(torch.Tensor.cos_, angles.clone()), aligned(torch.Tensor.sin_, angles)
    if of.attention_factor != 1:
        cos, sin = cos * of.attention_factor, sin * of.attention_factor
    return Rotation(torch.cat((cos, cos), -1).to(dtype)[:, None], torch.cat((-sin, sin), -1).to(dtype)[:, None])


def rotate(x: Tensor, by: Rotation) -> Tensor:
    """Rotate the leading numbers of [rows, heads, head_dim]: (a, b) -> (a cos - b sin, b cos + a sin)."""
    dims = by.cos.shape[-1]
    if dims < x.shape[-1]:
        return torch.cat((rotate(x[..., :dims], by), x[..., dims:]), -1)
    return (x * by.cos).add_(x.roll(dims // 2, -1).mul_(by.sin))
