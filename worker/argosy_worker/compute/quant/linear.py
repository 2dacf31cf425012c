"""Linear kernels: one interface, one registry, and a reason for every choice.

A kernel says whether it can run a layer, on this machine, in this compute mode; the first of `KERNELS` that can is
taken, and why the others were refused is kept for the log. Kernels for other devices or formats join the list.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from argosy_api.errors import ModelUnsupportedError
from argosy_worker.compute.quant.formats import QuantTensor


class Verdict(NamedTuple):
    """Whether a kernel can run a layer, and why (not)."""

    ok: bool
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearSpec:
    """What a layer needs."""

    role: str
    """`qkv`, `o`, `gate_up`, `down` or `head`."""
    formats: tuple[str, ...]
    """Storage formats of its parts."""
    in_features: int
    out_features: int
    compute: str
    """`int8`, `fp32` or `bf16`."""
    device: str
    """`cpu` or `cuda`."""
    isa: frozenset[str]
    """Instruction sets of the CPU: `avx512`, `vnni`, ..."""


class Linear(Protocol):
    """A packed layer."""

    def __call__(self, x: Tensor) -> Tensor:
        """Compute `x W^T + b`: [rows, in] -> [rows, out], both in the compute type (fp32 for int8)."""
        ...


class LinearKernel(Protocol):
    """Packs and computes layers of some formats on some device."""

    name: str

    def can_run(self, spec: LinearSpec) -> Verdict:
        """Whether this kernel can compute `spec`."""
        ...

    def pack(self, spec: LinearSpec, parts: Sequence[QuantTensor], bias: Tensor | None, device: torch.device) -> Linear:
        """Lay out the weights: `parts` are stacked by rows. Does not keep the parts."""
        ...


@dataclass(frozen=True, slots=True)
class Choice:
    """The kernel of a layer, with the reasons for it."""

    kernel: LinearKernel
    report: str


def choose(spec: LinearSpec, kernels: Sequence[LinearKernel]) -> Choice:
    """The first kernel that can run `spec`.

    Raises:
        ModelUnsupportedError: none can; the message has every kernel's reason.

    """
    refused: list[str] = []
    for kernel in kernels:
        verdict = kernel.can_run(spec)
        if verdict.ok:
            others = f"; refused: {', '.join(refused)}" if refused else ""
            return Choice(kernel, f"{kernel.name} ({verdict.reason}){others}")
        refused.append(f"{kernel.name} ({verdict.reason})")
    raise ModelUnsupportedError(
        f"no kernel computes {spec.role} ({'+'.join(sorted(set(spec.formats)))}) as {spec.compute} on {spec.device}: "
        + ", ".join(refused)
    )
