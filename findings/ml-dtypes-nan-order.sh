#!/usr/bin/env bash
# ml-dtypes 0.6.0, numpy 2.4.6
#
# Guess: numpy sorts bfloat16 and float8 arrays as it sorts float16 and float32: NaN goes to the end, everything else is in order.
# Seen: one NaN, and the result as a whole is not in order: sort, argsort, partition, argpartition, lexsort and unique compare with
# "less", which is false for a NaN on either side, so it stands like a wall between the values before and after it. argmax and max
# know about NaN, so argmax(x) and argsort(x)[-1] are not the same. Without a NaN all of it is right.
# So: the k best logits of a bfloat16 row with one NaN in it (a masked or poisoned vocabulary entry) are some other k, with no
# warning. Convert to float32 (exact) before any ordering, or refuse NaN first.
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


def in_order(values):
    numbers = np.asarray(values, np.float32)
    return bool((np.diff(numbers[~np.isnan(numbers)]) >= 0).all())


def check(what, got, guess, want):
    global changed
    print(f"{what}: {got} (guess: {guess})")
    changed |= got != want


row = np.array([3, np.nan, 1, 2, 5, np.nan, 4, 0], np.float32)
for name in ("float16", "bfloat16", "float8_e4m3fn", "float8_e5m2"):
    kind = np.dtype(getattr(ml_dtypes, name, None) or name)
    values = row.astype(kind)
    own = name == "float16"
    check(f"{name}, without NaN, in order", in_order(np.sort(values[~np.isnan(row)])), True, True)
    check(f"{name}, sort in order", in_order(np.sort(values)), True, own)
    check(f"{name}, argsort in order", in_order(values[np.argsort(values)]), True, own)
    check(f"{name}, unique in order", in_order(np.unique(values)), True, own)
    check(f"{name}, argmax is the NaN", int(np.argmax(values)), 1, 1)

logits = np.random.default_rng(0).normal(size=1000).astype(ml_dtypes.bfloat16).astype(np.float32)
best = sorted(logits)[-10:]
logits[500] = np.nan
for name, guess in (("float32", True), ("bfloat16", False)):
    values = (-logits).astype(np.dtype(getattr(ml_dtypes, name, None) or name))
    found = sorted(logits[np.argpartition(values, 10)[:10]])
    check(f"{name}, the 10 best of 1,000 by argpartition are the 10 best", found == best, True, guess)
sys.exit(changed)
PY
echo "as described"
