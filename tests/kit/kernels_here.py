"""Where the tests of Triton's kernels run: on a GPU, or, where there is none, in Triton's interpreter.

The interpreter has bf16 as raw bits. It cuts them off where the hardware rounds, multiplies them as integers in `dot`,
and takes them for integers when these are converted. Here it gets conversions and a product that are right; the kernels
do no other arithmetic in bf16.
"""

import numpy as np
import torch
import triton.language as tl
from triton.runtime import interpreter

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _wide(bits):
    """uint16 bits of bf16 -> fp32."""
    return (np.ascontiguousarray(bits).view(np.uint16).astype(np.uint32) << 16).view(np.float32)


def _narrow(numbers):
    """fp32 -> uint16 bits of bf16, to the nearest, ties to even."""
    bits = np.ascontiguousarray(numbers, dtype=np.float32).view(np.uint32)
    rounded = ((bits.astype(np.uint64) + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)
    return np.where(np.isnan(bits.view(np.float32)), np.uint16(0x7FC0), rounded)


def _mend() -> None:
    builder, convert = interpreter.InterpreterBuilder, interpreter._convert_float
    dot, from_integers = builder.create_dot, builder.create_si_to_fp

    def converted(numbers, source, target, rounding):
        if tl.bfloat16 not in (source, target):
            return convert(numbers, source, target, rounding)
        floats = _wide(numbers) if source == tl.bfloat16 else numbers
        if target == tl.bfloat16:
            return _narrow(floats).reshape(numbers.shape)
        kind = {16: (np.float16, np.uint16), 32: (np.float32, np.uint32)}[target.primitive_bitwidth]
        return floats.astype(kind[0]).view(kind[1]).reshape(numbers.shape)

    def from_whole(self, numbers, target):
        if target.scalar != tl.bfloat16:
            return from_integers(self, numbers, target)
        return interpreter.TensorHandle(_narrow(numbers.data.astype(np.float32)), tl.bfloat16)

    def product(self, a, b, *rest):
        a, b = (
            interpreter.TensorHandle(_wide(x.data), tl.float32) if x.dtype.scalar == tl.bfloat16 else x for x in (a, b)
        )
        return dot(self, a, b, *rest)

    interpreter._convert_float = converted
    builder.create_si_to_fp = builder.create_ui_to_fp = from_whole
    builder.create_dot = product


if DEVICE.type == "cpu":
    _mend()
