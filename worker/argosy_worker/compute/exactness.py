"""The check at start where torch computes: see `rowcheck.py`."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F  # noqa: N812  # the name that torch users know

from argosy_worker.compute import probe
from argosy_worker.compute.attention import rows
from argosy_worker.compute.elementwise import aligned
from argosy_worker.compute.quant.linear import Linear
from argosy_worker.compute.rowcheck import RowCheck


class Check(RowCheck):
    """Of models whose parts take tensors."""

    def linear(self, linear: Linear, in_features: int) -> str | None:
        """Where a row differs between products of different sizes, places or threads; None where none does."""
        return self.rows(lambda x: linear(torch.from_numpy(x)).numpy(), in_features)

    def attention(self, shape: rows.Shape) -> rows.Rows:
        """The sizes of attention's products for this machine."""
        found, problem = rows.choose(shape, self._threads)
        if problem:
            self.problems.append(problem)
        self._hash.update(repr(found).encode())
        for left, right in rows.operands(shape, found):
            self.add(torch.bmm(left, right).numpy())
        return found

    def elementwise(self) -> None:
        """Take what lies between the products into the digest."""
        x = probe.pattern(8, 1024) * 8
        for function in (
            torch.Tensor.exp_,
            torch.Tensor.cos_,
            torch.Tensor.sin_,
            torch.Tensor.tanh_,
            lambda t: F.silu(t, inplace=True),
        ):
            self.add(aligned(function, x.clone()).numpy())
        self.add(x.sum(-1).numpy())
        self.add(F.rms_norm(x, (1024,), torch.ones(1024), 1e-5).numpy())
        self.add(x.log_softmax(-1).numpy())

    @contextmanager
    def on_threads(self, count: int) -> Iterator[None]:
        """Torch's."""
        with probe.on_threads(count):
            yield
