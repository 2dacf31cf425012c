"""Floating-point linears with torch: fp32 on the CPU (the reference), bf16 or fp32 on CUDA.

On the CPU the rows are padded to a multiple of 4. Measured with torch 2.13 (MKL) on a CPU with AVX-512, for the shapes
of a 135 M model: a row's bits are the same for every number of rows from 12 to 300 and for 4 and 8, and differ for 1,
2, 3, 5, 6, 7, 9, 10 and 11 rows, where another kernel or split is taken. One row costs as much as four.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812  # the name that torch users know
from torch import Tensor

from argosy_worker.compute.quant.formats import QuantTensor
from argosy_worker.compute.quant.linear import Linear, LinearSpec, Verdict

ROW_MULTIPLE = 4
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def _stack(spec: LinearSpec, parts: Sequence[QuantTensor], dtype: torch.dtype, device: torch.device) -> Tensor:
    weight = torch.empty((spec.out_features, spec.in_features), dtype=dtype, device=device)
    at = 0
    for part in parts:
        weight[at : at + part.rows] = part.dequantize()
        at += part.rows
    return weight


class _PaddedLinear:
    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self._weight, self._bias = weight, bias

    def __call__(self, x: Tensor) -> Tensor:
        rows = len(x)
        missing = -rows % ROW_MULTIPLE
        y = F.linear(F.pad(x, (0, 0, 0, missing)) if missing else x, self._weight)[:rows]
        return y if self._bias is None else y + self._bias


class Fp32Cpu:
    """torch fp32 with padded rows."""

    name = "fp32-torch"

    def can_run(self, spec: LinearSpec) -> Verdict:
        """Run anything on a CPU in fp32."""
        if spec.device != "cpu" or spec.compute != "fp32":
            return Verdict(ok=False, reason=f"computes fp32 on the CPU, asked for {spec.compute} on {spec.device}")
        return Verdict(ok=True, reason="dequantized to fp32, rows padded to a multiple of 4")

    def pack(self, spec: LinearSpec, parts: Sequence[QuantTensor], bias: Tensor | None, device: torch.device) -> Linear:
        """Dequantize and stack."""
        return _PaddedLinear(_stack(spec, parts, torch.float32, device), bias)


class _PlainLinear:
    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self._weight, self._bias = weight, bias

    def __call__(self, x: Tensor) -> Tensor:
        return F.linear(x, self._weight, self._bias)


class FloatCuda:
    """cuBLAS through torch. Not batch-invariant: cuBLAS picks its kernel by the number of rows."""

    name = "float-cublas"

    def can_run(self, spec: LinearSpec) -> Verdict:
        """Run bf16 and fp32 on CUDA."""
        if spec.device != "cuda" or spec.compute not in _DTYPES:
            return Verdict(ok=False, reason=f"computes floats on CUDA, asked for {spec.compute} on {spec.device}")
        return Verdict(ok=True, reason=f"dequantized to {spec.compute}; rows may depend on the batch")

    def pack(self, spec: LinearSpec, parts: Sequence[QuantTensor], bias: Tensor | None, device: torch.device) -> Linear:
        """Dequantize and stack in the compute type."""
        dtype = _DTYPES[spec.compute]
        return _PlainLinear(_stack(spec, parts, dtype, device), None if bias is None else bias.to(device, dtype))
