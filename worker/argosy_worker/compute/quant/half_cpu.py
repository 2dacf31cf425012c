"""Products of fp32 activations with weights that are held in 16 bits, through FBGEMM (x86).

FBGEMM reads fp16 weights and multiplies and adds in fp32; every element of the result is a chain over the features of
its own row. Numbers of 8 bits are exact in fp16, and those of bf16 after a power of two is taken from each row, so one
kernel serves them all: what is held are the rounded numbers, and the rows' scales are multiplied to the result.

Without AVX-512 it computes six rows at a time, and where one or two are left over, these in kernels that sum in another
order (torch 2.13.0, 1 to 400 rows, on an EPYC of Zen 3). Of a multiple of three rows, it never leaves one or two.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F  # noqa: N812  # the name that torch users know
from torch import Tensor

from argosy_api.errors import ModelUnsupportedError
from argosy_worker.compute.quant.formats import QuantTensor
from argosy_worker.compute.quant.isa import cpu_features
from argosy_worker.compute.quant.linear import ROWS_AT_ONCE, Linear, LinearSpec, Verdict
from argosy_worker.compute.quant.rounding import float8, int8, power_of_two

_HELD = ("fp16", "bf16", "fp8", "int8")
_TOP = 65504.0
"""The largest fp16; FBGEMM would cut larger ones off silently."""


class _HalfLinear:
    def __init__(self, weight: Tensor, scale: Tensor | None, bias: Tensor | None) -> None:
        with _fbgemm():
            self._packed = torch.ops.quantized.linear_prepack_fp16(weight, None)
        self._scale, self._bias = scale, bias
        self._multiple = 1 if "avx512" in cpu_features() else 3

    def __call__(self, x: Tensor) -> Tensor:
        rows = len(x)
        padded = F.pad(x, (0, 0, 0, -rows % self._multiple))
        y: Tensor = torch.ops.quantized.linear_dynamic_fp16(padded.contiguous(), self._packed)[:rows]
        if self._scale is not None:
            y.mul_(self._scale)
        return y if self._bias is None else y.add_(self._bias)


class HalfFbgemm:
    """FBGEMM over fp16 weights, with fp32 activations."""

    name = "half-fbgemm"

    def can_run(self, spec: LinearSpec) -> Verdict:
        """Run what fits in 16 bits on an x86 CPU, in fp32."""
        if spec.device != "cpu" or spec.compute != "fp32" or spec.weights not in _HELD or spec.group:
            return Verdict(
                ok=False,
                reason=f"computes fp32 on the CPU from {', '.join(_HELD)} without groups, "
                f"asked for {spec.wanted} on {spec.device}",
            )
        if "fbgemm" not in torch.backends.quantized.supported_engines:
            return Verdict(ok=False, reason="this torch has no FBGEMM, which is for x86")
        held = "" if spec.weights == "fp16" else f", each number of {spec.weights} exact"
        return Verdict(ok=True, reason=f"rounded to {spec.weights}, held as fp16{held}; fp32 activations and sums")

    def pack(self, spec: LinearSpec, parts: Sequence[QuantTensor], bias: Tensor | None, device: torch.device) -> Linear:
        """Round, some rows at a time. Raises ModelUnsupportedError when a weight is too large for fp16."""
        del device
        # FBGEMM packs from fp32; it holds fp16
        weight, scales, at = torch.empty((spec.out_features, spec.in_features)), [], 0
        for rows in (rows for part in parts for rows in part.slices(ROWS_AT_ONCE)):
            numbers, scale = _held(spec, rows)
            weight[at : at + rows.rows] = numbers
            scales.append(scale)
            at += rows.rows
        return _HalfLinear(weight, None if spec.weights == "fp16" else torch.cat(scales).flatten(), bias)


def _held(spec: LinearSpec, rows: QuantTensor) -> tuple[Tensor, Tensor]:
    """What is held of some rows, and their scales [rows, 1]."""
    if spec.weights == "fp8":
        return float8(rows)
    if spec.weights == "int8":
        return int8(rows, 0)
    values = rows.dequantize()
    if spec.weights == "bf16":
        return power_of_two(values.to(torch.bfloat16).float())
    if not bool((values.abs() <= _TOP).all()):
        raise ModelUnsupportedError(f"a weight of {spec.role} does not fit fp16; bf16 holds it")
    return values.half(), torch.ones((rows.rows, 1))


@contextmanager
def _fbgemm() -> Iterator[None]:
    """Torch packs for the engine that is set for the process."""
    before = torch.backends.quantized.engine
    torch.backends.quantized.engine = "fbgemm"
    try:
        yield
    finally:
        torch.backends.quantized.engine = before
