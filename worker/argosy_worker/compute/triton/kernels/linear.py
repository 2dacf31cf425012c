"""Linears whose weights are held in 4 or 8 bits and multiplied in the activations' type, and their way back to floats.

Weights are the left factor: W [BN, BK] times x^T [BK, BM]. So the unpacked numbers are in registers, where tensor cores
take them from, the few rows of a decode step cost 16 columns, and a row of weights is read as it lies.

Four bits lie in blocks of 2 * HALF weights of a row: byte j has weight j in its low half and weight HALF + j in its
high one. A number q is put into the mantissa of a bf16, which costs no conversion: 0x4300 | q is 128 + q. What that is
too much, 136 for q - 8, goes with the group's middle times the sum of x. A half never crosses a group, so scales are
applied to sums, not to weights.
"""

import triton
import triton.language as tl

from argosy_worker.compute.triton.kernels.codes import e4m3_halves

_OFFSET = tl.constexpr(136.0)


@triton.jit(do_not_specialize=["m"])
def int4_linear(
    X,
    W,
    SCALE,
    MIDDLE,
    BIAS,
    OUT,
    m,
    n,
    k,
    x_stride,
    blocks,
    HALF: tl.constexpr,
    GROUP: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    SPLIT: tl.constexpr,
    HAS_BIAS: tl.constexpr,
):
    """Grid (blocks of n, splits, blocks of m): OUT = X W^T + BIAS, or with SPLIT fp32 sums [splits, m, n].

    X [m, k], rows x_stride apart; W uint8 [n, blocks * HALF]; SCALE and MIDDLE bf16 [groups, n]: a weight is (q - 8) *
    scale + middle; rows of W are filled up to whole blocks, groups to what these need, with zeros for scales.
    """
    rn = tl.program_id(0) * BN + tl.arange(0, BN)
    rm = tl.program_id(2) * BM + tl.arange(0, BM)
    split = tl.program_id(1)
    per = tl.cdiv(blocks, tl.num_programs(1))
    acc = int4_sums(
        X + rm[None, :].to(tl.int64) * x_stride, (rm < m)[None, :], W, SCALE, MIDDLE, rn, n, k, blocks,
        split * per, tl.minimum(blocks, (split + 1) * per), HALF, GROUP, BM, BN,
    )  # fmt: skip
    _store(acc, OUT, BIAS, rn, rm, m, n, split, SPLIT, HAS_BIAS)


@triton.jit
def int4_sums(
    x_at,
    inside,
    W,
    SCALE,
    MIDDLE,
    rn,
    n,
    k,
    blocks,
    begin,
    end,
    HALF: tl.constexpr,
    GROUP: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
):
    """fp32 [BN, BM]: outputs rn of rows that begin at x_at [1, BM], over the blocks begin .. end of their inputs."""
    rb = tl.arange(0, HALF)
    row = tl.minimum(rn, n - 1).to(tl.int64) * (blocks * HALF)
    named = rn < n
    acc = tl.zeros((BN, BM), tl.float32)
    for block in tl.range(begin, end):
        packed = tl.load(W + row[:, None] + (block * HALF + rb)[None, :]).to(tl.int16)
        low = ((packed & 15) | 0x4300).to(tl.bfloat16, bitcast=True)
        high = ((packed >> 4) | 0x4300).to(tl.bfloat16, bitcast=True)
        at = block * (2 * HALF) + rb
        first = tl.load(x_at + at[:, None], mask=inside & (at < k)[:, None], other=0.0)
        second = tl.load(x_at + HALF + at[:, None], mask=inside & (at + HALF < k)[:, None], other=0.0)
        group = block * (2 * HALF) // GROUP
        scale = tl.load(SCALE + group * n + rn, mask=named, other=0.0).to(tl.float32)
        middle = tl.load(MIDDLE + group * n + rn, mask=named, other=0.0).to(tl.float32) - _OFFSET * scale
        if GROUP >= 2 * HALF:
            product = tl.dot(high, second, tl.dot(low, first))
            total = tl.sum(first.to(tl.float32), 0) + tl.sum(second.to(tl.float32), 0)
            acc += product * scale[:, None] + middle[:, None] * total[None, :]
        else:
            acc += tl.dot(low, first) * scale[:, None] + middle[:, None] * tl.sum(first.to(tl.float32), 0)[None, :]
            scale = tl.load(SCALE + (group + 1) * n + rn, mask=named, other=0.0).to(tl.float32)
            middle = tl.load(MIDDLE + (group + 1) * n + rn, mask=named, other=0.0).to(tl.float32) - _OFFSET * scale
            acc += tl.dot(high, second) * scale[:, None] + middle[:, None] * tl.sum(second.to(tl.float32), 0)[None, :]
    return acc


@triton.jit(do_not_specialize=["m"])
def int8_linear(
    X,
    W,
    SCALE,
    BIAS,
    OUT,
    m,
    n,
    k,
    x_stride,
    CODE: tl.constexpr,
    GROUP: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    SPLIT: tl.constexpr,
    HAS_BIAS: tl.constexpr,
):
    """The same for W int8 [n, k] with fp32 SCALE [k / GROUP, n], a multiple of BK; GROUP 0: [1, n].

    CODE 1: W has numbers; 2: codes of e4m3, whose SCALE is that of `e4m3_halves`.
    """
    rn = tl.program_id(0) * BN + tl.arange(0, BN)
    rm = tl.program_id(2) * BM + tl.arange(0, BM)
    split = tl.program_id(1)
    blocks = tl.cdiv(k, BK)
    per = tl.cdiv(blocks, tl.num_programs(1))
    acc = plain_sums(
        X + rm[None, :].to(tl.int64) * x_stride, (rm < m)[None, :], W, SCALE, rn, n, k,
        split * per, tl.minimum(blocks, (split + 1) * per), CODE, GROUP, BM, BN, BK,
    )  # fmt: skip
    _store(acc, OUT, BIAS, rn, rm, m, n, split, SPLIT, HAS_BIAS)


@triton.jit
def plain_sums(
    x_at,
    inside,
    W,
    SCALE,
    rn,
    n,
    k,
    begin,
    end,
    CODE: tl.constexpr,
    GROUP: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
):
    """What `int4_sums` gives, of W [n, k] in int8 with scales, or, with CODE 0, in the type of x."""
    rk = tl.arange(0, BK)
    kind = x_at.dtype.element_ty
    row = tl.minimum(rn, n - 1).to(tl.int64) * k
    named = rn < n
    acc = tl.zeros((BN, BM), tl.float32)
    for block in tl.range(begin, end):
        at = block * BK + rk
        w = tl.load(W + row[:, None] + at[None, :], mask=(at < k)[None, :], other=0)
        x = tl.load(x_at + at[:, None], mask=inside & (at < k)[:, None], other=0.0)
        if CODE == 2:
            w = e4m3_halves(w)
        if CODE and GROUP:
            scale = tl.load(SCALE + (block * BK // GROUP) * n + rn, mask=named, other=0.0)
            acc += tl.dot(w.to(kind), x) * scale[:, None]
        else:
            acc = tl.dot(w.to(kind), x, acc, input_precision="ieee")
    if CODE and not GROUP:
        acc *= tl.load(SCALE + rn, mask=named, other=0.0)[:, None]
    return acc


@triton.jit(do_not_specialize=["m"])
def coded_linear(
    X,
    X_SCALES,
    W,
    SCALE,
    BIAS,
    OUT,
    m,
    n,
    k,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    SPLIT: tl.constexpr,
    HAS_BIAS: tl.constexpr,
):
    """`int8_linear` with int8 X [m, k] times fp32 X_SCALES [m], and SCALE [n]: the sums of a program are whole numbers.

    They fit 32 bits: k is below 2**17.
    """
    rn = tl.program_id(0) * BN + tl.arange(0, BN)
    rm = tl.program_id(2) * BM + tl.arange(0, BM)
    rk = tl.arange(0, BK)
    split = tl.program_id(1)
    blocks = tl.cdiv(k, BK)
    per = tl.cdiv(blocks, tl.num_programs(1))
    row = tl.minimum(rn, n - 1).to(tl.int64) * k
    x_row = tl.minimum(rm, m - 1).to(tl.int64) * k
    acc = tl.zeros((BN, BM), tl.int32)
    for block in tl.range(split * per, tl.minimum(blocks, (split + 1) * per)):
        at = block * BK + rk
        w = tl.load(W + row[:, None] + at[None, :], mask=(at < k)[None, :], other=0)
        x = tl.load(X + x_row[None, :] + at[:, None], mask=(at < k)[:, None], other=0)
        acc = tl.dot(w, x, acc, out_dtype=tl.int32)  # Triton 3.6 takes fp32 for granted
    scale = tl.load(SCALE + rn, mask=rn < n, other=0.0)
    x_scale = tl.load(X_SCALES + rm, mask=rm < m, other=0.0)
    _store(acc.to(tl.float32) * scale[:, None] * x_scale[None, :], OUT, BIAS, rn, rm, m, n, split, SPLIT, HAS_BIAS)


@triton.jit
def _store(acc, OUT, BIAS, rn, rm, m, n, split, SPLIT: tl.constexpr, HAS_BIAS: tl.constexpr):
    """Of [BN, BM]: the part of a split, or the result."""
    mask = (rn < n)[:, None] & (rm < m)[None, :]
    at = rm[None, :].to(tl.int64) * n + rn[:, None]
    if SPLIT:
        tl.store(OUT + split.to(tl.int64) * m * n + at, acc, mask=mask)
    else:
        if HAS_BIAS:
            acc += tl.load(BIAS + rn, mask=rn < n, other=0.0).to(tl.float32)[:, None]
        tl.store(OUT + at, acc.to(OUT.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["m", "splits"])
def add_splits(PARTS, BIAS, OUT, m, n, splits, BLOCK: tl.constexpr, HAS_BIAS: tl.constexpr):
    """Add up fp32 PARTS [splits, m, n], in order: no sum depends on which program was first. Grid (blocks of n, m)."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < n
    row = tl.program_id(1).to(tl.int64) * n
    total = tl.zeros((BLOCK,), tl.float32)
    for split in tl.range(0, splits):
        total += tl.load(PARTS + split * (m.to(tl.int64) * n) + row + at, mask=inside, other=0.0)
    if HAS_BIAS:
        total += tl.load(BIAS + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(OUT + row + at, total.to(OUT.dtype.element_ty), mask=inside)


@triton.jit
def int4_floats(
    W,
    SCALE,
    MIDDLE,
    OUT,
    n,
    k,
    blocks,
    HALF: tl.constexpr,
    GROUP: tl.constexpr,
    BN: tl.constexpr,
):
    """The weights as floats: OUT [n, k]. Grid (blocks of n, blocks of a row)."""
    rn = tl.program_id(0) * BN + tl.arange(0, BN)
    rb = tl.arange(0, HALF)
    block = tl.program_id(1)
    named = rn < n
    packed = tl.load(
        W + rn[:, None].to(tl.int64) * (blocks * HALF) + (block * HALF + rb)[None, :], mask=named[:, None], other=0
    )
    for half in tl.static_range(2):
        at = block * (2 * HALF) + half * HALF + rb
        group = (block * (2 * HALF) + half * HALF) // GROUP
        scale = tl.load(SCALE + group * n + rn, mask=named, other=0.0).to(tl.float32)
        middle = tl.load(MIDDLE + group * n + rn, mask=named, other=0.0).to(tl.float32)
        q = ((packed >> (4 * half)) & 15).to(tl.float32) - 8.0
        value = q * scale[:, None] + middle[:, None]
        target = OUT + rn[:, None].to(tl.int64) * k + at[None, :]
        tl.store(target, value.to(OUT.dtype.element_ty), mask=named[:, None] & (at < k)[None, :])


@triton.jit
def int8_floats(W, SCALE, OUT, n, k, CODE: tl.constexpr, GROUP: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr):
    """The weights of `int8_linear` as floats: OUT [n, k]. Grid (blocks of n, blocks of k)."""
    rn = tl.program_id(0) * BN + tl.arange(0, BN)
    at = tl.program_id(1) * BK + tl.arange(0, BK)
    mask = (rn < n)[:, None] & (at < k)[None, :]
    cells = rn[:, None].to(tl.int64) * k + at[None, :]
    group = 0
    if GROUP:
        group = tl.program_id(1) * BK // GROUP
    scale = tl.load(SCALE + group * n + rn, mask=rn < n, other=0.0)
    w = tl.load(W + cells, mask=mask, other=0)
    if CODE == 2:
        w = e4m3_halves(w)
    value = w.to(tl.float32) * scale[:, None]
    tl.store(OUT + cells, value.to(OUT.dtype.element_ty), mask=mask)
