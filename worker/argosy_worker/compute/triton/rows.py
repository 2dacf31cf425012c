"""Launches of the kernels of `kernels/rows.py`. Loads Triton."""

from enum import IntEnum

import torch
from torch import Tensor

from argosy_worker.compute.triton.kernels import rows

_GATED_AT_ONCE = 1024


class Gate(IntEnum):
    """Activations of a gate."""

    SILU = 0
    GELU_TANH = 1
    CLAMP = 2


def norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """RMSNorm of [rows, columns], times the weight [columns]."""
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    _add_norm(x, x, weight, x, out, eps, 1.0, part=False)
    return out


def add_norm(x: Tensor, part: Tensor, weight: Tensor, eps: float, factor: float = 1.0) -> tuple[Tensor, Tensor]:
    """X + factor * part, and its RMSNorm times the weight: [rows, columns] each."""
    total, out = (torch.empty(x.shape, dtype=x.dtype, device=x.device) for _ in range(2))
    _add_norm(x, part, weight, total, out, eps, factor, part=True)
    return total, out


def _add_norm(  # noqa: PLR0917
    x: Tensor, added: Tensor, weight: Tensor, total: Tensor, out: Tensor, eps: float, factor: float, *, part: bool
) -> None:
    columns = x.shape[-1]
    block = 1 << (columns - 1).bit_length()
    rows.add_norm[(len(x),)](
        x, added, weight, total, out, columns, x.stride(0), added.stride(0), eps, factor, BLOCK=block, HAS_PART=part,
        num_warps=norm_warps(block), num_stages=1,
    )  # fmt: skip


def norm_warps(block: int) -> int:
    """Warps for a row of so many columns."""
    return min(16, max(4, block // 512))


def gated(gate_up: Tensor, kind: Gate, *, alpha: float = 0.0, limit: float = 0.0) -> Tensor:
    """[rows, 2 * ffn], gates first -> [rows, ffn]."""
    ffn = gate_up.shape[-1] // 2
    out = torch.empty((len(gate_up), ffn), dtype=gate_up.dtype, device=gate_up.device)
    rows.gated[len(gate_up), -(-ffn // _GATED_AT_ONCE)](
        gate_up, out, ffn, gate_up.stride(0), alpha, limit, BLOCK=_GATED_AT_ONCE, KIND=int(kind), num_warps=4,
        num_stages=1,
    )  # fmt: skip
    return out
