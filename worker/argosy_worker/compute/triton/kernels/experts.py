"""Experts of which each row takes some: who computes what, their products in one launch each, and the sum of a row.

A pair is a row and one of its experts: number row * used + place, places in the order of the weights. ORDER has the
pairs of the first expert, then those of the second, and so on, each expert's in the order of rows. A tile is up to BM
pairs of one expert: its number, and where in ORDER its pairs begin and end, or -1 where there are fewer tiles than
programs. All of it is found on the device, and each product is of one tile: nothing waits for the host to know how many
rows an expert has. No sum depends on which program was first, as only whole numbers are counted by several.
"""

import triton
import triton.language as tl

from argosy_worker.compute.triton.kernels.linear import int4_sums, plain_sums


@triton.jit
def pick_experts(
    SCORES,
    CHOSEN,
    WEIGHTS,
    COUNTS,
    count,
    used,
    BLOCK: tl.constexpr,
    UB: tl.constexpr,
    NORMALIZED: tl.constexpr,
):
    """`mlp.route` of SCORES [rows, count]: CHOSEN int32 and WEIGHTS fp32 [rows, used]; adds to COUNTS int32 [count].

    Grid (rows). What is no number counts as the lowest, so that every choice names an expert.
    """
    at = tl.program_id(0).to(tl.int64)
    rc, ru = tl.arange(0, BLOCK), tl.arange(0, UB)
    x = tl.load(SCORES + at * count + rc, mask=rc < count, other=float("-inf")).to(tl.float32)
    x = tl.where(x == x, x, float("-inf"))
    top = tl.max(x, 0)
    free = rc < count
    chosen = tl.zeros((UB,), tl.int32)
    weights = tl.zeros((UB,), tl.float32)
    for place in tl.range(0, used):
        best = tl.max(tl.where(free, x, float("-inf")), 0)
        number = tl.min(tl.where(free & (x == best), rc, BLOCK), 0)
        free = free & (rc != number)
        chosen = tl.where(ru == place, number, chosen)
        weights = tl.where(ru == place, tl.exp(best - top), weights)
    if NORMALIZED:
        total = tl.sum(weights, 0)
    else:
        total = tl.sum(tl.exp(x - top), 0)
    inside = ru < used
    tl.store(CHOSEN + at * used + ru, chosen, mask=inside)
    tl.store(WEIGHTS + at * used + ru, weights / total, mask=inside)
    tl.atomic_add(COUNTS + chosen, 1, mask=inside, sem="relaxed")


@triton.jit(do_not_specialize=["pairs", "most"])
def order_pairs(
    CHOSEN,
    COUNTS,
    ORDER,
    TILES,
    pairs,
    most,
    count,
    BM: tl.constexpr,
    BLOCK: tl.constexpr,
    NB: tl.constexpr,
):
    """ORDER int32 [pairs] and TILES int32 [3, most] (expert, begin, end) of CHOSEN [pairs]. Grid (count)."""
    expert = tl.program_id(0)
    rc, rb = tl.arange(0, BLOCK), tl.arange(0, NB)
    counts = tl.load(COUNTS + rc, mask=rc < count, other=0)
    tiles = (counts + BM - 1) // BM
    at = tl.sum(tl.where(rc < expert, counts, 0), 0)
    first = tl.sum(tl.where(rc < expert, tiles, 0), 0)
    last = first + tl.sum(tl.where(rc == expert, tiles, 0), 0)
    end = at + tl.sum(tl.where(rc == expert, counts, 0), 0)
    for start in tl.range(first, last, NB):
        tile = start + rb
        tl.store(TILES + tile, tl.zeros((NB,), tl.int32) + expert, mask=tile < last)
        tl.store(TILES + most + tile, at + (tile - first) * BM, mask=tile < last)
        tl.store(TILES + 2 * most + tile, tl.zeros((NB,), tl.int32) + end, mask=tile < last)
    if expert == count - 1:
        for start in tl.range(last, most, NB):
            tl.store(TILES + start + rb, tl.zeros((NB,), tl.int32) - 1, mask=start + rb < most)
    for start in tl.range(0, pairs, NB):
        pair = start + rb
        mine = tl.load(CHOSEN + pair, mask=pair < pairs, other=-1) == expert
        before = tl.cumsum(mine.to(tl.int32), 0)
        tl.store(ORDER + at + before - 1, pair, mask=mine)
        at += tl.sum(mine.to(tl.int32), 0)


@triton.jit(do_not_specialize=["used"])
def grouped_linear(
    X,
    W,
    SCALE,
    MIDDLE,
    BIAS,
    OUT,
    ORDER,
    TILES,
    n,
    k,
    x_stride,
    used,
    blocks,
    groups,
    BITS: tl.constexpr,
    GROUP: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    SCATTER: tl.constexpr,
    HAS_BIAS: tl.constexpr,
):
    """OUT = X W^T + BIAS, each pair with the weights of its expert. Grid (blocks of n, tiles).

    X [rows, k], rows x_stride apart -> OUT [pairs, n] in ORDER; SCATTER: X [pairs, k] in ORDER -> OUT by number of the
    pair. W, SCALE and MIDDLE are those of `int4_linear` and `int8_linear`, one expert's after another's, with `groups`
    rows of scales each; BITS 16: W in X's type, and no scales. BK: of inputs, and for 4 bits of those in a block.
    """
    tile = tl.program_id(1)
    expert = tl.load(TILES + tile).to(tl.int64)
    if expert < 0:
        return
    begin = tl.load(TILES + tl.num_programs(1) + tile)
    end = tl.load(TILES + 2 * tl.num_programs(1) + tile)
    rn = tl.program_id(0) * BN + tl.arange(0, BN)
    at = begin + tl.arange(0, BM)
    inside = at < end
    pair = tl.load(ORDER + at, mask=inside, other=0)
    if SCATTER:
        source, target = at, pair
    else:
        source, target = pair // used, at
    x_at = X + source[None, :].to(tl.int64) * x_stride
    scales = expert * groups * n
    if BITS == 4:
        acc = int4_sums(
            x_at, inside[None, :], W + expert * n * (blocks * (BK // 2)), SCALE + scales, MIDDLE + scales, rn, n, k,
            blocks, 0, blocks, BK // 2, GROUP, BM, BN,
        )  # fmt: skip
    else:
        acc = plain_sums(
            x_at, inside[None, :], W + expert * n * k, SCALE + scales, rn, n, k, 0, tl.cdiv(k, BK),
            1 if BITS == 8 else 0, GROUP, BM, BN, BK,
        )  # fmt: skip
    if HAS_BIAS:
        acc += tl.load(BIAS + expert * n + rn, mask=rn < n, other=0.0).to(tl.float32)[:, None]
    cells = target[None, :].to(tl.int64) * n + rn[:, None]
    tl.store(OUT + cells, acc.to(OUT.dtype.element_ty), mask=(rn < n)[:, None] & inside[None, :])


@triton.jit
def join_experts(PARTS, WEIGHTS, OUT, columns, used, BLOCK: tl.constexpr):
    """OUT [rows, columns]: of PARTS [rows, used, columns] times WEIGHTS, in their order. Grid (rows, blocks)."""
    at = tl.program_id(0).to(tl.int64)
    rc = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = rc < columns
    total = tl.zeros((BLOCK,), tl.float32)
    for place in tl.range(0, used):
        part = tl.load(PARTS + (at * used + place) * columns + rc, mask=inside, other=0.0).to(tl.float32)
        total += part * tl.load(WEIGHTS + at * used + place)
    tl.store(OUT + at * columns + rc, total.to(OUT.dtype.element_ty), mask=inside)
