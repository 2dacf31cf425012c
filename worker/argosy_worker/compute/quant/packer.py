"""All linear kernels, and the packing of a model's linears with the first that can, and that passes the check."""

from collections.abc import Sequence

import torch
from torch import Tensor

from argosy_worker.compute.exactness import Check
from argosy_worker.compute.quant.float8_cuda import Float8Cuda
from argosy_worker.compute.quant.float_cuda import FloatCuda
from argosy_worker.compute.quant.formats import QuantTensor
from argosy_worker.compute.quant.fp32_cpu import Fp32OneDnn, Fp32Tiles
from argosy_worker.compute.quant.groups_cuda import CodedTriton, WeightOnlyTriton
from argosy_worker.compute.quant.half_cpu import HalfFbgemm
from argosy_worker.compute.quant.int4_cpu import Int4Torch
from argosy_worker.compute.quant.int8_cpu import Int8OneDnn
from argosy_worker.compute.quant.int8_groups_cpu import Int8GroupsOneDnn
from argosy_worker.compute.quant.linear import Linear, LinearKernel, LinearSpec, choose
from argosy_worker.compute.quant.precision import own_form
from argosy_worker.compute.quant.sizes import linear_bytes

KERNELS: tuple[LinearKernel, ...] = (
    Int8OneDnn(),
    Int8GroupsOneDnn(),
    Int4Torch(),
    HalfFbgemm(),
    Fp32OneDnn(),
    Fp32Tiles(),
    CodedTriton(),
    WeightOnlyTriton(),
    Float8Cuda(),
    FloatCuda(),
)
"""In order of preference."""


class Packer:
    """Keeps what was checked, and the reports of the choices by role."""

    def __init__(self, kernels: Sequence[LinearKernel], check: Check | None) -> None:
        self._kernels, self._check = kernels, check
        self._failed: dict[tuple[str, int, int], dict[str, str]] = {}
        """(role, in, out) -> kernel -> what the check found with it."""
        self._checked: set[tuple[str, int, int, str]] = set()
        self.reports: dict[str, str] = {}
        self.nbytes = 0
        """Of all that was packed."""

    def pack(self, spec: LinearSpec, parts: Sequence[QuantTensor], bias: Tensor | None, device: torch.device) -> Linear:
        """Lay out a layer. Raises ModelUnsupportedError when no kernel can run it."""
        shape = (spec.role, spec.in_features, spec.out_features)
        failed = self._failed.setdefault(shape, {})
        while True:
            choice = choose(spec, self._kernels, failed)
            layer, name = choice.kernel.pack(spec, parts, bias, device), choice.kernel.name
            if self._check is None or (*shape, name) in self._checked:
                break
            self._checked.add((*shape, name))
            problem = self._check.linear(layer, spec.in_features)
            if problem is None:
                break
            failed[name] = problem
        if self._check is not None and name in failed and spec.role not in self.reports:
            self._check.problems.append(f"{spec.role}: {failed[name]}")
        self.reports.setdefault(spec.role, choice.report)
        self.nbytes += linear_bytes(
            rows=spec.out_features, cols=spec.in_features, weights=spec.weights, group=spec.group, compute=spec.compute,
            own=own_form(spec.formats, spec.weights),
        )  # fmt: skip
        return layer
