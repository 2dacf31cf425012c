"""Causal attention over a paged cache: one kernel for prompts, decoding and drafts, and one that joins split ranges.

A tile holds BM rows: BQ = BM // G tokens of a sequence, each with the G query heads that share a key/value head. So the
keys of a head are read once for all of them, and one token makes a product of G rows. A tile's keys are cut into
SPLITS ranges, one for each program, where there are too few tiles to fill the GPU.

Softmax is that of Milakov and Gimelshein ("Online normalizer calculation for softmax", 2018) in powers of two. Scales
of coded rows are folded into the scores and the weights, so that codes are multiplied as they are: all of int8 and of
e4m3 is exact in fp16 and in bf16.

INVARIANT cuts keys at absolute multiples of CHUNK, and joins the cuts in order, in registers or in `join_splits` alike:
a row's sums are then associated in one way, whoever shares its step and however its prompt was cut.
"""

import triton
import triton.language as tl

from argosy_worker.compute.triton.kernels.codes import e4m3_halves

LOG2E = tl.constexpr(1.4426950408889634)


@triton.jit
def _joined(m, l, acc, more_m, more_l, more_acc):
    """Sums over both: highest scores [n], sums of weights [n] and weighted sums [n, d]."""
    top = tl.maximum(m, more_m)
    base = tl.where(top == float("-inf"), 0.0, top)
    a, b = tl.exp2(m - base), tl.exp2(more_m - base)
    return top, l * a + more_l * b, acc * a[:, None] + more_acc * b[:, None]


@triton.jit
def _over(
    q,
    m,
    l,
    acc,
    lo,
    hi,
    position,
    kv,
    scales,
    table,
    head,
    scale_log2,
    softcap,
    window,
    KVH: tl.constexpr,
    D: tl.constexpr,
    DP: tl.constexpr,
    PAGE: tl.constexpr,
    BN: tl.constexpr,
    SOFTCAP: tl.constexpr,
    WINDOW: tl.constexpr,
    CODE: tl.constexpr,
):
    """Take the keys lo .. hi into the sums m, l, acc of rows at these positions."""
    UNIT: tl.constexpr = 256.0 if CODE == 2 else 1.0  # of `e4m3_halves`
    rd, rn = tl.arange(0, DP), tl.arange(0, BN)
    for start in tl.range(lo, hi, BN):
        j = start + rn
        there = j < hi
        page = tl.load(table + j // PAGE, mask=there, other=0).to(tl.int64)
        row = (page * (2 * KVH) + head) * PAGE + j % PAGE
        at = row * D
        mask_k = there[None, :] if D == DP else there[None, :] & (rd < D)[:, None]
        k = tl.load(kv + at[None, :] + rd[:, None], mask=mask_k, other=0)
        if CODE == 2:
            k = e4m3_halves(k)
        x = tl.dot(q, k.to(q.dtype), input_precision="ieee") * scale_log2
        if CODE:
            x *= (tl.load(scales + row, mask=there, other=0.0) * UNIT)[None, :]
        if SOFTCAP:  # cap * tanh(s / cap), where x is s in units of log2
            x = (softcap * LOG2E) * (1.0 - 2.0 / (tl.exp2(x * (2.0 / softcap)) + 1.0))
        seen = there[None, :] & (j[None, :] <= position[:, None])
        if WINDOW:
            seen = seen & (j[None, :] > position[:, None] - window)
        x = tl.where(seen, x, float("-inf"))
        top = tl.maximum(m, tl.max(x, 1))
        base = tl.where(top == float("-inf"), 0.0, top)
        p = tl.exp2(x - base[:, None])
        shrink = tl.exp2(m - base)
        l = l * shrink + tl.sum(p, 1)
        mask_v = there[:, None] if D == DP else there[:, None] & (rd < D)[None, :]
        v = tl.load(kv + KVH * PAGE * D + at[:, None] + rd[None, :], mask=mask_v, other=0)
        if CODE:
            p *= (tl.load(scales + KVH * PAGE + row, mask=there, other=0.0) * UNIT)[None, :]
        if CODE == 2:
            v = e4m3_halves(v)
        acc = tl.dot(p.to(q.dtype), v.to(q.dtype), acc * shrink[:, None], input_precision="ieee")
        m = top
    return m, l, acc


# What changes from step to step must not make another variant, which would be compiled while requests wait: neither
# where a step's arrays begin, nor how many ranges there are.
@triton.jit(do_not_specialize=["TABLE", "CU_ROWS", "CONTEXT", "TILE_SEQ", "TILE_BLOCK", "table_stride", "splits"])
def paged_attention(
    Q,
    KV,
    SCALES,
    SINKS,
    OUT,
    SUMS,
    TABLE,
    CU_ROWS,
    CONTEXT,
    TILE_SEQ,
    TILE_BLOCK,
    scale_log2,
    softcap,
    window,
    q_stride,
    table_stride,
    splits,
    H: tl.constexpr,
    KVH: tl.constexpr,
    D: tl.constexpr,
    DP: tl.constexpr,
    PAGE: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    SPLIT: tl.constexpr,
    CHUNK: tl.constexpr,
    SOFTCAP: tl.constexpr,
    WINDOW: tl.constexpr,
    CODE: tl.constexpr,
    HAS_SINKS: tl.constexpr,
    INVARIANT: tl.constexpr,
):
    """Grid (tiles, KVH, splits); SPLIT: there is more than one.

    Q [rows, H, D] with rows q_stride apart; KV [blocks, 2, KVH, PAGE, D]; SCALES fp32 [blocks, 2, KVH, PAGE] where CODE
    is 1 (int8) or 2 (e4m3); SINKS fp32 [H]; TABLE int32 [sequences, table_stride]; CU_ROWS and CONTEXT as in a
    `StepLayout`; TILE_SEQ and TILE_BLOCK int32 [tiles]: which BQ rows of which sequence a tile holds.

    OUT is [rows, H, D] with one range; else the ranges' sums, fp32 [tiles, splits, KVH, BM, D], and SUMS fp32
    [tiles, splits, KVH, 2, BM] has their highest scores, in units of log2, and sums of weights.
    """
    tile, head, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    G: tl.constexpr = H // KVH
    BQ: tl.constexpr = BM // G
    seq, block = tl.load(TILE_SEQ + tile), tl.load(TILE_BLOCK + tile)
    begin = tl.load(CU_ROWS + seq)
    count = tl.load(CU_ROWS + seq + 1) - begin
    n = tl.load(CONTEXT + seq)
    before = n - count
    rm, rd = tl.arange(0, BM), tl.arange(0, DP)
    token = block * BQ + rm // G
    mine = (token < count) & (rm < BQ * G)
    position = before + token
    h = head * G + rm % G
    mask = mine[:, None] if D == DP else mine[:, None] & (rd < D)[None, :]
    at = (begin + token).to(tl.int64)
    q = tl.load(Q + (at * q_stride + h * D)[:, None] + rd[None, :], mask=mask, other=0.0)

    hi = tl.minimum(n, before + (block + 1) * BQ)
    lo = 0
    if WINDOW:
        lo = tl.maximum(before + block * BQ - window + 1, 0) // BN * BN
    m = tl.full((BM,), float("-inf"), tl.float32)
    l = tl.zeros((BM,), tl.float32)
    acc = tl.zeros((BM, DP), tl.float32)
    table = TABLE + seq * table_stride
    if INVARIANT and not SPLIT:
        if HAS_SINKS:
            m = tl.load(SINKS + h, mask=mine, other=0.0) * LOG2E
            l = tl.full((BM,), 1.0, tl.float32)
        for chunk in tl.range(lo // CHUNK, tl.cdiv(hi, CHUNK)):
            more_m, more_l, more_acc = _over(
                q, tl.full((BM,), float("-inf"), tl.float32), tl.zeros((BM,), tl.float32),
                tl.zeros((BM, DP), tl.float32), tl.maximum(lo, chunk * CHUNK), tl.minimum(hi, (chunk + 1) * CHUNK),
                position, KV, SCALES, table, head, scale_log2, softcap, window,
                KVH, D, DP, PAGE, BN, SOFTCAP, WINDOW, CODE,
            )  # fmt: skip
            m, l, acc = _joined(m, l, acc, more_m, more_l, more_acc)
    else:
        if SPLIT:
            if INVARIANT:
                first = lo // CHUNK * CHUNK
                size = CHUNK
            else:
                first = lo
                ranges = tl.minimum(tl.cdiv(hi - lo, CHUNK), splits)
                size = tl.cdiv(tl.cdiv(hi - lo, ranges), BN) * BN
            lo = tl.maximum(lo, first + split * size)
            hi = tl.minimum(hi, first + (split + 1) * size)
        elif HAS_SINKS:
            m = tl.load(SINKS + h, mask=mine, other=0.0) * LOG2E
            l = tl.full((BM,), 1.0, tl.float32)
        m, l, acc = _over(
            q, m, l, acc, lo, hi, position, KV, SCALES, table, head, scale_log2, softcap, window,
            KVH, D, DP, PAGE, BN, SOFTCAP, WINDOW, CODE,
        )  # fmt: skip

    if SPLIT:
        part = ((tile * splits + split) * KVH + head).to(tl.int64)
        tl.store(SUMS + part * (2 * BM) + rm, m, mask=mine)
        tl.store(SUMS + part * (2 * BM) + BM + rm, l, mask=mine)
        tl.store(OUT + part * (BM * D) + rm[:, None] * D + rd[None, :], acc, mask=mask & (l > 0)[:, None])
    else:
        out = acc / tl.where(l > 0, l, 1.0)[:, None]
        tl.store(OUT + (at * (H * D) + h * D)[:, None] + rd[None, :], out.to(OUT.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["CU_ROWS", "TILE_SEQ", "TILE_BLOCK", "splits"])
def join_splits(
    PARTS,
    SUMS,
    SINKS,
    OUT,
    CU_ROWS,
    TILE_SEQ,
    TILE_BLOCK,
    splits,
    H: tl.constexpr,
    KVH: tl.constexpr,
    D: tl.constexpr,
    DP: tl.constexpr,
    BM: tl.constexpr,
    SP: tl.constexpr,
    HAS_SINKS: tl.constexpr,
    INVARIANT: tl.constexpr,
):
    """Join the sums of `paged_attention`'s ranges. Grid (tiles, KVH, rows of the fullest tile); SP: splits or more."""
    tile, head, r = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    G: tl.constexpr = H // KVH
    seq = tl.load(TILE_SEQ + tile)
    begin = tl.load(CU_ROWS + seq)
    token = begin + tl.load(TILE_BLOCK + tile) * (BM // G) + r // G
    if token < tl.load(CU_ROWS + seq + 1):
        h = head * G + r % G
        rd, one = tl.arange(0, DP), tl.arange(0, 1)
        inside = rd < D
        part = (tile * splits * KVH + head).to(tl.int64)
        if INVARIANT:
            m = tl.full((1,), float("-inf"), tl.float32)
            l = tl.zeros((1,), tl.float32)
            if HAS_SINKS:
                m = tl.load(SINKS + h + one) * LOG2E
                l = tl.full((1,), 1.0, tl.float32)
            acc = tl.zeros((1, DP), tl.float32)
            for split in tl.range(0, splits):
                sums = SUMS + (part + split * KVH) * (2 * BM) + r + one
                more_l = tl.load(sums + BM)
                full = (more_l > 0)[:, None] & inside[None, :]
                more = tl.load(PARTS + ((part + split * KVH) * BM + r) * D + one[:, None] + rd[None, :], full, 0.0)
                m, l, acc = _joined(m, l, acc, tl.load(sums), more_l, more)
            out = tl.reshape(acc / l[:, None], (DP,))
        else:
            rs = tl.arange(0, SP)
            sums = SUMS + (part + rs * KVH) * (2 * BM) + r
            m = tl.load(sums, mask=rs < splits, other=float("-inf"))
            l = tl.load(sums + BM, mask=rs < splits, other=0.0)
            top = tl.max(m, 0)
            if HAS_SINKS:
                sink = tl.load(SINKS + h) * LOG2E
                top = tl.maximum(top, sink)
            weight = tl.exp2(m - top)
            total = tl.sum(l * weight, 0)
            if HAS_SINKS:
                total += tl.exp2(sink - top)
            full = (l > 0)[:, None] & inside[None, :]
            acc = tl.load(PARTS + ((part + rs * KVH) * BM + r)[:, None] * D + rd[None, :], mask=full, other=0.0)
            out = tl.sum(acc * weight[:, None], 0) / total
        at = token.to(tl.int64) * (H * D) + h * D
        tl.store(OUT + at + rd, out.to(OUT.dtype.element_ty), mask=inside)
