"""int8 linears on x86 whose weights share scales in groups: one integer product for each group of the inputs.

Activations are those of `int8_cpu`: 16 bits for each token in two terms. Each group's sums are exact integers, below
2**24; they are multiplied by the group's scales and added up group by group, so a row's bits depend on that row alone.
It costs a call for each group: finer scales for the price of time (docs/quantization.md).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from argosy_worker.compute.quant.formats import QuantTensor
from argosy_worker.compute.quant.int8_cpu import integer_refusal, quantize_rows
from argosy_worker.compute.quant.linear import ROWS_AT_ONCE, Linear, LinearSpec, Verdict
from argosy_worker.compute.quant.rounding import int8


class _Int8GroupsLinear:
    def __init__(self, weight: Tensor, scale: Tensor, group: int, bias: Tensor | None) -> None:
        self._group, self._bias = group, bias
        starts = range(0, weight.shape[1], group)
        self._packed = [torch.ops.onednn.qlinear_prepack(weight[:, a : a + group].contiguous(), None) for a in starts]
        self._scales = scale.t().contiguous()
        self._zero = torch.zeros(len(weight), dtype=torch.int32)

    def __call__(self, x: Tensor) -> Tensor:
        terms, scale = quantize_rows(x)
        flat = terms.view(-1, x.shape[-1])
        sums = torch.zeros((len(flat), len(self._zero)))
        for i, packed in enumerate(self._packed):
            sums += torch.ops.onednn.qlinear_pointwise(
                flat[:, i * self._group : (i + 1) * self._group].contiguous(),
                1.0, 128, packed, self._scales[i], self._zero, None, 1.0, 0, torch.float32, "none", [], "",
            )  # fmt: skip
        high, low = sums.view(2, len(x), -1)
        y: Tensor = low.add_(high, alpha=256).mul_(scale)  # 256 y is exact: it does not matter if the sum is fused
        if self._bias is not None:
            y.add_(self._bias)
        return y


class Int8GroupsOneDnn:
    """oneDNN u8 x s8, group by group."""

    name = "int8-groups-onednn"

    def can_run(self, spec: LinearSpec) -> Verdict:
        """Need what `Int8OneDnn` needs, and inputs that are a multiple of the groups."""
        if spec.weights != "int8" or not spec.group:
            return Verdict(ok=False, reason=f"has int8 weights in groups, asked for {spec.wanted}")
        if refused := integer_refusal(spec):
            return refused
        if spec.in_features % spec.group:
            return Verdict(ok=False, reason=f"{spec.in_features} inputs are no multiple of groups of {spec.group}")
        return Verdict(ok=True, reason=f"int8 in groups of {spec.group}, activations per token in two int8 terms")

    def pack(self, spec: LinearSpec, parts: Sequence[QuantTensor], bias: Tensor | None, device: torch.device) -> Linear:
        """Round, some rows at a time; what is int8 in such groups keeps its numbers."""
        del device
        weight = torch.empty((spec.out_features, spec.in_features), dtype=torch.int8)
        scale = torch.empty((spec.out_features, spec.in_features // spec.group))
        at = 0
        for rows in (rows for part in parts for rows in part.slices(ROWS_AT_ONCE)):
            end = at + rows.rows
            weight[at:end], scale[at:end] = int8(rows, spec.group)
            at = end
        return _Int8GroupsLinear(weight, scale, spec.group, bias)
