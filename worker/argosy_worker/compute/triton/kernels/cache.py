"""From what a layer's QKV product gave to turned queries and to keys and values in the cache, in one launch.

Norm, rotation, turn (`kv_types.spread`) and code are applied in that order, in fp32, and rounded to the activations'
type after each, as torch does it step by step.
"""

import triton
import triton.language as tl

from argosy_worker.compute.triton.kernels.codes import nearest, spread, to_e4m3


@triton.jit
def _turned(
    X,
    COS,
    SIN,
    WEIGHT,
    at,
    cells,
    rd,
    inside,
    eps,
    HB: tl.constexpr,
    D: tl.constexpr,
    DP: tl.constexpr,
    DIMS: tl.constexpr,
    STAGES: tl.constexpr,
    FACTOR: tl.constexpr,
    NORM: tl.constexpr,
    SPREAD: tl.constexpr,
):
    """Heads [HB, DP] that begin at X + cells, normed, rotated and spread: fp32, rounded to X's type."""
    kind = X.dtype.element_ty
    x = tl.load(X + cells[:, None] + rd[None, :], mask=inside, other=0.0).to(tl.float32)
    if NORM:
        rms = tl.rsqrt(tl.sum(x * x, 1) / D + eps)
        weight = tl.load(WEIGHT + rd, mask=rd < D, other=0.0).to(tl.float32)
        x = (x * rms[:, None] * weight[None, :]).to(kind).to(tl.float32)
    if DIMS:
        turned = rd < DIMS
        other = tl.where(turned, (rd + DIMS // 2) % DIMS, rd)
        y = tl.load(X + cells[:, None] + other[None, :], mask=inside, other=0.0).to(tl.float32)
        if NORM:
            there = tl.load(WEIGHT + other, mask=rd < D, other=0.0).to(tl.float32)
            y = (y * rms[:, None] * there[None, :]).to(kind).to(tl.float32)
        cos = tl.load(COS + at * DIMS + rd, mask=turned, other=1.0).to(tl.float32)
        sin = tl.load(SIN + at * DIMS + rd, mask=turned, other=0.0).to(tl.float32)
        x = (x * cos[None, :] + y * sin[None, :]).to(kind).to(tl.float32)
    if SPREAD:
        x = spread(x, HB, DP, STAGES, FACTOR).to(kind).to(tl.float32)
    return x


@triton.jit(do_not_specialize=["SLOTS"])  # a step's arrays begin anywhere
def turn_and_store(
    Q,
    K,
    V,
    TURNED,
    KV,
    SCALES,
    SLOTS,
    COS,
    SIN,
    Q_WEIGHT,
    K_WEIGHT,
    q_stride,
    k_stride,
    v_stride,
    eps,
    H: tl.constexpr,
    KVH: tl.constexpr,
    D: tl.constexpr,
    DP: tl.constexpr,
    PAGE: tl.constexpr,
    HB: tl.constexpr,
    DIMS: tl.constexpr,
    NORM: tl.constexpr,
    CODE: tl.constexpr,
    STAGES: tl.constexpr,
    FACTOR: tl.constexpr,
    MOST: tl.constexpr,
    QUERIES: tl.constexpr,
):
    """Grid (rows, blocks of HB heads: those of keys, then of values, then, where QUERIES, of queries).

    Q [rows, H, D], K and V [rows, KVH, D], with rows so many elements apart; TURNED [rows, H, D] gets the queries; KV
    [blocks, 2, KVH, PAGE, D] and fp32 SCALES [blocks, 2, KVH, PAGE] get keys and values at int32 SLOTS [rows]. COS and
    SIN [rows, DIMS] are those of `rope.Rotation`; DIMS 0: no rotation. The weights [D] are of RMSNorms over a head.

    No NaN is stored: it becomes 0, and what is above MOST becomes MOST.
    """
    at = tl.program_id(0).to(tl.int64)
    BLOCKS: tl.constexpr = (KVH + HB - 1) // HB
    part, block = tl.program_id(1) // BLOCKS, tl.program_id(1) % BLOCKS
    rd, rh = tl.arange(0, DP), tl.arange(0, HB)
    if part >= 2:
        h = (tl.program_id(1) - 2 * BLOCKS) * HB + rh
        inside = (h < H)[:, None] & (rd < D)[None, :]
        if QUERIES:
            x = _turned(
                Q, COS, SIN, Q_WEIGHT, at, at * q_stride + h * D, rd, inside, eps,
                HB, D, DP, DIMS, STAGES, FACTOR, NORM, CODE > 0,
            )  # fmt: skip
            tl.store(TURNED + (at * (H * D) + h * D)[:, None] + rd[None, :], x.to(TURNED.dtype.element_ty), mask=inside)
    else:
        h = block * HB + rh
        inside = (h < KVH)[:, None] & (rd < D)[None, :]
        if part == 0:
            x = _turned(
                K, COS, SIN, K_WEIGHT, at, at * k_stride + h * D, rd, inside, eps,
                HB, D, DP, DIMS, STAGES, FACTOR, NORM, CODE > 0,
            )  # fmt: skip
        else:
            x = tl.load(V + (at * v_stride + h * D)[:, None] + rd[None, :], mask=inside, other=0.0).to(tl.float32)
        slot = tl.load(SLOTS + at).to(tl.int64)
        row = ((slot // PAGE * 2 + part) * KVH + h) * PAGE + slot % PAGE
        x = tl.where(x == x, x, 0.0)
        x = tl.minimum(tl.maximum(x, -MOST), MOST)
        if CODE:
            highest: tl.constexpr = 127.0 if CODE == 1 else 448.0
            scale = tl.maximum(tl.math.div_rn(tl.max(tl.abs(x), 1), tl.full((HB,), highest, tl.float32)), 1e-30)
            tl.store(SCALES + row, scale, mask=h < KVH)
            x = tl.math.div_rn(x, tl.broadcast_to(scale[:, None], (HB, DP)))
            codes = nearest(x).to(tl.int8) if CODE == 1 else to_e4m3(x)
            tl.store(KV + row[:, None] * D + rd[None, :], codes, mask=inside)
        else:
            tl.store(KV + row[:, None] * D + rd[None, :], x.to(KV.dtype.element_ty), mask=inside)
