"""Adapters as the native kernels want them: tables of pointers into their matrices."""

import ctypes
from weakref import WeakKeyDictionary

from argosy_worker.arrays import address
from argosy_worker.compute.adapter import ROLES, LoadedAdapter, LowRank, StepAdapters
from argosy_worker.compute.native import library

_TABLES: WeakKeyDictionary[LoadedAdapter, "ctypes.Array[library.LowRank]"] = WeakKeyDictionary()
"""Of adapters that were used: [layers, ROLES]."""


def table(step: StepAdapters, first: int) -> "ctypes.Array[ctypes.c_void_p]":
    """For each adapter of a step where its row of layer `first` lies."""
    skipped = first * len(ROLES) * ctypes.sizeof(library.LowRank)
    places = [ctypes.addressof(_of(adapter)) + skipped for adapter in step.adapters]
    return (ctypes.c_void_p * len(places))(*places)


def _of(adapter: LoadedAdapter) -> "ctypes.Array[library.LowRank]":
    found = _TABLES.get(adapter)
    if found is None:
        found = _TABLES[adapter] = (library.LowRank * (adapter.layers * len(ROLES)))()
        for (layer, role), of in adapter.added.items():
            _fill(found[layer * len(ROLES) + ROLES.index(role)], of)
    return found


def _fill(struct: library.LowRank, of: LowRank) -> None:
    struct.down, struct.rank = address(of.down), len(of.down)
    for i, up in enumerate(of.ups):
        if up is not None:
            struct.up[i], struct.first[i], struct.ranks[i] = address(up.matrix), up.first, len(up.matrix)
