"""int8 linears on x86 through oneDNN: int8 weights per output channel, 16-bit activations per token as two uint8 terms.

oneDNN takes one activation scale per call; with scale 1, zero point 128 and fp32 output the rows are scaled after it,
one scale per token. Sums of products are exact integers and the epilogue works on each row alone, so a row's bits do
not depend on the other rows, on their number or on the threads.

Why two terms: the hidden states of small Llama models have a few dimensions that are 10 to 100 times larger than the
others, and one int8 scale for a token leaves little for the rest. Measured with SmolLM2-135M (Q4_1) on 1,536 tokens of
technical text, mean difference of the tokens' log-probabilities from fp32, and change of the perplexity:

    weights int8, activations fp32      0.074    -0.0 %
    weights fp32, activations int8      0.219    +2.7 %
    both int8                           0.228    +2.7 %
    weights int8, activations 2 terms   0.073    +0.1 %

The second term doubles the rows of the product, not the bytes of weights that are read: free for decode, which waits
for memory, and about 1.5 times the time for prefill.

The LM head's columns are balanced before they are quantized: the largest weights of some columns are many times those
of others, so column j is divided by the square root of its largest weight and the activation multiplied by it (the head
alone: 0.044 -> 0.027; for the other layers it made no difference or was worse, so they do without).
"""

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from argosy_worker.compute.quant.formats import QuantTensor, from_plain
from argosy_worker.compute.quant.linear import ROWS_AT_ONCE, Linear, LinearSpec, Verdict
from argosy_worker.compute.quant.rounding import int8

_TOP = 127 * 256
"""Largest 16-bit activation: its high byte stays within -127 .. 127."""
_OFFSET = 128 * 256 + 128
"""Zero point 128 in both bytes: v + _OFFSET = 256 h + l  means  v = 256 (h - 128) + (l - 128)."""


def quantize_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """fp32 [rows, n] -> (uint8 [2, rows, n]: high and low bytes, both with zero point 128; fp32 scale [rows, 1]).

    x is about scale * (256 (high - 128) + (low - 128)). A NaN or infinity makes the row's scale not finite.
    """
    scale = x.abs().amax(-1, keepdim=True).mul_(1 / _TOP).clamp_min_(1e-30)
    fixed = (x / scale).add_(_OFFSET + 0.5).to(torch.int32)
    out = torch.empty((2, *x.shape), dtype=torch.uint8)
    out[1].copy_(fixed)  # a conversion to uint8 keeps the low byte
    out[0].copy_(fixed.bitwise_right_shift_(8))
    return out, scale


@functools.cache
def sums_are_exact() -> bool:
    """Whether this machine's products add the largest values exactly, without saturating pairs at 16 bits."""
    inputs, outputs = 256, 64
    weight = torch.full((outputs, inputs), 127, dtype=torch.int8)
    packed = torch.ops.onednn.qlinear_prepack(weight, None)
    ones, zeros = torch.ones(outputs), torch.zeros(outputs, dtype=torch.int32)
    for rows in (1, 2, 17):
        found: Tensor = torch.ops.onednn.qlinear_pointwise(
            torch.full((rows, inputs), 255, dtype=torch.uint8),
            1.0, 0, packed, ones, zeros, None, 1.0, 0, torch.float32, "none", [], "",
        )  # fmt: skip
        if not bool((found == 255 * 127 * inputs).all()):
            return False
    return True


def integer_refusal(spec: LinearSpec) -> Verdict | None:
    """Why integer products cannot be had; None where they can."""
    if spec.compute != "int8" or spec.device != "cpu":
        return Verdict(ok=False, reason=f"computes int8 on the CPU, asked for {spec.wanted} on {spec.device}")
    if not spec.isa & {"avx512_vnni", "amx_tile"}:
        return Verdict(ok=False, reason="needs AVX512-VNNI or AMX for exact integer sums")
    if not hasattr(torch.ops.onednn, "qlinear_pointwise"):
        return Verdict(ok=False, reason="this torch has no oneDNN quantized ops")
    if not sums_are_exact():
        return Verdict(ok=False, reason="integer sums saturate on this machine")
    return None


class _Int8Linear:
    def __init__(self, weight: Tensor, scale: Tensor, bias: Tensor | None, balance: Tensor | None) -> None:
        self._packed = torch.ops.onednn.qlinear_prepack(weight, None)
        self._scale, self._bias, self._balance = scale, bias, balance
        self._zero = torch.zeros(len(weight), dtype=torch.int32)

    def __call__(self, x: Tensor) -> Tensor:
        if self._balance is not None:
            x = x * self._balance
        terms, scale = quantize_rows(x)
        y: Tensor = torch.ops.onednn.qlinear_pointwise(
            terms.view(-1, x.shape[-1]),
            1.0, 128, self._packed, self._scale, self._zero, None, 1.0, 0, torch.float32, "none", [], "",
        )  # fmt: skip
        high, low = y.view(2, len(x), -1)
        y = low.add_(high, alpha=256).mul_(scale)  # 256 y is exact: it does not matter if the sum is fused
        return y if self._bias is None else y.add_(self._bias)


class Int8OneDnn:
    """oneDNN u8 x s8 with one scale per token and per output channel."""

    name = "int8-onednn"

    def can_run(self, spec: LinearSpec) -> Verdict:
        """Need int8 compute, torch's oneDNN ops and exact sums: without VNNI or AMX pairs may saturate at 16 bits."""
        if spec.weights != "int8" or spec.group:
            return Verdict(ok=False, reason=f"has int8 weights with one scale for each output, asked for {spec.wanted}")
        if refused := integer_refusal(spec):
            return refused
        return Verdict(
            ok=True, reason="weights requantized to int8 per channel, activations per token in two int8 terms"
        )

    def pack(self, spec: LinearSpec, parts: Sequence[QuantTensor], bias: Tensor | None, device: torch.device) -> Linear:
        """Requantize to int8 per channel, some rows at a time; what is int8 per channel already stays as it is."""
        del device
        slices = [rows for part in parts for rows in part.slices(ROWS_AT_ONCE)]
        balance = _column_balance(slices) if spec.role == "head" else None
        weight = torch.empty((spec.out_features, spec.in_features), dtype=torch.int8)
        scale = torch.empty((spec.out_features, 1))
        at = 0
        for rows in slices:
            end = at + rows.rows
            source = rows if balance is None else from_plain(rows.dequantize() / balance)
            weight[at:end], scale[at:end] = int8(source, 0)
            at = end
        return _Int8Linear(weight, scale.flatten(), bias, balance)


def _column_balance(slices: Sequence[QuantTensor]) -> Tensor:
    """Square root of each column's largest weight: fp32 [in]."""
    largest = torch.stack([rows.dequantize().abs().amax(0) for rows in slices]).amax(0)
    return largest.clamp_min(1e-12).sqrt()
