"""A native layer over a small cache of its own: what the check at start computes whole and cut."""

from collections.abc import Sequence

import numpy as np

from argosy_api.params import SamplingParams
from argosy_worker.arrays import address
from argosy_worker.compute.angles import Turns
from argosy_worker.compute.config import LayerSpec
from argosy_worker.compute.native.cache import ELEMENTS
from argosy_worker.compute.native.stack import Floats, Joins, Parts, Stack
from argosy_worker.compute.rowcheck import pattern
from argosy_worker.core.batch import SequenceSlice
from argosy_worker.core.layout import make_layout

ROWS = 33


class Probe:
    """Fixed rows through one layer, over a cache of this type."""

    def __init__(self, spec: LayerSpec, parts: Parts, kv: str, block_size: int, joins: Joins | None = None) -> None:
        """`joins`: what stands for the other ranks of a layer that is shared."""
        self._spec, self._kv, self._block_size = spec, kv, block_size
        self._stack = Stack([spec], [parts], joins=joins)
        self._turns = {} if spec.rope is None else {spec.rope: Turns(spec.rope)}

    def __call__(self, parts: Sequence[tuple[int, int]]) -> Floats:
        """[ROWS, hidden] of one sequence, computed in these parts, first to last."""
        blocks = -(-ROWS // self._block_size)
        shape = (blocks + 1, 2, self._spec.kv_heads, self._block_size, self._spec.head_dim)
        cache = np.zeros(shape, dtype=ELEMENTS[self._kv])
        scales = np.zeros(shape[:-1], dtype=np.float32)
        self._stack.bind([(address(cache), address(scales) if self._kv == "int8" else 0)], self._kv)
        x = pattern(ROWS, self._spec.hidden)
        for begin, end in parts:
            self._part(x[begin:end], begin, list(range(1, blocks + 1)))
        return x

    def _part(self, x: Floats, start: int, table: list[int]) -> None:
        one = SequenceSlice(
            request_id="", tokens=[0] * len(x), start=start, table=table, sample_rows=range(0), params=SamplingParams()
        )
        layout = make_layout([one], self._block_size)
        self._stack(address(x), len(x), layout, {rope: turns(layout.positions) for rope, turns in self._turns.items()})
