"""Where numpy and torch have other names for the same: what is written with these computes arrays of either.

torch is never loaded for it: an array of torch's is there only where somebody has loaded torch.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = Any
"""An array of numpy, or a tensor of torch."""


def is_numpy(x: Array) -> bool:
    """Whether it is numpy's."""
    return isinstance(x, np.ndarray)


def floats(x: Array) -> Array:
    """The same numbers in fp32."""
    return x.astype(np.float32) if is_numpy(x) else x.float()


def integers(x: Array) -> Array:
    """The same numbers in int32."""
    return x.astype(np.int32) if is_numpy(x) else x.int()


def read_as(x: Array, name: str) -> Array:
    """The bytes of the last dimension as numbers of a type that both have: `float16`, `int8`, ..."""
    if is_numpy(x):
        return (x if x.strides[-1] == x.itemsize else np.ascontiguousarray(x)).view(name)
    import torch  # noqa: PLC0415

    return x.contiguous().view(getattr(torch, name))


def like(x: Array, numbers: npt.NDArray[Any]) -> Array:
    """Numbers of numpy's as an array of x's kind, on its device."""
    return numbers if is_numpy(x) else sent(numbers, x.device)


def sent(numbers: npt.NDArray[Any], device: Any) -> Array:
    """Numbers of numpy's as a tensor on a device of torch's; the host does not wait for a GPU to take them."""
    import torch  # noqa: PLC0415

    found = torch.from_numpy(numbers)
    return found.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else found.to(device)


def joined(parts: Sequence[Array], axis: int = -1) -> Array:
    """One after the other."""
    if is_numpy(parts[0]):
        return np.concatenate(parts, axis)
    import torch  # noqa: PLC0415

    return torch.cat(list(parts), axis)


def stacked(parts: Sequence[Array], axis: int) -> Array:
    """Side by side, along a new dimension."""
    if is_numpy(parts[0]):
        return np.stack(parts, axis)
    import torch  # noqa: PLC0415

    return torch.stack(list(parts), axis)


def where(condition: Array, yes: Array, no: Array) -> Array:
    """For each place the one or the other."""
    if is_numpy(condition):
        return np.where(condition, yes, no)
    import torch  # noqa: PLC0415

    return torch.where(condition, yes, no)


def solid(x: Array) -> Array:
    """The same array, without gaps."""
    return np.ascontiguousarray(x) if is_numpy(x) else x.contiguous()


def copied(x: Array) -> Array:
    """A copy."""
    return x.copy() if is_numpy(x) else x.clone()


def to_torch(x: npt.NDArray[Any]) -> Array:
    """The same array as a tensor, which has the same memory. Loads torch."""
    import torch  # noqa: PLC0415

    return torch.from_numpy(x)


def address(x: Array) -> int:
    """Where its first number lies."""
    found: int = x.__array_interface__["data"][0] if is_numpy(x) else x.data_ptr()
    return found


def room(x: Array, shape: tuple[int, ...]) -> Array:
    """A fresh array of x's kind and type, not filled."""
    return np.empty(shape, dtype=x.dtype) if is_numpy(x) else x.new_empty(shape)
