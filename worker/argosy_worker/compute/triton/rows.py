"""Launches of the kernels of `kernels/rows.py`. Loads Triton."""

from enum import IntEnum
from typing import NamedTuple

import torch
from torch import Tensor

from argosy_worker.compute.triton.kernels import rows

_GATED_AT_ONCE = 1024
_CODED_AT_ONCE = 4096


class Gate(IntEnum):
    """Activations of a gate."""

    SILU = 0
    GELU_TANH = 1
    CLAMP = 2


class Codes(NamedTuple):
    """Rows in 8 bits, each with a scale of its own: a number is about code * scale."""

    codes: Tensor
    """int8 or float8_e4m3fn [rows, columns]."""
    scales: Tensor
    """fp32 [rows]."""


class Code(IntEnum):
    """Kinds of codes."""

    INT8 = 1
    E4M3 = 2


def norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """RMSNorm of [rows, columns], times the weight [columns]."""
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    _add_norm(x, None, weight, None, Codes(out, out), eps, 1.0, 0)
    return out


def norm_codes(x: Tensor, weight: Tensor, eps: float, code: Code) -> Codes:
    """The codes of what `norm` gives."""
    out = _room(x.shape, x.device)
    _add_norm(x, None, weight, None, out, eps, 1.0, code)
    return _of(out, code)


def add_norm(x: Tensor, part: Tensor, weight: Tensor, eps: float, factor: float = 1.0) -> tuple[Tensor, Tensor]:
    """X + factor * part, and its RMSNorm times the weight: [rows, columns] each."""
    total, out = (torch.empty(x.shape, dtype=x.dtype, device=x.device) for _ in range(2))
    _add_norm(x, part, weight, total, Codes(out, out), eps, factor, 0)
    return total, out


def add_norm_codes(  # noqa: PLR0917  # what `add_norm` takes, and what for
    x: Tensor, part: Tensor, weight: Tensor, eps: float, factor: float, code: Code
) -> tuple[Tensor, Codes]:
    """What `add_norm` gives, the second in codes."""
    total, out = torch.empty(x.shape, dtype=x.dtype, device=x.device), _room(x.shape, x.device)
    _add_norm(x, part, weight, total, out, eps, factor, code)
    return total, _of(out, code)


def _add_norm(  # noqa: PLR0917
    x: Tensor, added: Tensor | None, weight: Tensor, total: Tensor | None, out: Codes, eps: float, factor: float,
    code: int,
) -> None:  # fmt: skip
    columns = x.shape[-1]
    block = 1 << (columns - 1).bit_length()
    part = x if added is None else added
    rows.add_norm[(len(x),)](
        x, part, weight, x if total is None else total, out.codes, out.scales, columns, x.stride(0), part.stride(0),
        eps, factor, BLOCK=block, HAS_PART=added is not None, CODE=int(code), num_warps=norm_warps(block), num_stages=1,
    )  # fmt: skip


def code_rows(x: Tensor, code: Code) -> Codes:
    """Of [rows, columns], without gaps within a row."""
    out = _room(x.shape, x.device)
    rows.code_rows[(len(x),)](
        x, out.codes, out.scales, x.shape[1], x.stride(0), BLOCK=_CODED_AT_ONCE, CODE=int(code), num_warps=8,
        num_stages=1,
    )  # fmt: skip
    return _of(out, code)


def _room(shape: torch.Size, device: torch.device) -> Codes:
    return Codes(torch.empty(shape, dtype=torch.int8, device=device), torch.empty(shape[0], device=device))


def _of(coded: Codes, code: Code) -> Codes:
    """In the type that torch has for them."""
    return coded if code == Code.INT8 else Codes(coded.codes.view(torch.float8_e4m3fn), coded.scales)


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


def gated_codes(gate_up: Tensor, kind: Gate, code: Code, *, alpha: float = 0.0, limit: float = 0.0) -> Codes:
    """The codes of what `gated` gives."""
    out = _room(torch.Size((len(gate_up), gate_up.shape[-1] // 2)), gate_up.device)
    rows.gated_codes[(len(gate_up),)](
        gate_up, out.codes, out.scales, out.codes.shape[1], gate_up.stride(0), alpha, limit, BLOCK=_CODED_AT_ONCE,
        KIND=int(kind), CODE=int(code), num_warps=8, num_stages=1,
    )  # fmt: skip
    return _of(out, code)
