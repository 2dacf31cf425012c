"""Native layers among torch's: those of a model of which the native kernels compute a part."""

from collections.abc import Sequence

import torch
from torch import Tensor

from argosy_worker.compute.attention.backend import KvCache
from argosy_worker.compute.config import LayerSpec
from argosy_worker.compute.layer import Layer, LayerWeights, Step, TorchLayer
from argosy_worker.compute.mlp import DenseMlp
from argosy_worker.compute.native.able import KV_BITS, TILE, cannot
from argosy_worker.compute.native.joins import Columns, Joins, Widths
from argosy_worker.compute.native.library import NORMS
from argosy_worker.compute.native.linear import NativeLinear
from argosy_worker.compute.native.stack import Parts, Stack
from argosy_worker.compute.quant.linear import Linear, Verdict
from argosy_worker.compute.rope import Rotation
from argosy_worker.compute.shared import SharedLinear


class NativeLayer:
    """Layers that follow one another: numbers `first` on. With a cache of another kind they are torch layers."""

    def __init__(self, specs: Sequence[LayerSpec], first: int, weights: Sequence[LayerWeights]) -> None:
        self.specs, self.first, self.weights = list(specs), first, list(weights)
        self._stack = Stack(specs, [parts_of(of) for of in weights], first, joins_of(weights))
        self._plain = [TorchLayer(spec, first + i, of) for i, (spec, of) in enumerate(zip(specs, weights, strict=True))]
        self._cache: KvCache | None = None

    def __call__(self, x: Tensor, step: Step) -> Tensor:
        """[rows, hidden] fp32, changed in place."""
        layout, cache = step.attention.layout, step.attention.cache
        if cache.spec.dtype not in KV_BITS or cache.spec.block_size % TILE:
            for plain in self._plain:
                x = plain(x, step)
            return x
        x = x.contiguous()
        if cache is not self._cache:
            held = [(cache.elements(self.first + i), cache.scales(self.first + i)) for i in range(len(self.specs))]
            places = [(elements.data_ptr(), 0 if of is None else of.data_ptr()) for elements, of in held]
            self._stack.bind(places, cache.spec.dtype)
            self._cache = cache
        halves = {rope: _halves(turned) for rope, turned in step.rotations.items()}
        places_of = {rope: (cos.data_ptr(), sin.data_ptr()) for rope, (cos, sin) in halves.items()}
        adapters = None if step.adapted is None else step.adapted.adapters
        self._stack(x.data_ptr(), len(x), layout, places_of, adapters, by_position=False)
        return x


class NativeLayers:
    """Makes native layers with one feed-forward part, over a cache of floats or of int8."""

    name = "layer-native"

    def can_run(self, spec: LayerSpec) -> Verdict:
        """Say what is not built."""
        problem = cannot(spec)
        return Verdict(ok=True, reason="one call for all layers") if problem is None else Verdict(False, problem)

    def pack(self, spec: LayerSpec, number: int, weights: LayerWeights) -> Layer:
        """A native layer, where all its linears are (the check at start may have chosen others)."""
        mlp = weights.mlp
        linears = [weights.qkv, weights.o, *([mlp.gate_up, mlp.down] if isinstance(mlp, DenseMlp) else [None])]
        if not all(isinstance(_own(linear), NativeLinear) for linear in linears):
            return TorchLayer(spec, number, weights)
        return NativeLayer([spec], number, [weights])


def joined(layers: Sequence[Layer]) -> list[Layer]:
    """The same layers, with native ones that follow one another as one."""
    found: list[Layer] = []
    for layer in layers:
        last = found[-1] if found else None
        if isinstance(layer, NativeLayer) and isinstance(last, NativeLayer):
            found[-1] = NativeLayer(last.specs + layer.specs, last.first, last.weights + layer.weights)
        else:
            found.append(layer)
    return found


def parts_of(weights: LayerWeights) -> Parts:
    """A layer's weights, all of them native. Raises RuntimeError where they are not."""
    mlp = weights.mlp
    linears = [weights.qkv, weights.o, *([mlp.gate_up, mlp.down] if isinstance(mlp, DenseMlp) else [])]
    native = [own for linear in linears if isinstance(own := _own(linear), NativeLinear)]
    norms = {name: norm for name in NORMS if (norm := getattr(weights, name)) is not None}
    if len(native) < 4 or any(norm.dtype != torch.float32 for norm in norms.values()):
        raise RuntimeError("a native layer without its linears, or with norms in other numbers")
    qkv, o, gate_up, down = native
    held = {name: norm.contiguous().numpy() for name, norm in norms.items()}
    return Parts(qkv=qkv, o=o, gate_up=gate_up, down=down, **held)


def joins_of(weights: Sequence[LayerWeights], columns: Columns | None = None) -> Joins | None:
    """Who shares these layers; None where nobody does. `columns`: what stands for the other ranks."""
    if not isinstance(weights[0].o, SharedLinear):
        return None
    found = [(of.o, of.mlp.down) for of in weights if isinstance(of.mlp, DenseMlp)]
    shared = [(o, down) for o, down in found if isinstance(o, SharedLinear) and isinstance(down, SharedLinear)]
    widths = [Widths(heads=o.inputs, hidden=o.outputs, ffn=down.inputs) for o, down in shared]
    first, part = shared[0][0], shared[0][0].part
    return Joins(columns or first.columns, part, widths)


def _own(linear: Linear | None) -> Linear | None:
    """What this rank has of a linear."""
    return linear.linear if isinstance(linear, SharedLinear) else linear


def _halves(turned: Rotation) -> tuple[Tensor, Tensor]:
    """Cosines and sines, each [rows, dims / 2]."""
    half = turned.cos.shape[-1] // 2
    return turned.cos[:, 0, :half].contiguous(), turned.sin[:, 0, half:].contiguous()
