"""int4 linears on x86: weights of 4 bits in groups, activations and results in bf16, sums in fp32.

torch's own kernel (`_weight_int4pack_mm_for_cpu`) unpacks the numbers in registers, so a decode step reads 5 bits for
each weight with groups of 32 (4.5 with 64, 4.25 with 128). Every element of the result is a chain over the features of
its own row, in one order for every number of rows. The LM head is not for it: bf16 has 8 bits, and logits of 20 would
come in steps of 0.125.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from argosy_worker.compute.quant.formats import QuantTensor
from argosy_worker.compute.quant.linear import ROWS_AT_ONCE, Linear, LinearSpec, Verdict
from argosy_worker.compute.quant.rounding import int4

_OUTPUTS = 16
"""The kernel's tile: outputs come in multiples of it."""


class _Int4Linear:
    def __init__(self, numbers: Tensor, grid: Tensor, group: int, bias: Tensor | None) -> None:
        self._packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(numbers, 1)  # noqa: SLF001  # torch's name
        self._grid, self._group, self._bias = grid, group, bias

    def __call__(self, x: Tensor) -> Tensor:
        y: Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(  # noqa: SLF001
            x.to(torch.bfloat16).contiguous(), self._packed, self._group, self._grid
        )
        y = y.float()
        return y if self._bias is None else y.add_(self._bias)


class Int4Torch:
    """torch's int4 kernel for CPUs."""

    name = "int4-torch"

    def can_run(self, spec: LinearSpec) -> Verdict:
        """Run groups of 32, 64, 128 or 256 that the inputs are a multiple of."""
        if spec.device != "cpu" or spec.weights != "int4" or spec.compute != "bf16":
            return Verdict(ok=False, reason=f"computes int4 on the CPU, asked for {spec.wanted} on {spec.device}")
        if not hasattr(torch.ops.aten, "_weight_int4pack_mm_for_cpu"):
            return Verdict(ok=False, reason="this torch has no int4 product for CPUs")
        if not spec.isa & {"avx2", "avx512"}:
            return Verdict(ok=False, reason="needs AVX2 or AVX-512; without them it takes minutes")
        if spec.in_features % spec.group:
            fitting = [str(g) for g in (32, 64, 128, 256) if spec.in_features % g == 0]
            return Verdict(
                ok=False,
                reason=f"{spec.in_features} inputs are no multiple of groups of {spec.group}; "
                f"groupSize can be {', '.join(fitting) or 'nothing'}",
            )
        if spec.out_features % _OUTPUTS:
            return Verdict(ok=False, reason=f"{spec.out_features} outputs are no multiple of {_OUTPUTS}")
        return Verdict(ok=True, reason=f"4 bits in groups of {spec.group}; bf16 activations, fp32 sums")

    def pack(self, spec: LinearSpec, parts: Sequence[QuantTensor], bias: Tensor | None, device: torch.device) -> Linear:
        """Round, some rows at a time; what is int4 in such groups keeps its numbers."""
        del device
        numbers = torch.empty((spec.out_features, spec.in_features), dtype=torch.int32)
        grid = torch.empty((spec.in_features // spec.group, spec.out_features, 2), dtype=torch.bfloat16)
        at = 0
        for rows in (rows for part in parts for rows in part.slices(ROWS_AT_ONCE)):
            end = at + rows.rows
            numbers[at:end], scale, middle = int4(rows, spec.group)
            grid[:, at:end, 0], grid[:, at:end, 1] = scale.t(), middle.t()
            at = end
        return _Int4Linear(numbers, grid, spec.group, bias)
