"""The check at start that a row's bits do not depend on its company, with the model's own layers on this machine.

The kernels are built so (`quant/fp32_cpu.py`, `quant/int8_cpu.py`, `attention/`); but they stand on libraries that pick
their code by the processor, and no list of processors is ever complete. A model that fails is served all the same, and
says so: in the log, and to routers and operator as `ModelInfo.exactness`.
"""

import hashlib
import time
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F  # noqa: N812  # the name that torch users know
from torch import Tensor

from argosy_worker.compute.attention import rows
from argosy_worker.compute.elementwise import aligned
from argosy_worker.compute.probe import on_threads, pattern
from argosy_worker.compute.quant.linear import Linear
from argosy_worker.core.facts import EXACT

BUDGET_S = 0.1
"""Time for all linears of a model. Two products of each are made in any case, further sizes as long as time is left."""
_FULL = 33
_ROWS = (1, 2, 17, 1, 3, 16, 5, 32, 8, 4, 12)


class Check:
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

    def linear(self, linear: Linear, in_features: int) -> str | None:
        """Where a row differs between products of different sizes, places or threads; None where none does."""
        begun = time.perf_counter()
        x = pattern(_FULL, in_features) * torch.tensor([[2.0 ** (i % 13 - 6)] for i in range(_FULL)])
        with on_threads(self._threads):
            full = linear(x)
        found = self._rows_differ(linear, x, full, begun + self._left)
        self._left = max(0.0, self._left - (time.perf_counter() - begun))
        if found is None:
            self._add(full)
        return found

    def _rows_differ(self, linear: Linear, x: Tensor, full: Tensor, end: float) -> str | None:
        for i, count in enumerate(_ROWS):
            if i and time.perf_counter() > end:
                break
            first = (i * 7) % (_FULL - count + 1)
            part = slice(first, first + count)
            used = 1 if i % 2 == 0 else self._threads
            with on_threads(used):
                found = linear(x[part].contiguous())
            if not torch.equal(found, full[part]):
                return f"{count} rows on {used} threads differ from the same rows among {_FULL} on {self._threads}"
        return None

    def attention(self, shape: rows.Shape) -> rows.Rows:
        """The sizes of attention's products for this machine."""
        found, problem = rows.choose(shape, self._threads)
        if problem:
            self.problems.append(problem)
        self._hash.update(repr(found).encode())
        for left, right in rows.operands(shape, found):
            self._add(torch.bmm(left, right))
        return found

    def layer(self, run: Callable[[Sequence[tuple[int, int]]], Tensor]) -> None:
        """A whole layer of a kernel of its own: `run` computes the same 33 rows in the parts that it is told."""
        whole = run([(0, _FULL)])
        if not torch.equal(whole, run([(0, 1), (1, 17), (17, 18), (18, _FULL)])):
            self.problems.append("layer: rows depend on the parts in which they are computed")
        self._add(whole)

    def elementwise(self) -> None:
        """Take what lies between the products into the digest."""
        x = pattern(8, 1024) * 8
        for function in (
            torch.Tensor.exp_,
            torch.Tensor.cos_,
            torch.Tensor.sin_,
            torch.Tensor.tanh_,
            lambda t: F.silu(t, inplace=True),
        ):
            self._add(aligned(function, x.clone()))
        self._add(x.sum(-1))
        self._add(F.rms_norm(x, (1024,), torch.ones(1024), 1e-5))
        self._add(x.log_softmax(-1))

    def _add(self, result: Tensor) -> None:
        self._hash.update(result.contiguous().numpy().tobytes())
