"""Floating-point linears with torch on CUDA: bf16 or fp32 through cuBLAS."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812  # the name that torch users know
from torch import Tensor

from argosy_worker.compute.quant.formats import QuantTensor
from argosy_worker.compute.quant.linear import Linear, LinearSpec, Verdict, stack

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


class PlainLinear:
    """Weights [out, in] and a bias, as they are."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.weight, self.bias = weight, bias

    def __call__(self, x: Tensor) -> Tensor:
        """Compute `x W^T + b`."""
        return F.linear(x, self.weight, self.bias)


class FloatCuda:
    """cuBLAS through torch. Not batch-invariant: cuBLAS picks its kernel by the number of rows."""

    name = "float-cublas"

    def can_run(self, spec: LinearSpec) -> Verdict:
        """Run bf16 and fp32 on CUDA."""
        if spec.device != "cuda" or spec.compute not in _DTYPES or spec.weights not in {"none", spec.compute}:
            return Verdict(ok=False, reason=f"computes floats on CUDA, asked for {spec.wanted} on {spec.device}")
        return Verdict(ok=True, reason=f"dequantized to {spec.compute}; rows may depend on the batch")

    def pack(self, spec: LinearSpec, parts: Sequence[QuantTensor], bias: Tensor | None, device: torch.device) -> Linear:
        """Dequantize and stack in the compute type."""
        dtype = _DTYPES[spec.compute]
        return PlainLinear(stack(spec, parts, dtype, device), None if bias is None else bias.to(device, dtype))
