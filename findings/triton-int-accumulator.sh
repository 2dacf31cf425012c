#!/usr/bin/env bash
# triton 3.6.0, 3.9.0
#
# Guess: an int8 product that is added to int32 sums, `acc = tl.dot(a, b, acc)`, compiles wherever `acc += tl.dot(a, b)` does: of
# int8 the product is int32 either way.
# Seen: with 3.6.0 it ends in an AssertionError without a word, at the call: the accumulator is held against `out_dtype`, which is
# float32 unless one says tl.int32, while the product itself ignores `out_dtype` and is int32. 3.9.0 compiles both to the same
# tensor-core instructions.
# So: a W8A8 kernel that was written and tested with a new Triton does not compile with the one that torch 2.11 for CUDA brings. Say
# out_dtype=tl.int32 wherever there is an accumulator.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
cat > kernel.py <<'PY'
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource


@triton.jit
def added(A, B, OUT):
    at = tl.arange(0, 32)
    acc = tl.zeros((32, 32), tl.int32)
    acc += tl.dot(tl.load(A + at[:, None] * 32 + at[None, :]), tl.load(B + at[:, None] * 32 + at[None, :]))
    tl.store(OUT + at[:, None] * 32 + at[None, :], acc)


@triton.jit
def accumulated(A, B, OUT):
    at = tl.arange(0, 32)
    acc = tl.zeros((32, 32), tl.int32)
    acc = tl.dot(tl.load(A + at[:, None] * 32 + at[None, :]), tl.load(B + at[:, None] * 32 + at[None, :]), acc)
    tl.store(OUT + at[:, None] * 32 + at[None, :], acc)


@triton.jit
def named(A, B, OUT):
    at = tl.arange(0, 32)
    acc = tl.zeros((32, 32), tl.int32)
    acc = tl.dot(
        tl.load(A + at[:, None] * 32 + at[None, :]), tl.load(B + at[:, None] * 32 + at[None, :]), acc, out_dtype=tl.int32
    )
    tl.store(OUT + at[:, None] * 32 + at[None, :], acc)


for kernel in (added, accumulated, named):
    source = ASTSource(fn=kernel, signature={"A": "*i8", "B": "*i8", "OUT": "*i32"}, constexprs={})
    try:
        ptx = triton.compile(source, target=GPUTarget("cuda", 80, 32)).asm["ptx"]
        print(kernel.__name__, "compiled", "s32.s8.s8.s32" in ptx)
    except Exception as error:
        while error.__cause__ is not None:
            error = error.__cause__
        print(kernel.__name__, type(error).__name__, repr(str(error)))
PY
for version in 3.6.0 3.9.0; do
  python3 -m venv "venv-$version"
  "venv-$version/bin/pip" install --quiet --disable-pip-version-check "triton==$version"
  echo "triton $version" >> seen
  TRITON_CACHE_DIR="$folder/cache-$version" "venv-$version/bin/python" kernel.py >> seen
done
cat seen
diff seen - <<'TEXT'
triton 3.6.0
added compiled True
accumulated AssertionError ''
named compiled True
triton 3.9.0
added compiled True
accumulated compiled True
named compiled True
TEXT
echo "as described"
