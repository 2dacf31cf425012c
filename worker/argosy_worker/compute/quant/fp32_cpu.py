"""fp32 linears on the CPU, whose rows have the same bits for every number of rows.

`Fp32OneDnn` is oneDNN's own product over weights that are packed once. Every element of the result is one chain of
fused multiply-adds over the input features, cut by the number of features alone; rows only decide how many chains run
side by side. One row alone goes through a matrix-vector kernel that sums in another order, so a row never goes alone:
it is padded to two. Measured with oneDNN 3.12 for 2 to 512 rows, 1 to 32 threads, 576 to 14,336 features and limited to
AVX-512, AVX2 and SSE4.1: all rows alike. With AVX-512 it also takes a half to a quarter of the time of MKL's product.

`Fp32Tiles` is for a machine where that does not hold, or that lacks oneDNN: torch's product (MKL picks its kernel and
how it cuts the sums by the number of rows, and differently on each kind of processor), always called with TILE rows.

Both are checked at start with the layers' own weights (`compute/exactness.py`).
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812  # the name that torch users know
from torch import Tensor

from argosy_worker.compute.quant.formats import QuantTensor
from argosy_worker.compute.quant.linear import Linear, LinearSpec, Verdict, stack

LEAST = 2
"""Rows of oneDNN's product: with one row it sums in another order."""
TILE = 16
"""Rows of every call of torch's product."""


def _refusal(spec: LinearSpec) -> Verdict | None:
    if spec.device != "cpu" or spec.compute != "fp32" or spec.weights != "none":
        return Verdict(ok=False, reason=f"holds and computes fp32 on the CPU, asked for {spec.wanted} on {spec.device}")
    return None


class _OneDnnLinear:
    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self._packed = torch.ops.mkldnn._reorder_linear_weight(weight, None)  # noqa: SLF001  # torch's name for it
        self._bias = bias

    def __call__(self, x: Tensor) -> Tensor:
        rows = len(x)
        padded = F.pad(x, (0, 0, 0, LEAST - rows)) if rows < LEAST else x
        y: Tensor = torch.ops.mkldnn._linear_pointwise(padded, self._packed, self._bias, "none", [], "")  # noqa: SLF001
        return y[:rows]


class Fp32OneDnn:
    """oneDNN over packed weights."""

    name = "fp32-onednn"

    def can_run(self, spec: LinearSpec) -> Verdict:
        """Run anything on a CPU in fp32, where torch was built with oneDNN."""
        if refused := _refusal(spec):
            return refused
        built: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        if not built or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
            return Verdict(ok=False, reason="this torch has no oneDNN")
        return Verdict(ok=True, reason="dequantized to fp32 and packed; a row's sums do not depend on other rows")

    def pack(self, spec: LinearSpec, parts: Sequence[QuantTensor], bias: Tensor | None, device: torch.device) -> Linear:
        """Dequantize, stack and pack."""
        return _OneDnnLinear(stack(spec, parts, torch.float32, device), bias)


class _TiledLinear:
    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self._weight, self._bias = weight, bias

    def __call__(self, x: Tensor) -> Tensor:
        rows = len(x)
        tiles = F.pad(x, (0, 0, 0, -rows % TILE)).view(-1, TILE, x.shape[-1])
        y = torch.cat([F.linear(tile, self._weight) for tile in tiles])[:rows]
        return y if self._bias is None else y + self._bias


class Fp32Tiles:
    """torch's product, TILE rows at a time."""

    name = "fp32-tiles"

    def can_run(self, spec: LinearSpec) -> Verdict:
        """Run anything on a CPU in fp32."""
        return _refusal(spec) or Verdict(ok=True, reason=f"dequantized to fp32; every product has {TILE} rows")

    def pack(self, spec: LinearSpec, parts: Sequence[QuantTensor], bias: Tensor | None, device: torch.device) -> Linear:
        """Dequantize and stack."""
        return _TiledLinear(stack(spec, parts, torch.float32, device), bias)
