"""Linears on the native kernels: weights of 4 or 8 bits, activations of 8, with a scale for each 32 inputs."""

from collections.abc import Sequence

import torch
from torch import Tensor

from argosy_worker.compute.native import library, packing
from argosy_worker.compute.native.arena import Arena
from argosy_worker.compute.native.crew import Crew
from argosy_worker.compute.quant.formats import QuantTensor
from argosy_worker.compute.quant.linear import Linear, LinearSpec, Verdict
from argosy_worker.compute.quant.precision import OWN, OWN_GROUP, OWN_TILE


class NativeLinear:
    """A packed linear; `struct` points into it."""

    def __init__(self, crew: Crew, weight: Tensor, bias: Tensor | None, inputs: int, outputs: int, bits: int) -> None:  # noqa: PLR0917
        self.crew = crew
        self._weight, self._bias = weight, None if bias is None else bias.float().contiguous()
        self.struct = library.Linear(
            weight.data_ptr(), None if self._bias is None else self._bias.data_ptr(), inputs, outputs, bits
        )

    def __call__(self, x: Tensor) -> Tensor:
        """fp32 [rows, in] -> [rows, out]."""
        x = x.contiguous()
        out = torch.empty((len(x), self.struct.outputs))
        if len(x):
            self.crew.linear(self.struct, x.data_ptr(), len(x), out.data_ptr())
        return out


class NativeLinears:
    """Packs linears for a crew."""

    name = "native-w4a8"

    def __init__(self, crew: Crew) -> None:
        self._crew, self._arena = crew, Arena()
        self.name = f"native-{crew.kernels}"

    def can_run(self, spec: LinearSpec) -> Verdict:
        """Whole blocks of inputs and whole tiles of outputs."""
        if spec.weights != OWN or spec.device != "cpu":
            return Verdict(ok=False, reason=f"computes the checkpoint's own integers on a CPU, asked for {spec.wanted}")
        if spec.in_features % OWN_GROUP or spec.out_features % OWN_TILE:
            shape = f"{spec.in_features} inputs and {spec.out_features} outputs"
            return Verdict(ok=False, reason=f"{shape} are no multiples of {OWN_GROUP} and {OWN_TILE}")
        return Verdict(
            ok=True, reason=f"{packing.bits_of(spec.formats)}-bit weights, int8 activations, by blocks of 32"
        )

    def pack(self, spec: LinearSpec, parts: Sequence[QuantTensor], bias: Tensor | None, device: torch.device) -> Linear:
        """Lay out the weights."""
        del device
        bits = packing.bits_of(spec.formats)
        return NativeLinear(
            self._crew, packing.pack(parts, bits, self._arena), bias, spec.in_features, spec.out_features, bits
        )
