"""Linears with weights of 4 and 8 bits on GPUs, through Triton's kernels: activations and results in bf16.

They are read as they are held where few rows wait for them, and made floats for cuBLAS where there are many
(`triton.paths`). Sums are fp32, in one order for a number of rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from argosy_api.errors import ModelUnsupportedError
from argosy_worker.compute.quant.formats import QuantTensor
from argosy_worker.compute.quant.linear import ROWS_AT_ONCE, Linear, LinearSpec, Verdict
from argosy_worker.compute.quant.rounding import int4, int8
from argosy_worker.compute.triton import machine

if TYPE_CHECKING:
    from argosy_worker.compute.triton.linear import Packed

_GROUPS = {"int4": (32, 64, 128, 256), "int8": (0, 32, 64, 128, 256)}
_COMPUTES = {"int4": ("bf16",), "int8": ("bf16", "int8")}
"""Activations may have 8 bits; here they never do."""
_MOST_INPUTS = 1 << 17
_ALIGNED = 16
"""Inputs are a multiple of this: rows of weights begin where they can be copied 16 bytes at a time."""


class WeightOnlyTriton:
    """int4 and int8 weights by Triton."""

    name = "weights-triton"

    def __init__(self, gpu: Callable[[], machine.Gpu | str] = machine.present) -> None:
        """`gpu` finds it, or says why there is none."""
        self._gpu = gpu

    def can_run(self, spec: LinearSpec) -> Verdict:
        """Run groups of 32 to 256 that the inputs are a multiple of, and int8 with a scale for each output."""
        if spec.device != "cuda" or spec.weights not in _GROUPS or spec.compute not in _COMPUTES[spec.weights]:
            return Verdict(ok=False, reason=f"computes int4 and int8 on CUDA, asked for {spec.wanted} on {spec.device}")
        if isinstance(found := self._gpu(), str):
            return Verdict(ok=False, reason=found)
        if spec.group not in _GROUPS[spec.weights] or (spec.group and spec.in_features % spec.group):
            fitting = [str(g) for g in _GROUPS[spec.weights] if g and spec.in_features % g == 0]
            return Verdict(
                ok=False,
                reason=f"{spec.in_features} inputs in groups of {spec.group}: "
                f"groupSize can be {', '.join(fitting) or 'nothing'}",
            )
        if spec.in_features % _ALIGNED:
            return Verdict(ok=False, reason=f"{spec.in_features} inputs are no multiple of {_ALIGNED}")
        return Verdict(ok=True, reason=f"{spec.weights[3:]} bits; bf16 activations, fp32 sums; cuBLAS for many rows")

    def pack(self, spec: LinearSpec, parts: Sequence[QuantTensor], bias: Tensor | None, device: torch.device) -> Linear:
        """Round, some rows at a time; what is in such groups already keeps its numbers."""
        from argosy_worker.compute.triton.linear import WeightOnly  # noqa: PLC0415  # loads Triton

        found = self._gpu()
        if isinstance(found, str):
            raise ModelUnsupportedError(f"{self.name}: {found}")
        # logits in fp32: bf16 has 8 bits, and logits of 20 would come in steps of 0.125
        dtype = torch.float32 if spec.role == "head" else torch.bfloat16
        return WeightOnly(packed(spec, parts, bias, device), found.multiprocessors, dtype)


class CodedTriton:
    """int8 weights by Triton, with activations in 8 bits where there are many rows."""

    name = "coded-triton"

    def __init__(self, gpu: Callable[[], machine.Gpu | str] = machine.present) -> None:
        """`gpu` finds it, or says why there is none."""
        self._gpu = gpu

    def can_run(self, spec: LinearSpec) -> Verdict:
        """Run int8 with a scale for each output, where that is what was asked to be computed in. Logits are not."""
        if spec.device != "cuda" or (spec.weights, spec.compute) != ("int8", "int8"):
            reason = f"computes int8 weights as int8 on CUDA, asked for {spec.wanted} on {spec.device}"
            return Verdict(ok=False, reason=reason)
        if spec.group:
            return Verdict(ok=False, reason=f"a scale for each output, asked for groups of {spec.group}")
        if spec.role == "head":
            return Verdict(ok=False, reason="logits decide between tokens: activations keep 16 bits")
        if spec.in_features >= _MOST_INPUTS:
            return Verdict(ok=False, reason=f"{spec.in_features} inputs: sums of {_MOST_INPUTS} exceed 32 bits")
        verdict = WeightOnlyTriton(self._gpu).can_run(spec)
        return Verdict(ok=True, reason="int8; many rows in 8 bits, few in bf16") if verdict.ok else verdict

    def pack(self, spec: LinearSpec, parts: Sequence[QuantTensor], bias: Tensor | None, device: torch.device) -> Linear:
        """As `WeightOnlyTriton`."""
        from argosy_worker.compute.triton.linear import Coded  # noqa: PLC0415  # loads Triton

        found = self._gpu()
        if isinstance(found, str):
            raise ModelUnsupportedError(f"{self.name}: {found}")
        return Coded(packed(spec, parts, bias, device), found.multiprocessors, torch.bfloat16)


def packed(spec: LinearSpec, parts: Sequence[QuantTensor], bias: Tensor | None, device: torch.device) -> Packed:
    """int4 or int8 weights on the device, rounded some rows at a time."""
    from argosy_worker.compute.triton.linear import Packed, pack_grid, pack_int4  # noqa: PLC0415  # loads Triton

    weights, scales, middles = [], [], []
    for rows in (rows for part in parts for rows in part.slices(ROWS_AT_ONCE)):
        if spec.weights == "int4":
            numbers, scale, middle = int4(rows, spec.group)
            weights.append(pack_int4(numbers, spec.group).to(device))
            middles.append(pack_grid(middle, spec.in_features, spec.group))
            scales.append(pack_grid(scale, spec.in_features, spec.group))
        else:
            numbers, scale = int8(rows, spec.group)
            weights.append(numbers.to(device))
            scales.append(scale.t())
    return Packed(
        weight=torch.cat(weights),
        scale=torch.cat(scales, 1).contiguous().to(device),
        middle=torch.cat(middles, 1).contiguous().to(device) if middles else None,
        bias=None if bias is None else bias.to(device, torch.bfloat16),
        inputs=spec.in_features,
        group=spec.group,
    )
