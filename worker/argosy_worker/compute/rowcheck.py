"""The check at start that a row's bits do not depend on its company, with the model's own layers on this machine.

The kernels are built so (`quant/fp32_cpu.py`, `quant/int8_cpu.py`, `attention/`, `native/`); but they stand on
libraries that pick their code by the processor, and no list of processors is ever complete. A model that fails is
served all the same, and says so: in the log, and to routers and operator as `ModelInfo.exactness`. No torch
(`exactness.py` has what torch needs besides).
"""

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt

from argosy_worker.core.facts import EXACT

Floats = npt.NDArray[np.float32]
BUDGET_S = 0.1
"""Time for all linears of a model on torch. Two products of each are made in any case, more as long as time is left."""
_FULL = 33
_ROWS = (1, 2, 17, 1, 3, 16, 5, 32, 8, 4, 12)


class RowCheck:
    """Checks the parts of a model one after another, and keeps what was found.

    `digest` is over the bits that they computed from fixed numbers: two processes whose digests differ compute
    differently, whatever their processors are called.
    """

    def __init__(self, threads: int, budget_s: float = BUDGET_S) -> None:
        self._threads, self._left = threads, budget_s
        self._hash = hashlib.sha256()
        self.problems: list[str] = []

    @property
    def digest(self) -> bytes:
        """Of all results so far."""
        return self._hash.digest()

    @property
    def verdict(self) -> str:
        """EXACT, or what was found."""
        return "; ".join(self.problems) or EXACT

    def rows(self, compute: Callable[[Floats], Floats], columns: int) -> str | None:
        """Where a row differs between calls of different sizes, places or threads; None where none does.

        `compute`: fp32 [rows, columns] -> fp32 [rows, n].
        """
        begun = time.perf_counter()
        x = pattern(_FULL, columns) * np.array([[2.0 ** (i % 13 - 6)] for i in range(_FULL)], dtype=np.float32)
        with self.on_threads(self._threads):
            full = compute(x)
        found = self._rows_differ(compute, x, full, begun + self._left)
        self._left = max(0.0, self._left - (time.perf_counter() - begun))
        if found is None:
            self.add(full)
        return found

    def _rows_differ(self, compute: Callable[[Floats], Floats], x: Floats, full: Floats, end: float) -> str | None:
        for i, count in enumerate(_ROWS):
            if i and time.perf_counter() > end:
                break
            first = (i * 7) % (_FULL - count + 1)
            part = slice(first, first + count)
            used = 1 if i % 2 == 0 else self._threads
            with self.on_threads(used):
                found = compute(np.ascontiguousarray(x[part]))
            if not np.array_equal(found, full[part]):
                return f"{count} rows on {used} threads differ from the same rows among {_FULL} on {self._threads}"
        return None

    def layer(self, run: Callable[[Sequence[tuple[int, int]]], Floats]) -> None:
        """A whole layer of a kernel of its own: `run` computes the same 33 rows in the parts that it is told."""
        whole = run([(0, _FULL)])
        if not np.array_equal(whole, run([(0, 1), (1, 17), (17, 18), (18, _FULL)])):
            self.problems.append("layer: rows depend on the parts in which they are computed")
        self.add(whole)

    def add(self, result: npt.NDArray[np.generic]) -> None:
        """Take a result into the digest."""
        self._hash.update(result.tobytes())

    @contextmanager
    def on_threads(self, count: int) -> Iterator[None]:
        """Let what is computed use `count` threads, where that is ours to say."""
        del count
        yield


def pattern(rows: int, columns: int) -> Floats:
    """fp32 [rows, columns] in -1 .. 1 with 16 bits each, scattered by a hash: equal wherever it is made.

    (Random numbers of libraries may depend on the processor's vector length.)
    """
    numbers = np.arange(rows * columns, dtype=np.uint64)
    with np.errstate(over="ignore"):
        numbers = (numbers + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        numbers = (numbers ^ (numbers >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (numbers >> np.uint64(48)).astype(np.float32) / np.float32(32768) - np.float32(1)
    return values.reshape(rows, columns)
