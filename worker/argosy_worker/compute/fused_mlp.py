"""Feed-forward parts on GPUs, with Triton's kernels for the gates, and for all that experts are. Loads Triton."""

from collections.abc import Iterable

from torch import Tensor

from argosy_worker.compute.config import Activation, Clamp, Experts
from argosy_worker.compute.mlp import Adds, DenseMlp, adapted
from argosy_worker.compute.quant.float_cuda import PlainLinear
from argosy_worker.compute.quant.linear import Linear
from argosy_worker.compute.triton.experts import Bank, Held, join, products, put, room, routing
from argosy_worker.compute.triton.linear import Coded, WeightOnly
from argosy_worker.compute.triton.rows import Code, Codes, Gate, gated, gated_codes


def of_codes(linear: Linear, rows: int, adds: Adds) -> Coded | None:
    """The linear, if it takes so many rows in 8 bits. Not where adapters add something: these read floats."""
    return linear if isinstance(linear, Coded) and adds is None and linear.takes_codes(rows) else None


def activated(wide: Tensor, activation: Activation) -> Tensor:
    """[rows, 2 * ffn], gates first -> [rows, ffn]."""
    if isinstance(activation, Clamp):
        return gated(wide, Gate.CLAMP, alpha=activation.alpha, limit=activation.limit)
    return gated(wide, Gate.SILU if activation == "silu" else Gate.GELU_TANH)


def activated_codes(wide: Tensor, activation: Activation, code: Code) -> Codes:
    """The same in 8 bits."""
    if isinstance(activation, Clamp):
        return gated_codes(wide, Gate.CLAMP, code, alpha=activation.alpha, limit=activation.limit)
    return gated_codes(wide, Gate.SILU if activation == "silu" else Gate.GELU_TANH, code)


class FusedMlp:
    """What `DenseMlp` computes."""

    def __init__(self, gate_up: Linear, down: Linear, activation: Activation) -> None:
        self._gate_up, self._down, self._activation = gate_up, down, activation

    @property
    def gate_up(self) -> Linear:
        """The first product."""
        return self._gate_up

    @property
    def down(self) -> Linear:
        """The second product."""
        return self._down

    def __call__(self, x: Tensor, adds: Adds = None) -> Tensor:
        """Compute all rows."""
        return self.after(adapted(self._gate_up, "gate_up", x, adds), adds)

    def after(self, wide: Tensor, adds: Adds = None) -> Tensor:
        """What follows the first product."""
        if (down := of_codes(self._down, len(wide), adds)) is not None:
            return down.of_codes(activated_codes(wide, self._activation, down.code))
        return adapted(self._down, "down", activated(wide, self._activation), adds)


class GroupedExperts:
    """What `ExpertsMlp` computes, without asking the device who goes where: seven launches after the router's."""

    def __init__(self, router: Linear, parts: Iterable[DenseMlp], spec: Experts, activation: Activation) -> None:
        """Take the weights of each expert. Raises TypeError where a linear is none that the kernels know."""
        self._router, self._spec, self._activation = router, spec, activation
        self._gate_up, self._down = _banks(parts, spec.count)

    def __call__(self, x: Tensor, adds: Adds = None) -> Tensor:
        """Compute all rows. Adapters add nothing here: those that would are refused (`models/peft.py`)."""
        del adds
        found = routing(self._router(x), self._spec)
        inner = activated(products(x, self._gate_up, found, scatter=False), self._activation)
        return join(products(inner, self._down, found, scatter=True), found.weights)


def _banks(parts: Iterable[DenseMlp], count: int) -> tuple[Bank, Bank]:
    """Of gates with ups, and of downs. Each expert is copied as it comes: no more than one is held twice."""
    banks: tuple[Bank, Bank] | None = None
    for number, part in enumerate(parts):
        wide, narrow = _held(part.gate_up), _held(part.down)
        banks = banks or (room(wide, count), room(narrow, count))
        put(banks[0], number, wide)
        put(banks[1], number, narrow)
    if banks is None:
        raise ValueError("a layer without experts")
    return banks


def _held(linear: Linear) -> Held:
    if isinstance(linear, WeightOnly) and linear.packed.code == Code.INT8:
        one = linear.packed
        return Held(one.weight, one.scale, one.middle, one.bias, one.inputs, one.group)
    if isinstance(linear, PlainLinear):
        return Held(linear.weight, None, None, linear.bias, linear.weight.shape[1], 0)
    raise TypeError(f"{type(linear).__name__} holds no weights that the kernels of experts read")
