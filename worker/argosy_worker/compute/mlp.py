"""Feed-forward parts: one for all rows, or experts of which each row takes some.

On the CPU a row's bits depend on that row alone: the linears promise it, the router's scores are sorted stably, and a
row's experts are added in the order of their weights, whoever else chose them.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
import torch.nn.functional as F  # noqa: N812  # the name that torch users know
from torch import Tensor

from argosy_worker.compute.config import Activation, Clamp, Experts
from argosy_worker.compute.elementwise import VECTOR, aligned
from argosy_worker.compute.quant.linear import Linear

Adds = Callable[[str, Tensor, Tensor], None] | None
"""What adapters add to a layer's linears: role, what goes in, and what came out, which is changed. None: nothing."""


def adapted(linear: Linear, role: str, x: Tensor, adds: Adds) -> Tensor:
    """What a linear makes of x, with what adapters add."""
    out = linear(x)
    if adds is not None:
        adds(role, x, out)
    return out


class Mlp(Protocol):
    """The second part of a layer."""

    def __call__(self, x: Tensor, adds: Adds = None) -> Tensor:
        """[rows, hidden] -> [rows, hidden], fresh."""
        ...


class DenseMlp:
    """down(act(gate x) * up x), with gate and up as one product."""

    def __init__(self, gate_up: Linear, down: Linear, activation: Activation) -> None:
        self.gate_up, self.down, self.activation = gate_up, down, activation

    def __call__(self, x: Tensor, adds: Adds = None) -> Tensor:
        """Compute all rows."""
        return adapted(self.down, "down", gated(adapted(self.gate_up, "gate_up", x, adds), self.activation), adds)


def gated(gate_up: Tensor, activation: Activation) -> Tensor:
    """[rows, 2 * ffn], gates first -> [rows, ffn]."""
    ffn = gate_up.shape[-1] // 2
    gate, up = gate_up[:, :ffn].contiguous(), gate_up[:, ffn:]
    if isinstance(activation, Clamp):
        gate.clamp_(max=activation.limit)
        up = up.clamp(-activation.limit, activation.limit).add_(1)
        return gate.mul_(aligned(torch.Tensor.sigmoid_, gate * activation.alpha)).mul_(up)
    return aligned(_silu_ if activation == "silu" else _gelu_, gate).mul_(up)


def _silu_(x: Tensor) -> Tensor:
    return F.silu(x, inplace=True)


def _gelu_(x: Tensor) -> Tensor:
    found: Tensor = torch.ops.aten.gelu_(x, approximate="tanh")
    return found


class ExpertsMlp:
    """A router and its experts."""

    waits = "experts one after another ask the device for each one's rows"
    """Why no graph has it."""

    def __init__(self, router: Linear, experts: Sequence[Mlp], spec: Experts) -> None:
        self._router, self._experts, self._spec = router, experts, spec

    def __call__(self, x: Tensor, adds: Adds = None) -> Tensor:
        """Gather the rows of each expert, compute them, and add up each row's parts, the heaviest first.

        Adapters add nothing here: those that would are refused (`models/peft.py`).
        """
        del adds
        chosen, weights = route(self._router(x).float(), self._spec)
        parts = x.new_empty((self._spec.used, *x.shape))
        for number, expert in enumerate(self._experts):
            rows, places = (chosen == number).nonzero(as_tuple=True)
            if len(rows):
                weighted = expert(x.index_select(0, rows)).mul_(weights[rows, places, None].to(x.dtype))
                parts[places, rows] = weighted
        total = parts[0]
        for part in parts[1:]:
            total = total.add_(part)
        return total


def route(scores: Tensor, spec: Experts) -> tuple[Tensor, Tensor]:
    """fp32 [rows, count] -> the chosen experts of each row, best first: int64 and their weights fp32 [rows, used].

    Of equal scores the expert of the smaller number is taken.
    """
    best, chosen = scores.sort(stable=True, dim=-1, descending=True)
    best, chosen = best[:, : spec.used], chosen[:, : spec.used]
    highest = best[:, :1]
    total = _exp((best if spec.normalized else scores) - highest).sum(-1, keepdim=True)
    return chosen, _exp(best - highest) / total


def _exp(x: Tensor) -> Tensor:
    """Filled up to whole vectors, so that no row ends within one."""
    columns = x.shape[-1]
    return aligned(torch.Tensor.exp_, F.pad(x, (0, -columns % VECTOR), value=-torch.inf))[:, :columns]
