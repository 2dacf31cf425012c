"""Layers that follow one another as one call of the native kernels."""

import ctypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from argosy_worker.arrays import address
from argosy_worker.compute.adapter import StepAdapters
from argosy_worker.compute.config import LayerSpec
from argosy_worker.compute.native import library
from argosy_worker.compute.native.able import ACTIVATIONS, KV_BITS
from argosy_worker.compute.native.adapters import table
from argosy_worker.compute.native.crew import BrokenOffError
from argosy_worker.compute.native.linear import NativeLinear
from argosy_worker.compute.rope_spec import Rope
from argosy_worker.core.layout import StepLayout

Floats = npt.NDArray[np.float32]


class Joins(Protocol):
    """The ranks that share the layers."""

    failure: BaseException | None
    """Why the last step was broken off."""

    def begin(self, rows: int) -> ctypes.c_void_p:
        """What the kernels call in a step of so many rows, for each exchange."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What a layer is made of. Norms are fp32 [hidden], or of queries and keys as `LayerSpec.qk_norm` says."""

    qkv: NativeLinear
    o: NativeLinear
    gate_up: NativeLinear
    down: NativeLinear
    attn_norm: Floats | None = None
    mlp_norm: Floats | None = None
    post_attn_norm: Floats | None = None
    post_mlp_norm: Floats | None = None
    q_norm: Floats | None = None
    k_norm: Floats | None = None


class Stack:
    """The layers, over a cache that `bind` names. Used by one thread at a time."""

    def __init__(
        self, specs: Sequence[LayerSpec], parts: Sequence[Parts], first: int = 0, joins: Joins | None = None
    ) -> None:
        """`first`: number of the first of them in the model. `joins`: the ranks that share them."""
        self._first, self._joins = first, joins
        self.parts = list(parts)
        """What the structs point into."""
        self._crew = parts[0].qkv.crew
        self.layers: ctypes.Array[library.Layer] = (library.Layer * len(specs))(
            *(_struct(spec, of) for spec, of in zip(specs, parts, strict=True))
        )
        self._ropes = list(dict.fromkeys(spec.rope for spec in specs if spec.rope is not None))
        self._rope_of = [self._ropes.index(spec.rope) if spec.rope is not None else None for spec in specs]
        self._pointers = ctypes.c_void_p * len(specs)
        self._turned: tuple[object, ...] = ()
        self.cosines, self.sines = self._pointers(), self._pointers()

    def bind(self, caches: Sequence[tuple[int, int]], dtype: str) -> None:
        """Where each layer's keys and values lie from now on, and their scales (0 for none)."""
        for layer, (cache, scales) in zip(self.layers, caches, strict=True):
            layer.cache, layer.scales, layer.cache_bits = cache, scales or None, KV_BITS[dtype]

    def __call__(
        self,
        x: int,
        rows: int,
        layout: StepLayout,
        turned: Mapping[Rope, tuple[int, int]],
        adapters: StepAdapters | None = None,
        *,
        by_position: bool = True,
    ) -> None:
        """Run x, fp32 [rows, hidden] at this address, through the layers in place.

        `turned`: where cosines and sines lie, each fp32 [positions, dims / 2]; without `by_position` those of the
        rows, [rows, dims / 2].

        Raises what the ranks that share the layers raise.
        """
        where = self.step(rows, layout, turned, by_position=by_position)
        if adapters is not None:
            pointers = table(adapters, self._first)
            where.most_rank, where.adapter_of = adapters.most_rank, address(adapters.rows)
            where.adapters = ctypes.addressof(pointers)
        if self._joins is not None:
            where.join = self._joins.begin(rows)
        try:
            self._crew.forward(self.layers, where, self.cosines, self.sines, x)
        except BrokenOffError:
            if self._joins is None or (failure := self._joins.failure) is None:
                raise
            self._joins.failure = None
            raise failure from None

    def step(
        self, rows: int, layout: StepLayout, turned: Mapping[Rope, tuple[int, int]], *, by_position: bool = True
    ) -> library.Step:
        """Where the rows of a step lie; from now on `cosines` and `sines` are of it. As a call has it."""
        places = tuple(turned[rope] for rope in self._ropes)
        if places != self._turned:
            self.cosines, self.sines = (
                self._pointers(*(0 if i is None else places[i][side] for i in self._rope_of)) for side in (0, 1)
            )
            self._turned = places
        positions = address(layout.positions)
        return library.Step(
            rows, len(layout.context_lens), positions, address(layout.cu_rows),
            address(layout.context_lens), address(layout.block_table), address(layout.slots),
            layout.block_table.shape[1], layout.block_size, turns=positions if by_position else None,
        )  # fmt: skip


def _struct(spec: LayerSpec, of: Parts) -> library.Layer:
    norms = (getattr(of, name) for name in library.NORMS)
    return library.Layer(
        of.qkv.struct, of.o.struct, of.gate_up.struct, of.down.struct,
        *(None if norm is None else address(norm) for norm in norms),
        None, None, spec.hidden, spec.heads, spec.kv_heads, spec.head_dim, spec.ffn,
        0 if spec.rope is None else spec.rope.dims, spec.window, 0, ACTIVATIONS[spec.activation],
        spec.qk_norm == "width", spec.rms_eps, spec.scale, spec.softcap, spec.residual_scale,
    )  # fmt: skip
