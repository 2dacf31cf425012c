"""A model whose linears tell what goes into them, and take other weights.

In the sums x xᵀ an input counts by the inverse of its size (root mean square). A few tokens of a text, such as its
first one, have inputs hundreds of times larger than all others (in SmolLM2-135M the mean square of one layer's largest
input is 330,000 times the median). Counted as they are, they are all that a layer is fitted to; left out, they are
lost, and attention with them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from argosy_worker.compute.config import DecoderConfig
from argosy_worker.compute.quant.formats import QuantTensor
from argosy_worker.compute.quant.linear import Linear, LinearKernel, LinearSpec, Verdict
from argosy_worker.models.weights import ALL, WeightSource

_TINY = 1e-30


class Recorder:
    """A `WeightSource` that remembers which matrices were read whole, and which vectors."""

    def __init__(self, source: WeightSource) -> None:
        self._source = source
        self.config: DecoderConfig = source.config
        self.matrices: dict[int, tuple[str, QuantTensor]] = {}
        """id of a matrix -> its role, and the matrix, which keeps the id its own."""
        self.vectors: list[str] = []

    def has(self, role: str) -> bool:
        """Whether there is such a tensor."""
        return self._source.has(role)

    def matrix(self, role: str, rows: slice = ALL, cols: slice = ALL) -> QuantTensor:
        """Read, and remember whole ones."""
        found = self._source.matrix(role, rows, cols)
        if rows == ALL and cols == ALL:
            self.matrices[id(found)] = (role, found)
        return found

    def vector(self, role: str, part: slice = ALL) -> Tensor:
        """Read, and remember."""
        if role not in self.vectors:
            self.vectors.append(role)
        vector: Tensor = self._source.vector(role, part)
        return vector

    def held(self, role: str) -> QuantTensor:
        """As the source; not noted."""
        return self._source.held(role)

    def floats(self, role: str) -> npt.NDArray[np.float32]:
        """As the source; not noted."""
        return self._source.floats(role)

    def role_of(self, matrix: QuantTensor) -> str | None:
        """The role of a matrix that was read whole."""
        found = self.matrices.get(id(matrix))
        return None if found is None else found[0]

    def formats(self) -> str:
        """As the source."""
        return self._source.formats()


class Sums:
    """Over the inputs x of a layer."""

    def __init__(self, cols: int) -> None:
        self.products = torch.zeros(cols, cols)
        """x xᵀ over the root mean square of x: fp32 [cols, cols]."""
        self.squares = torch.zeros(cols)
        """x squared: fp32 [cols]."""

    def add(self, x: Tensor) -> None:
        """Take in fp32 [rows, cols]."""
        squares = x.square()
        self.squares += squares.sum(0)
        counted = x * squares.mean(1, keepdim=True).add_(_TINY).pow_(-0.25)
        self.products.addmm_(counted.T, counted)


class ObservedLinear:
    """A linear of another kernel. While `sums` is set, its inputs are added to them."""

    def __init__(self, pack: Callable[[Sequence[QuantTensor]], Linear], parts: Sequence[QuantTensor]) -> None:
        self._pack, self._linear = pack, pack(parts)
        self.sums: Sums | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """[rows, in] -> [rows, out]."""
        if self.sums is not None:
            self.sums.add(x)
        return self._linear(x)

    def replace(self, parts: Sequence[QuantTensor]) -> None:
        """Compute with these weights from now on."""
        self._linear = self._pack(parts)


@dataclass(frozen=True, slots=True)
class Observed:
    """A layer that is watched."""

    linear: ObservedLinear
    parts: tuple[QuantTensor, ...]
    """Its weights as they were."""
    roles: tuple[str | None, ...]
    """Of the parts; None where a part is no whole matrix of the file."""


class Observing:
    """A `LinearKernel` around another one: it packs `ObservedLinear`s and notes them in `found`."""

    def __init__(self, kernel: LinearKernel, roles: Callable[[QuantTensor], str | None], found: list[Observed]) -> None:
        self.name, self._kernel = kernel.name, kernel
        self._roles, self._found = roles, found

    def can_run(self, spec: LinearSpec) -> Verdict:
        """As the kernel inside."""
        return self._kernel.can_run(spec)

    def pack(self, spec: LinearSpec, parts: Sequence[QuantTensor], bias: Tensor | None, device: torch.device) -> Linear:
        """Pack with the kernel inside."""

        def pack(others: Sequence[QuantTensor]) -> Linear:
            return self._kernel.pack(spec, others, bias, device)

        linear = ObservedLinear(pack, parts)
        self._found.append(Observed(linear, tuple(parts), tuple(self._roles(part) for part in parts)))
        return linear
