"""Whole layers on the native kernels: all that follow one another are one call."""

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from argosy_worker.compute.attention.backend import KvCache
from argosy_worker.compute.config import Dense, LayerSpec
from argosy_worker.compute.layer import Layer, LayerWeights, Step, TorchLayer
from argosy_worker.compute.mlp import DenseMlp
from argosy_worker.compute.native import library
from argosy_worker.compute.native.linear import NativeLinear
from argosy_worker.compute.quant.linear import Verdict
from argosy_worker.compute.rope import Rotation

TILE = 16
"""Positions that are looked at together: a block of the cache has some such tiles."""
HEAD_DIMS = (32, 64, 80, 96, 128, 256)
KV_BITS = {"fp32": 32, "fp16": 16, "int8": 8}
"""Caches that they read and write."""


class NativeLayer:
    """Layers that follow one another: numbers `first` on. With a cache of another kind they are torch layers."""

    def __init__(self, specs: Sequence[LayerSpec], first: int, weights: Sequence[LayerWeights]) -> None:
        self.specs, self.first, self.weights = list(specs), first, list(weights)
        self._layers: ctypes.Array[library.Layer] = (library.Layer * len(specs))(
            *(_struct(spec, of) for spec, of in zip(specs, weights, strict=True))
        )
        self._crew = _linears(weights[0])[0].crew
        self._plain = [TorchLayer(spec, first + i, of) for i, (spec, of) in enumerate(zip(specs, weights, strict=True))]
        self._cache: KvCache | None = None
        ropes = [spec.rope for spec in specs if spec.rope is not None]
        self._ropes = list(dict.fromkeys(ropes))
        self._rope_of = [self._ropes.index(rope) for rope in ropes]
        self._pointers = ctypes.c_void_p * len(ropes)

    def __call__(self, x: Tensor, step: Step) -> Tensor:
        """[rows, hidden] fp32, changed in place."""
        layout, cache = step.attention.layout, step.attention.cache
        if cache.spec.dtype not in KV_BITS or cache.spec.block_size % TILE:
            for plain in self._plain:
                x = plain(x, step)
            return x
        x = x.contiguous()
        if cache is not self._cache:
            for i, layer in enumerate(self._layers):
                layer.cache = cache.elements(self.first + i).data_ptr()
                scales = cache.scales(self.first + i)
                layer.scales = None if scales is None else scales.data_ptr()
                layer.cache_bits = KV_BITS[cache.spec.dtype]
            self._cache = cache
        halves = [_halves(step.rotations[rope]) for rope in self._ropes]
        cosines, sines = (self._pointers(*(halves[i][side].data_ptr() for i in self._rope_of)) for side in (0, 1))
        arrays = (layout.positions, layout.cu_rows, layout.context_lens, layout.block_table, layout.slots)
        where = library.Step(
            len(x), len(layout.context_lens), *(array.ctypes.data for array in arrays),
            layout.block_table.shape[1], layout.block_size,
        )  # fmt: skip
        self._crew.forward(self._layers, where, cosines, sines, x.data_ptr())
        return x


class NativeLayers:
    """Makes native layers of Llama's kind, over a cache of floats or of int8."""

    name = "layer-native"

    def can_run(self, spec: LayerSpec) -> Verdict:
        """Say what is not built."""
        lacks = [
            what
            for what, there in {
                "norms behind its parts": spec.norms != "before",
                "norms of queries and keys": bool(spec.qk_norm),
                "no positions": spec.rope is None,
                "rotary positions of such a width": spec.rope is not None and spec.rope.dims % 32 != 0,
                f"heads of {spec.head_dim}": spec.head_dim not in HEAD_DIMS,
                "a soft-cap": spec.softcap != 0,
                "sinks": spec.sinks,
                "experts": not isinstance(spec.mlp, Dense),
                f"activation {spec.activation}": spec.activation != "silu",
                "scaled residuals": spec.residual_scale != 1,
                "widths that are no multiples of 32": bool(spec.hidden % 32 or spec.ffn % 32),
            }.items()
            if there
        ]
        if lacks:
            return Verdict(ok=False, reason=f"has none with {', '.join(lacks)}")
        return Verdict(ok=True, reason="one call for all layers")

    def pack(self, spec: LayerSpec, number: int, weights: LayerWeights) -> Layer:
        """A native layer, where all its linears are (the check at start may have chosen others)."""
        if not all(isinstance(linear, NativeLinear) for linear in _linears(weights)):
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


def _halves(turned: Rotation) -> tuple[Tensor, Tensor]:
    """Cosines and sines, each [rows, dims / 2]."""
    half = turned.cos.shape[-1] // 2
    return turned.cos[:, 0, :half].contiguous(), turned.sin[:, 0, half:].contiguous()


def _linears(weights: LayerWeights) -> list[Any]:
    mlp = weights.mlp
    return [weights.qkv, weights.o, mlp.gate_up, mlp.down] if isinstance(mlp, DenseMlp) else [None]


def _struct(spec: LayerSpec, weights: LayerWeights) -> library.Layer:
    norms: list[Tensor | None] = [weights.attn_norm, weights.mlp_norm]
    if any(norm is None or norm.dtype != torch.float32 for norm in norms) or spec.rope is None:
        raise RuntimeError("a native layer without its norms")
    return library.Layer(
        *(linear.struct for linear in _linears(weights)),
        *(norm.data_ptr() for norm in norms if norm is not None),
        None, None,
        spec.hidden, spec.heads, spec.kv_heads, spec.head_dim, spec.ffn, spec.rope.dims, spec.window, 0,
        spec.rms_eps, spec.scale,
    )  # fmt: skip
