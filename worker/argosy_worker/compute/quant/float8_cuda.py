"""Linears with weights in floats of 8 bits (e4m3, a scale for each output) on GPUs.

Many rows get e4m3, too, and torch multiplies both where tensor cores can (`triton.paths.float8_product`). Else the
weights are read as they are held by the kernels of `groups_cuda`, and multiplied with activations in bf16.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from argosy_api.errors import ModelUnsupportedError
from argosy_worker.compute.quant.formats import QuantTensor
from argosy_worker.compute.quant.linear import ROWS_AT_ONCE, Linear, LinearSpec, Verdict
from argosy_worker.compute.quant.rounding import float8
from argosy_worker.compute.triton import machine
from argosy_worker.compute.triton.paths import FLOAT8_FROM

_ALIGNED = 16
"""Inputs are a multiple of this: rows of weights begin where they can be copied 16 bytes at a time."""


class Float8Cuda:
    """fp8 weights by Triton, and by torch's product of two e4m3."""

    name = "float8-cuda"

    def __init__(self, gpu: Callable[[], machine.Gpu | str] = machine.present) -> None:
        """`gpu` finds it, or says why there is none."""
        self._gpu = gpu

    def can_run(self, spec: LinearSpec) -> Verdict:
        """Run fp8 on every GPU that Triton's kernels run on; which ones multiply it is in the reason."""
        if (spec.device, spec.weights, spec.compute) != ("cuda", "fp8", "bf16"):
            return Verdict(ok=False, reason=f"computes fp8 on CUDA, asked for {spec.wanted} on {spec.device}")
        if isinstance(found := self._gpu(), str):
            return Verdict(ok=False, reason=found)
        if spec.in_features % _ALIGNED:
            return Verdict(ok=False, reason=f"{spec.in_features} inputs are no multiple of {_ALIGNED}")
        if found.capability < FLOAT8_FROM:
            needs = "{}.{} on, the GPU has {}.{}".format(*FLOAT8_FROM, *found.capability)
            return Verdict(ok=True, reason=f"e4m3; activations in bf16: products of e4m3 are there from {needs}")
        return Verdict(ok=True, reason="e4m3; many rows in e4m3 by torch, few in bf16")

    def pack(self, spec: LinearSpec, parts: Sequence[QuantTensor], bias: Tensor | None, device: torch.device) -> Linear:
        """Round, some rows at a time; what is e4m3 with a scale for each row, or one for all, keeps its numbers."""
        from argosy_worker.compute.triton.linear import (  # noqa: PLC0415  # loads Triton
            Float8,
            WeightOnly,
            pack_float8,
        )

        found = self._gpu()
        if isinstance(found, str):
            raise ModelUnsupportedError(f"{self.name}: {found}")
        rounded = [float8(rows) for part in parts for rows in part.slices(ROWS_AT_ONCE)]
        packed = pack_float8(
            torch.cat([codes.to(device) for codes, _ in rounded]),
            torch.cat([scale.to(device) for _, scale in rounded]),
            None if bias is None else bias.to(device, torch.bfloat16),
        )
        if spec.role == "head":  # logits decide between tokens
            return WeightOnly(packed, found.multiprocessors, torch.float32)
        return Float8(packed, found.multiprocessors, torch.bfloat16, found.capability)
