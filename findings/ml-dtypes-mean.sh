#!/usr/bin/env bash
# ml-dtypes 0.6.0, numpy 2.4.6
#
# Guess: numpy takes the mean of a bfloat16 array as it takes that of a float16 array: summed in float32, rounded at the end.
# Seen: sum, mean, var and cumsum of bfloat16 and float8 add up in the type itself, one after the other: a bfloat16 sum of ones stops
# at 256, a float8_e4m3fn sum at 16. So the mean of 1,000 ones is 0.2559 and of 4,096 float8 ones 0.0039; the variance of
# normally distributed weights comes out ten times too small or worse. matmul and dot do sum in float32 and are right.
# So: statistics of a checkpoint (means, norms by hand, scales from averages) computed on its own dtype are wrong by factors, in no
# way visible. Pass dtype=np.float32, or convert first.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check ml-dtypes==0.6.0 numpy==2.4.6
venv/bin/python - <<'PY'
import sys

import ml_dtypes
import numpy as np

changed = False


def check(what, got, guess, want):
    global changed
    print(f"{what}: {got} (guess: {guess})")
    changed |= got != want


def ones(count, kind):
    return np.ones(count, kind)


bfloat16, float8 = ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn
check("mean of 1,000 ones, float16", float(ones(1000, np.float16).mean()), 1.0, 1.0)
check("mean of 1,000 ones, bfloat16", float(ones(1000, bfloat16).mean()), 1.0, 0.255859375)
check("the same with dtype=float32", float(ones(1000, bfloat16).mean(dtype=np.float32)), 1.0, 1.0)
check("sum of 1,000 ones, bfloat16", float(ones(1000, bfloat16).sum()), 1000.0, 256.0)
check("sum of 1,000 ones, float8_e4m3fn", float(ones(1000, float8).sum()), "448, the largest", 16.0)
check("mean of 4,096 ones, float8_e4m3fn", float(ones(4096, float8).mean()), 1.0, 16 / 4096)
check("last of cumsum of 1,000 ones, bfloat16", float(np.cumsum(ones(1000, bfloat16))[-1]), 1000.0, 256.0)
product = ones((1, 1000), bfloat16) @ ones((1000, 1), bfloat16)
check("matmul of 1,000 ones, bfloat16", float(product[0, 0]), 1000.0, 1000.0)
weights = np.random.default_rng(0).normal(size=100_000).astype(bfloat16)
check("variance of 100,000 normal weights below 0.1", bool(float(weights.var()) < 0.1), False, True)
sys.exit(changed)
PY
echo "as described"
