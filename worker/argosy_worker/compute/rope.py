"""Rotary positions on torch: cosines and sines of a step's positions, and the rotation of halves."""

from typing import NamedTuple

import torch
from torch import Tensor

from argosy_worker.compute import angles
from argosy_worker.compute.rope_spec import Rope


class Rotation(NamedTuple):
    """Of the rows of a step: [rows, 1, dims] each; the first half of `sin` is negative, as `rotate` wants it."""

    cos: Tensor
    sin: Tensor


class Rotations:
    """Of a rope. On a CPU they are those of a model that is native as a whole; a GPU computes them in each step."""

    def __init__(self, rope: Rope, device: torch.device) -> None:
        self._turns = angles.Turns(rope) if device.type == "cpu" else None
        inverse, self._factor = angles.inverse(rope)
        self._inverse = torch.from_numpy(inverse).to(device)

    def __call__(self, positions: Tensor, dtype: torch.dtype) -> Rotation:
        """For integer positions [rows] below 2**24."""
        if self._turns is not None:
            cos, sin = map(torch.from_numpy, self._turns.taken(positions.numpy()))
        else:
            turned = torch.outer(positions.float(), self._inverse)
            cos, sin = turned.cos() * self._factor, turned.sin() * self._factor
        return Rotation(torch.cat((cos, cos), -1).to(dtype)[:, None], torch.cat((-sin, sin), -1).to(dtype)[:, None])


def rotate(x: Tensor, by: Rotation) -> Tensor:
    """Rotate the leading numbers of [rows, heads, head_dim]: (a, b) -> (a cos - b sin, b cos + a sin)."""
    dims = by.cos.shape[-1]
    if dims < x.shape[-1]:
        return torch.cat((rotate(x[..., :dims], by), x[..., dims:]), -1)
    return (x * by.cos).add_(x.roll(dims // 2, -1).mul_(by.sin))
