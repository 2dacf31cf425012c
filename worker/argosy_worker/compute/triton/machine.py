"""The GPU that kernels are launched on. Asked once, where there may be one; loads torch and Triton then."""

import functools
import hashlib
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

LEAST = (8, 0)
"""Compute capability from which on the kernels run: asynchronous copies, and tensor cores for bf16."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """What decides how kernels are launched."""

    name: str
    capability: tuple[int, int]
    multiprocessors: int


@functools.cache
def present() -> Gpu | str:
    """The CUDA device of this process, or why there is none that Triton's kernels run on."""
    import torch  # noqa: PLC0415  # who asks has it

    if not torch.cuda.is_available():
        return "torch finds no CUDA device"
    if find_spec("triton") is None:
        return "Triton is not installed"
    found = torch.cuda.get_device_properties(torch.cuda.current_device())
    return refused((found.major, found.minor)) or Gpu(
        name=found.name, capability=(found.major, found.minor), multiprocessors=found.multi_processor_count
    )


@functools.cache
def arithmetic() -> str:
    """What decides the bits that the kernels compute, besides the GPU: their text, and the compiler."""
    digest = hashlib.sha256()
    for file in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(file.name.encode() + file.read_bytes())
    return f"triton {version('triton')} {digest.hexdigest()[:16]}"


def refused(capability: tuple[int, int]) -> str | None:
    """Why the kernels do not run on a GPU of this compute capability; None where they do."""
    if capability >= LEAST:
        return None
    return "needs compute capability {}.{}, the GPU has {}.{}".format(*LEAST, *capability)
