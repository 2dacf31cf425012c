"""Linear kernels: one interface, one registry, and a reason for every choice.

A kernel says whether it can run a layer, on this machine, in this compute mode; the first of `KERNELS` that can is
taken, and why the others were refused is kept for the log. Kernels for other devices or formats join the list.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar

from argosy_api.errors import ModelUnsupportedError
from argosy_worker.compute.quant.formats import QuantTensor

if TYPE_CHECKING:
    import torch
    from torch import Tensor

ROWS_AT_ONCE = 4096
"""Rows that are dequantized at a time, so that no fp32 copy of a large matrix is held."""


class Verdict(NamedTuple):
    """Whether a kernel can run a layer, and why (not)."""

    ok: bool
    reason: str


class Named(Protocol):
    """A kernel of any kind."""

    name: str


K = TypeVar("K", bound=Named)


def first_able(kernels: Sequence[K], can_run: Callable[[K], Verdict], what: str) -> tuple[K, str]:
    """The first kernel that can, with the reason.

    Raises:
        ModelUnsupportedError: none can compute `what`; the message has every kernel's reason.

    """
    refused: list[str] = []
    for kernel in kernels:
        verdict = can_run(kernel)
        if verdict.ok:
            return kernel, f"{kernel.name} ({verdict.reason})" + "".join(f"; refused: {r}" for r in refused)
        refused.append(f"{kernel.name} ({verdict.reason})")
    raise ModelUnsupportedError(f"no kernel computes the model's {what}: " + ", ".join(refused))


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearSpec:
    """What a layer needs."""

    role: str
    """`qkv`, `o`, `gate_up`, `down` or `head`."""
    formats: tuple[str, ...]
    """Storage formats of its parts."""
    in_features: int
    out_features: int
    weights: str
    """How they are to be held: as in `Precision`."""
    group: int
    """Weights that share a scale; 0 for one of each row, or none."""
    compute: str
    """`int8`, `fp32` or `bf16`."""
    device: str
    """`cpu` or `cuda`."""
    isa: frozenset[str]
    """Instruction sets of the CPU that may be used: `avx512`, `avx512_vnni`, ..."""

    @property
    def wanted(self) -> str:
        """Weights, group and arithmetic, in words."""
        return f"weights {self.weights}{f' in groups of {self.group}' if self.group else ''} computed as {self.compute}"


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


def choose(spec: LinearSpec, kernels: Sequence[LinearKernel], failed: Mapping[str, str] | None = None) -> Choice:
    """The first kernel that can run `spec` and is not in `failed` (name -> what the check at start found).

    Where every kernel that can run it has failed, the first of them is taken all the same, and the report says why.

    Raises:
        ModelUnsupportedError: none can; the message has every kernel's reason.

    """
    failed = failed or {}
    refused: list[str] = []
    able: list[tuple[LinearKernel, str]] = []
    for kernel in kernels:
        verdict = kernel.can_run(spec)
        if not verdict.ok:
            refused.append(f"{kernel.name} ({verdict.reason})")
        elif kernel.name in failed:
            able.append((kernel, verdict.reason))
            refused.append(f"{kernel.name} (not exact here: {failed[kernel.name]})")
        else:
            others = f"; refused: {', '.join(refused)}" if refused else ""
            return Choice(kernel, f"{kernel.name} ({verdict.reason}){others}")
    if able:
        kernel, reason = able[0]
        return Choice(kernel, f"{kernel.name} ({reason}); not exact here: {failed[kernel.name]}")
    raise ModelUnsupportedError(
        f"no kernel computes {spec.role} ({'+'.join(sorted(set(spec.formats)))}): {spec.wanted} on {spec.device}: "
        + ", ".join(refused)
    )


def stack(spec: LinearSpec, parts: Sequence[QuantTensor], dtype: torch.dtype, device: torch.device) -> Tensor:
    """The dequantized parts of a layer, one below the other: [out, in]."""
    import torch  # noqa: PLC0415  # who asks for tensors has loaded it

    weight = torch.empty((spec.out_features, spec.in_features), dtype=dtype, device=device)
    at = 0
    for rows in (rows for part in parts for rows in part.slices(ROWS_AT_ONCE)):
        weight[at : at + rows.rows] = rows.dequantize()
        at += rows.rows
    return weight
