"""Linears on the native kernels: weights of 4 or 8 bits, activations of 8, with a scale for each 32 inputs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from argosy_worker.arrays import Array, address, is_numpy, room, solid
from argosy_worker.compute.native import library, packing
from argosy_worker.compute.native.arena import Arena
from argosy_worker.compute.quant.linear import Verdict
from argosy_worker.compute.quant.precision import NATIVE, OWN, OWN_GROUP, OWN_TILE, OwnForm, own_form

if TYPE_CHECKING:
    from collections.abc import Sequence

    from argosy_worker.compute.native.crew import Crew
    from argosy_worker.compute.quant.formats import QuantTensor
    from argosy_worker.compute.quant.linear import LinearSpec


class NativeLinear:
    """A packed linear; `struct` points into it."""

    def __init__(  # noqa: PLR0917
        self, crew: Crew, weight: Array, bias: npt.NDArray[np.float32] | None, inputs: int, outputs: int, form: OwnForm
    ) -> None:
        self.crew = crew
        self._weight, self._bias = weight, bias
        self.struct = library.Linear(address(weight), None if bias is None else address(bias), inputs, outputs, *form)

    def __call__(self, x: Array) -> Array:
        """fp32 [rows, in] -> [rows, out], of numpy or of torch."""
        x = solid(x)
        out = room(x, (len(x), self.struct.outputs))
        if len(x):
            self.crew.linear(self.struct, address(x), len(x), address(out))
        return out

    def normed(self, x: Array, norm: Array, eps: float) -> Array:
        """As a call, of rows after RMSNorm with the weights `norm`, fp32 [in]."""
        x, norm = solid(x), solid(norm)
        out = room(x, (len(x), self.struct.outputs))
        self.crew.logits(self.struct, address(norm), eps, address(x), len(x), address(out))
        return out


class NormedLinear:
    """A linear of rows that are normed first, in the same call."""

    norms = True

    def __init__(self, linear: NativeLinear, norm: Array, eps: float) -> None:
        self._linear, self._norm, self._eps = linear, norm, eps

    def __call__(self, x: Array) -> Array:
        """fp32 [rows, in], before the norm -> [rows, out], of numpy or of torch."""
        return self._linear.normed(x, self._norm, self._eps)


class NativeLinears:
    """Packs linears for a crew."""

    name = "native-w4a8"

    def __init__(self, crew: Crew) -> None:
        self._crew, self._arena = crew, Arena()
        self.name = f"native-{crew.kernels}"

    def can_run(self, spec: LinearSpec) -> Verdict:
        """Whole blocks of inputs and whole tiles of outputs."""
        if spec.weights not in NATIVE or spec.device != "cpu":
            return Verdict(ok=False, reason=f"computes integers in blocks of 32 on a CPU, asked for {spec.wanted}")
        if spec.in_features % OWN_GROUP or spec.out_features % OWN_TILE:
            shape = f"{spec.in_features} inputs and {spec.out_features} outputs"
            return Verdict(ok=False, reason=f"{shape} are no multiples of {OWN_GROUP} and {OWN_TILE}")
        return Verdict(ok=True, reason=self._reason(own_form(spec.formats, spec.weights), spec.group))

    @staticmethod
    def _reason(form: OwnForm, group: int) -> str:
        groups = f" in groups of {group}" if group > OWN_GROUP else ""
        return f"{form}{groups}, int8 activations, by blocks of 32"

    def report(self, parts: Sequence[QuantTensor], weights: str = OWN, group: int = 0) -> str:
        """How these are computed, for people."""
        return f"{self.name} ({self._reason(own_form((part.format for part in parts), weights), group)})"

    def made(
        self,
        parts: Sequence[QuantTensor],
        bias: npt.NDArray[np.float32] | None = None,
        weights: str = OWN,
        group: int = 0,
    ) -> NativeLinear:
        """Lay out the weights, as `Precision` has them."""
        form = own_form((part.format for part in parts), weights)
        inputs, outputs = parts[0].cols, sum(part.rows for part in parts)
        packed = packing.pack(parts, form, group or OWN_GROUP, self._arena)
        return NativeLinear(self._crew, packed, bias, inputs, outputs, form)

    def pack(self, spec: LinearSpec, parts: Sequence[QuantTensor], bias: Array | None, device: object) -> NativeLinear:
        """As `made`, with a bias of torch's."""
        del device
        bias = bias if bias is None or is_numpy(bias) else bias.float().contiguous().numpy()
        return self.made(parts, bias, spec.weights, spec.group)
