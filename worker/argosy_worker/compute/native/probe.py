"""A native layer over a small cache of its own: what the check at start computes whole and cut."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from argosy_api.params import SamplingParams
from argosy_worker.compute.attention.cache import PagedKvCache
from argosy_worker.compute.attention.kv_types import KvType
from argosy_worker.compute.config import LayerSpec
from argosy_worker.compute.layer import LayerWeights, Step
from argosy_worker.compute.native.layer import NativeLayer
from argosy_worker.compute.probe import pattern
from argosy_worker.compute.rope import frequencies, rotation
from argosy_worker.core.batch import SequenceSlice
from argosy_worker.core.layout import make_layout

ROWS = 33


class Probe:
    """Fixed rows through one layer."""

    def __init__(self, spec: LayerSpec, weights: LayerWeights, kind: KvType, block_size: int) -> None:
        self._spec, self._layer = spec, NativeLayer([spec], 0, [weights])
        self._kind, self._block_size = kind, block_size

    def __call__(self, parts: Sequence[tuple[int, int]]) -> Tensor:
        """[ROWS, hidden] of one sequence, computed in these parts, first to last."""
        blocks = -(-ROWS // self._block_size)
        cache = PagedKvCache(
            layers=1, blocks=blocks, block_size=self._block_size, kv_heads=self._spec.kv_heads,
            head_dim=self._spec.head_dim, dtype=torch.float32, device=torch.device("cpu"), kind=self._kind,
        )  # fmt: skip
        x = pattern(ROWS, self._spec.hidden)
        return torch.cat([self._part(x[a:b].clone(), a, cache, list(range(1, blocks + 1))) for a, b in parts])

    def _part(self, x: Tensor, start: int, cache: PagedKvCache, table: list[int]) -> Tensor:
        one = SequenceSlice(
            request_id="", tokens=[0] * len(x), start=start, table=table, sample_rows=range(0), params=SamplingParams()
        )
        layout: Any = make_layout([one], self._block_size)
        rope = self._spec.rope
        if rope is None:
            raise RuntimeError("a native layer has positions")
        turned = rotation(frequencies(rope, torch.device("cpu")), torch.from_numpy(layout.positions), torch.float32)
        attention: Any = SimpleNamespace(layout=layout, cache=cache)
        return self._layer(x, Step({rope: turned}, attention))
