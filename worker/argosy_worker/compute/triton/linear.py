"""Launches of the linear kernels. Loads Triton."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812  # the name that torch users know
from torch import Tensor

from argosy_worker.compute.triton.kernels.linear import (
    add_splits,
    coded_linear,
    int4_floats,
    int4_linear,
    int8_floats,
    int8_linear,
)
from argosy_worker.compute.triton.paths import Path, coded_path, float8_product, half_of, path, takes_codes
from argosy_worker.compute.triton.rows import Code, Codes, code_rows

_HALVES = 256
"""What `e4m3_halves` divides numbers by."""
_SUMMED_AT_ONCE = 512
_FLOATS_AT_ONCE = 32


def pack_int4(numbers: Tensor, group: int) -> Tensor:
    """uint8 0 .. 15 [outputs, inputs] -> uint8 [outputs, bytes], in the blocks that the kernel reads."""
    half = half_of(group)
    padded = F.pad(numbers, (0, -numbers.shape[1] % (2 * half)), value=8)
    blocks = padded.view(len(padded), -1, 2, half)
    return (blocks[:, :, 0] | blocks[:, :, 1] << 4).reshape(len(padded), -1)


def pack_grid(values: Tensor, inputs: int, group: int) -> Tensor:
    """Scales or middles [outputs, groups] -> [groups, outputs], with zeros for what fills up the last block."""
    block = 2 * half_of(group)
    groups = max(values.shape[1], -(-inputs // block) * block // group)
    return F.pad(values, (0, groups - values.shape[1])).t().contiguous()


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """A linear's weights on the device."""

    weight: Tensor
    """int4: uint8 [outputs, bytes], of `pack_int4`; int8, and the bits of e4m3: int8 [outputs, inputs]."""
    scale: Tensor
    """int4: bf16 [groups, outputs]; int8: fp32 [groups or 1, outputs]."""
    middle: Tensor | None
    """int4: bf16 [groups, outputs]: a weight is (number - 8) * scale + middle. int8: None."""
    bias: Tensor | None
    inputs: int
    group: int
    """0: a scale for each output."""
    code: Code = Code.INT8
    """What 8 bits are; the scales of e4m3 are 256 times as large, as `e4m3_halves` wants them."""

    @property
    def outputs(self) -> int:
        """Rows of the weights."""
        return len(self.weight)

    @property
    def bits(self) -> int:
        """Of a weight."""
        return 8 if self.middle is None else 4


class WeightOnly:
    """A linear on a GPU of so many multiprocessors, whose results are `dtype`."""

    def __init__(self, packed: Packed, multiprocessors: int, dtype: torch.dtype) -> None:
        self.packed, self.multiprocessors, self.dtype = packed, multiprocessors, dtype

    def __call__(self, x: Tensor) -> Tensor:
        """Compute `x W^T + b`: [rows, in] -> [rows, out]."""
        return multiply(x, self.packed, multiprocessors=self.multiprocessors, dtype=self.dtype)


class Coded(WeightOnly):
    """Where there are many rows, they get 8 bits, too. Weights are int8 with a scale for each output."""

    code = Code.INT8

    def __call__(self, x: Tensor) -> Tensor:
        """As `WeightOnly`."""
        return self.of_codes(code_rows(x, self.code)) if self.takes_codes(len(x)) else super().__call__(x)

    def takes_codes(self, rows: int) -> bool:
        """Whether so many rows are computed from codes: who has just made them had better made these."""
        return takes_codes(rows)

    def of_codes(self, x: Codes) -> Tensor:
        """The product with rows that have 8 bits already."""
        held = self.packed
        chosen = coded_path(
            rows=len(x.codes), outputs=held.outputs, inputs=held.inputs, multiprocessors=self.multiprocessors
        )
        return by_codes(x, held, chosen, self.dtype)


class Float8(Coded):
    """Where there are many rows, they get e4m3, as the weights have, and torch multiplies both."""

    code = Code.E4M3

    def __init__(self, packed: Packed, multiprocessors: int, dtype: torch.dtype, capability: tuple[int, int]) -> None:
        """`capability`: of the GPU."""
        super().__init__(packed, multiprocessors, dtype)
        self._capability = capability
        self._weight = packed.weight.view(torch.float8_e4m3fn).t()
        self._scale = packed.scale / _HALVES

    def takes_codes(self, rows: int) -> bool:
        """As `Coded`."""
        held = self.packed
        return float8_product(rows=rows, outputs=held.outputs, inputs=held.inputs, capability=self._capability)

    def of_codes(self, x: Codes) -> Tensor:
        """As `Coded`. Sums are fp32 throughout, which the fast ones of sm_90 are not."""
        found: Tensor = torch._scaled_mm(  # noqa: SLF001  # torch has no other name for it before 2.10
            x.codes, self._weight, scale_a=x.scales[:, None], scale_b=self._scale, bias=self.packed.bias,
            out_dtype=self.dtype,
        )  # fmt: skip
        return found


def pack_float8(codes: Tensor, scale: Tensor, bias: Tensor | None) -> Packed:
    """e4m3 [outputs, inputs] with fp32 scales [outputs, 1]."""
    return Packed(
        weight=codes.view(torch.int8), scale=(scale.t() * _HALVES).contiguous(), middle=None, bias=bias,
        inputs=codes.shape[1], group=0, code=Code.E4M3,
    )  # fmt: skip


def by_codes(x: Codes, packed: Packed, chosen: Path, dtype: torch.dtype) -> Tensor:
    """`x W^T + b` of whole numbers, in a given way."""
    if chosen.tile is None:
        raise ValueError("whole numbers are multiplied in tiles")
    rows, tile, many = len(x.codes), chosen.tile, chosen.splits > 1
    out, target = _targets(rows, packed, chosen, dtype)
    bias = out if packed.bias is None else packed.bias
    coded_linear[-(-packed.outputs // tile.outputs), chosen.splits, -(-rows // tile.rows)](
        x.codes, x.scales, packed.weight, packed.scale, bias, target, rows, packed.outputs, packed.inputs, BM=tile.rows,
        BN=tile.outputs, BK=tile.inputs, SPLIT=many, HAS_BIAS=packed.bias is not None, num_warps=tile.warps,
        num_stages=tile.stages,
    )  # fmt: skip
    return _added(target, packed, out)


def _targets(rows: int, packed: Packed, chosen: Path, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Room for the result, and for what a program makes of it: the same, or fp32 [splits, rows, outputs]."""
    out = torch.empty((rows, packed.outputs), dtype=dtype, device=packed.weight.device)
    if chosen.splits == 1:
        return out, out
    return out, torch.empty((chosen.splits, *out.shape), dtype=torch.float32, device=out.device)


def _added(target: Tensor, packed: Packed, out: Tensor) -> Tensor:
    """The result, of the parts if there are such."""
    if target is not out:
        add_splits[-(-packed.outputs // _SUMMED_AT_ONCE), len(out)](
            target, out if packed.bias is None else packed.bias, out, len(out), packed.outputs, len(target),
            BLOCK=_SUMMED_AT_ONCE, HAS_BIAS=packed.bias is not None, num_warps=4, num_stages=1,
        )  # fmt: skip
    return out


def multiply(x: Tensor, packed: Packed, *, multiprocessors: int, dtype: torch.dtype) -> Tensor:
    """`x W^T + b`: [rows, inputs], without gaps within a row -> `dtype` [rows, outputs]."""
    chosen = path(
        rows=len(x), outputs=packed.outputs, inputs=packed.inputs, bits=packed.bits, group=packed.group,
        multiprocessors=multiprocessors,
    )  # fmt: skip
    return by_path(x, packed, chosen, dtype)


def by_path(x: Tensor, packed: Packed, chosen: Path, dtype: torch.dtype) -> Tensor:
    """The same in a given way."""
    if chosen.tile is None:
        found = F.linear(x, floats(packed, x.dtype), None if packed.bias is None else packed.bias.to(x.dtype))
        return found.to(dtype)
    rows, tile, many = len(x), chosen.tile, chosen.splits > 1
    out, target = _targets(rows, packed, chosen, dtype)
    bias = out if packed.bias is None else packed.bias
    has_bias = packed.bias is not None
    grid = (-(-packed.outputs // tile.outputs), chosen.splits, -(-rows // tile.rows))
    if packed.middle is not None:
        half = tile.inputs // 2
        int4_linear[grid](
            x, packed.weight, packed.scale, packed.middle, bias, target, rows, packed.outputs, packed.inputs,
            x.stride(0), packed.weight.shape[1] // half, HALF=half, GROUP=packed.group, BM=tile.rows, BN=tile.outputs,
            SPLIT=many, HAS_BIAS=has_bias, num_warps=tile.warps, num_stages=tile.stages,
        )  # fmt: skip
    else:
        int8_linear[grid](
            x, packed.weight, packed.scale, bias, target, rows, packed.outputs, packed.inputs, x.stride(0),
            CODE=int(packed.code), GROUP=packed.group, BM=tile.rows, BN=tile.outputs, BK=tile.inputs, SPLIT=many,
            HAS_BIAS=has_bias, num_warps=tile.warps, num_stages=tile.stages,
        )  # fmt: skip
    return _added(target, packed, out)


def floats(packed: Packed, dtype: torch.dtype) -> Tensor:
    """The weights as they are meant: `dtype` [outputs, inputs]."""
    out = torch.empty((packed.outputs, packed.inputs), dtype=dtype, device=packed.weight.device)
    across = -(-packed.outputs // _FLOATS_AT_ONCE)
    if packed.middle is not None:
        half = half_of(packed.group)
        blocks = packed.weight.shape[1] // half
        int4_floats[across, blocks](
            packed.weight, packed.scale, packed.middle, out, packed.outputs, packed.inputs, blocks, HALF=half,
            GROUP=packed.group, BN=_FLOATS_AT_ONCE, num_warps=4, num_stages=1,
        )  # fmt: skip
    else:
        block = min(packed.group or 128, 128)
        int8_floats[across, -(-packed.inputs // block)](
            packed.weight, packed.scale, out, packed.outputs, packed.inputs, CODE=int(packed.code), GROUP=packed.group,
            BN=_FLOATS_AT_ONCE, BK=block, num_warps=4, num_stages=1,
        )  # fmt: skip
    return out
