"""Layers that several ranks share: each has some outputs of every linear, and gets those of the others.

No sum ever crosses ranks: every number is computed by one rank, from all that one process computes it from, so an
answer has the bits of one process. The cost is four exchanges a layer.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from torch import Tensor

from argosy_api.faults import is_fault
from argosy_worker.compute.adapted import Adapted
from argosy_worker.compute.attention.backend import AttentionBackend
from argosy_worker.compute.quant.linear import Linear
from argosy_worker.compute.stack import Stack
from argosy_worker.core.batch import RunnerBrokenError
from argosy_worker.core.layout import StepLayout


class Exchange(Protocol):
    """Between the ranks of a stage. All methods raise RunnerBrokenError when another rank is gone."""

    def share(self, layout: StepLayout, rows: Tensor) -> None:
        """Give a step to the others."""
        ...

    def join_columns(self, x: Tensor, widths: Sequence[int]) -> Tensor:
        """Columns [R, n] of this rank and those of the others, in order: [R, sum of `widths`], fresh."""
        ...

    def logits(self, rows: Tensor, head: Callable[[Tensor], Tensor], widths: Sequence[int]) -> Tensor:
        """By `head` here, and by those of the others: [R, sum of `widths`]."""
        ...


class Sharing:
    """The ranks of this stage. `connect` comes before the first step."""

    def __init__(self) -> None:
        self._ring: Exchange | None = None

    def connect(self, ring: Exchange) -> None:
        """The others are there."""
        self._ring = ring

    @property
    def ring(self) -> Exchange:
        """Raises RunnerBrokenError before they are."""
        if self._ring is None:
            raise RunnerBrokenError("the group has not begun")
        return self._ring


class SharedLinear:
    """Some outputs of a linear, joined with those of the others: on every rank all outputs of all rows.

    With `inputs` each rank has some columns of what goes in, too, and those are joined first. Both are the widths of
    all ranks, in order.
    """

    waits = "ranks wait for one another"
    """Why no graph has it."""

    def __init__(
        self, linear: Linear, sharing: Sharing, *, part: int, outputs: Sequence[int], inputs: Sequence[int] = ()
    ) -> None:
        """`linear`: what this rank, number `part` of those that share it, has of it."""
        self.linear, self.part, self._sharing = linear, part, sharing
        self.outputs, self.inputs = list(outputs), list(inputs)

    def columns(self, x: Tensor, widths: Sequence[int]) -> Tensor:
        """Columns of this rank and of the others. Raises RunnerBrokenError when another rank is gone."""
        return self._sharing.ring.join_columns(x, widths)

    def __call__(self, x: Tensor) -> Tensor:
        """[rows, in] -> [rows, out]. Raises RunnerBrokenError when another rank is gone."""
        if self.inputs:
            x = self.columns(x, self.inputs)
        return self.columns(self.linear(x), self.outputs)


class SharedHead:
    """Rank 0's part of the head: the other ranks of stage 0 get the rows, and send their logits."""

    def __init__(self, linear: Linear, sharing: Sharing, outputs: Sequence[int]) -> None:
        self._linear, self._sharing, self._outputs = linear, sharing, list(outputs)
        self.norms = bool(getattr(linear, "norms", False))
        """Whether every rank norms the rows for itself."""

    def __call__(self, x: Tensor) -> Tensor:
        """[rows, hidden] -> [rows, vocab]. Raises RunnerBrokenError when another rank is gone, or this one fails."""
        with _together():
            return self._sharing.ring.logits(x, self._linear, self._outputs)


class SharedStack(Stack):
    """Rank 0's layers: its peers get the step first. A step that fails half-way ends the group: they wait in it."""

    def __init__(self, stack: Stack, sharing: Sharing) -> None:
        super().__init__(stack.layers, stack.specs, dtype=stack.dtype, device=stack.device)
        self._sharing = sharing

    def __call__(
        self, x: Tensor, positions: Tensor, attention: AttentionBackend, adapted: Adapted | None = None
    ) -> Tensor:
        """As its base does. Raises RunnerBrokenError when another rank is gone, or this one fails."""
        with _together():
            self._sharing.ring.share(attention.layout, x)
            return super().__call__(x, positions, attention, adapted)


@contextlib.contextmanager
def _together() -> Iterator[None]:
    """While the other ranks wait for this one: what fails here cannot be told to them, and ends the group."""
    try:
        yield
    except BaseException as error:
        if isinstance(error, RunnerBrokenError) or not is_fault(error):
            raise
        raise RunnerBrokenError(f"a step that ranks share failed: {type(error).__name__}") from error
