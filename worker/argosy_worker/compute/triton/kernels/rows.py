"""What stands between a layer's products: one pass over each row."""

import triton
import triton.language as tl

from argosy_worker.compute.triton.kernels.codes import nearest, to_e4m3


@triton.jit
def add_norm(
    X,
    PART,
    WEIGHT,
    SUM,
    OUT,
    SCALES,
    columns,
    x_stride,
    part_stride,
    eps,
    factor,
    BLOCK: tl.constexpr,
    HAS_PART: tl.constexpr,
    CODE: tl.constexpr,
):
    """OUT = RMSNorm(SUM) * WEIGHT, where SUM = X + factor * PART, rounded to X's type. Grid (rows).

    CODE 1 and 2: OUT gets its int8 or e4m3 instead, and fp32 SCALES [rows] what they are times.
    """
    at = tl.program_id(0).to(tl.int64)
    rc = tl.arange(0, BLOCK)
    inside = rc < columns
    kind = X.dtype.element_ty
    x = tl.load(X + at * x_stride + rc, mask=inside, other=0.0).to(tl.float32)
    if HAS_PART:
        part = tl.load(PART + at * part_stride + rc, mask=inside, other=0.0).to(tl.float32)
        x = (x + part * factor).to(kind)
        tl.store(SUM + at * columns + rc, x, mask=inside)
        x = x.to(tl.float32)
    weight = tl.load(WEIGHT + rc, mask=inside, other=0.0).to(tl.float32)
    out = (x * tl.rsqrt(tl.sum(x * x, 0) / columns + eps) * weight).to(kind)
    if CODE:
        out = out.to(tl.float32)
        scale = _scale(tl.abs(out), out * 0.0, CODE)
        tl.store(SCALES + at, scale)
        tl.store(OUT + at * columns + rc, _coded(out, scale, CODE), mask=inside)
    else:
        tl.store(OUT + at * columns + rc, out, mask=inside)


@triton.jit
def _scale(largest, odd, CODE: tl.constexpr):
    """What a row's codes are times: its largest number gets the largest code. `odd` has a NaN where the row has one, or
    an infinity: then the scale is no number, and whoever computes with the row sees it.
    """
    highest: tl.constexpr = 127.0 if CODE == 1 else 448.0
    return tl.maximum(tl.max(largest, 0) / highest, 1e-30) + tl.sum(odd, 0)


@triton.jit
def _coded(x, scale, CODE: tl.constexpr):
    """fp32 -> int8 codes. No number is above the largest code, nor is it NaN: bits of one are those of a number."""
    x = x / scale
    if CODE == 1:
        return nearest(tl.minimum(tl.maximum(x, -127.0), 127.0)).to(tl.int8)
    return to_e4m3(tl.minimum(tl.maximum(x, -448.0), 448.0))


@triton.jit
def code_rows(X, OUT, SCALES, columns, x_stride, BLOCK: tl.constexpr, CODE: tl.constexpr):
    """The codes of X [rows, columns], and fp32 SCALES [rows]. Grid (rows). A row is read twice, so it may be long."""
    at = tl.program_id(0).to(tl.int64)
    rc = tl.arange(0, BLOCK)
    largest, odd = tl.zeros((BLOCK,), tl.float32), tl.zeros((BLOCK,), tl.float32)
    for start in tl.range(0, columns, BLOCK):
        x = tl.load(X + at * x_stride + start + rc, mask=start + rc < columns, other=0.0).to(tl.float32)
        largest = tl.maximum(largest, tl.abs(x))
        odd += x * 0.0
    scale = _scale(largest, odd, CODE)
    tl.store(SCALES + at, scale)
    for start in tl.range(0, columns, BLOCK):
        x = tl.load(X + at * x_stride + start + rc, mask=start + rc < columns, other=0.0).to(tl.float32)
        tl.store(OUT + at * columns + start + rc, _coded(x, scale, CODE), mask=start + rc < columns)


@triton.jit
def gated(X, OUT, ffn, x_stride, alpha, limit, BLOCK: tl.constexpr, KIND: tl.constexpr):
    """OUT [rows, ffn] = act(gate) * up of X [rows, 2 ffn], gates first. Grid (rows, blocks of ffn).

    KIND 0: SiLU; 1: GELU by tanh; 2: both bounded by `limit`, gate * sigmoid(alpha * gate) * (up + 1).
    """
    at = tl.program_id(0).to(tl.int64)
    rc = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    out = _activated(X + at * x_stride, rc, ffn, alpha, limit, KIND)
    tl.store(OUT + at * ffn + rc, out, mask=rc < ffn)


@triton.jit
def gated_codes(
    X, OUT, SCALES, ffn, x_stride, alpha, limit, BLOCK: tl.constexpr, KIND: tl.constexpr, CODE: tl.constexpr
):
    """The codes of what `gated` gives, and fp32 SCALES [rows]. Grid (rows). A row is read and computed twice."""
    at = tl.program_id(0).to(tl.int64)
    rc = tl.arange(0, BLOCK)
    largest, odd = tl.zeros((BLOCK,), tl.float32), tl.zeros((BLOCK,), tl.float32)
    for start in tl.range(0, ffn, BLOCK):
        x = _activated(X + at * x_stride, start + rc, ffn, alpha, limit, KIND).to(tl.float32)
        largest = tl.maximum(largest, tl.abs(x))
        odd += x * 0.0
    scale = _scale(largest, odd, CODE)
    tl.store(SCALES + at, scale)
    for start in tl.range(0, ffn, BLOCK):
        x = _activated(X + at * x_stride, start + rc, ffn, alpha, limit, KIND).to(tl.float32)
        tl.store(OUT + at * ffn + start + rc, _coded(x, scale, CODE), mask=start + rc < ffn)


@triton.jit
def _activated(row, rc, ffn, alpha, limit, KIND: tl.constexpr):
    """Columns rc of a row, in its type; 0 where there are none."""
    inside = rc < ffn
    gate = tl.load(row + rc, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(row + ffn + rc, mask=inside, other=0.0).to(tl.float32)
    if KIND == 0:
        gate = gate / (1.0 + tl.exp(-gate))
    elif KIND == 1:
        inner = 0.7978845608028654 * (gate + 0.044715 * gate * gate * gate)
        gate = 0.5 * gate * (2.0 - 2.0 / (tl.exp(2.0 * inner) + 1.0))
    else:
        gate = tl.minimum(gate, limit)
        up = tl.minimum(tl.maximum(up, -limit), limit) + 1.0
        gate = gate / (1.0 + tl.exp(-alpha * gate))
    kind = row.dtype.element_ty
    # torch rounds the activation before it multiplies
    return (gate.to(kind).to(tl.float32) * up).to(kind)
