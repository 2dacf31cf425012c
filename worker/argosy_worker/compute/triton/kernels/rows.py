"""What stands between a layer's products: one pass over each row."""

import triton
import triton.language as tl


@triton.jit
def add_norm(
    X,
    PART,
    WEIGHT,
    SUM,
    OUT,
    columns,
    x_stride,
    part_stride,
    eps,
    factor,
    BLOCK: tl.constexpr,
    HAS_PART: tl.constexpr,
):
    """OUT = RMSNorm(SUM) * WEIGHT, where SUM = X + factor * PART, rounded to X's type. Grid (rows)."""
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
    out = x * tl.rsqrt(tl.sum(x * x, 0) / columns + eps) * weight
    tl.store(OUT + at * columns + rc, out.to(kind), mask=inside)


@triton.jit
def gated(X, OUT, ffn, x_stride, alpha, limit, BLOCK: tl.constexpr, KIND: tl.constexpr):
    """OUT [rows, ffn] = act(gate) * up of X [rows, 2 ffn], gates first. Grid (rows, blocks of ffn).

    KIND 0: SiLU; 1: GELU by tanh; 2: both bounded by `limit`, gate * sigmoid(alpha * gate) * (up + 1).
    """
    at = tl.program_id(0).to(tl.int64)
    rc = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = rc < ffn
    gate = tl.load(X + at * x_stride + rc, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(X + at * x_stride + ffn + rc, mask=inside, other=0.0).to(tl.float32)
    if KIND == 0:
        gate = gate / (1.0 + tl.exp(-gate))
    elif KIND == 1:
        inner = 0.7978845608028654 * (gate + 0.044715 * gate * gate * gate)
        gate = 0.5 * gate * (2.0 - 2.0 / (tl.exp(2.0 * inner) + 1.0))
    else:
        gate = tl.minimum(gate, limit)
        up = tl.minimum(tl.maximum(up, -limit), limit) + 1.0
        gate = gate / (1.0 + tl.exp(-alpha * gate))
    kind = X.dtype.element_ty
    # torch rounds the activation before it multiplies
    tl.store(OUT + at * ffn + rc, (gate.to(kind).to(tl.float32) * up).to(kind), mask=inside)
