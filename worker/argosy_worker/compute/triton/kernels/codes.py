"""Numbers in 8 bits, and the turn of keys before they are coded. What `attention/kv_types.py` says in torch."""

import triton
import triton.language as tl


@triton.jit
def e4m3_halves(codes):
    """int8 codes of e4m3 -> fp16, 2**-8 of the number: e4m3 is the upper half of fp16 with a bit of exponent less.

    Every GPU can that; conversions of the hardware's begin with sm_89.
    """
    return ((codes.to(tl.int16) << 7) & -16385).to(tl.float16, bitcast=True)  # ~0x4000: the bit of the sign's copy


@triton.jit
def to_e4m3(x):
    """fp32 of at most 448 -> int8 codes of e4m3, rounded to the nearest, ties to even."""
    bits = tl.abs(x).to(tl.int32, bitcast=True)
    normal = ((bits + 0x7FFFF + ((bits >> 20) & 1)) >> 20) - (120 << 3)
    # below 2**-6 in steps of 2**-9; 8 steps are the first normal number's code, too
    small = nearest(tl.abs(x) * 512.0).to(tl.int32)
    code = tl.where(tl.abs(x) < 0.015625, small, normal)
    return tl.where(x.to(tl.int32, bitcast=True) < 0, code - 128, code).to(tl.int8)  # zeros have a sign, too


@triton.jit
def nearest(x):
    """fp32 below 2**22 -> the nearest whole number, ties to even: adding 1.5 * 2**23 leaves no room for a fraction."""
    return (x + 12582912.0) - 12582912.0


@triton.jit
def spread(x, ROWS: tl.constexpr, DP: tl.constexpr, STAGES: tl.constexpr, FACTOR: tl.constexpr):
    """fp32 [ROWS, DP], each 2**STAGES side by side turned by the Walsh-Hadamard matrix, times FACTOR."""
    for s in tl.static_range(STAGES):
        pairs = tl.permute(tl.reshape(x, (ROWS * DP // (2 << s), 2, 1 << s)), (0, 2, 1))
        a, b = tl.split(pairs)
        x = tl.reshape(tl.permute(tl.join(a + b, a - b), (0, 2, 1)), (ROWS, DP))
    return x * FACTOR
