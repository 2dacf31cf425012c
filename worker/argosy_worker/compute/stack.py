"""Layers that follow one another in one process: all of a model's, or the part of one rank of a group."""

from collections.abc import Sequence

import torch
from torch import Tensor

from argosy_worker.compute.adapted import Adapted
from argosy_worker.compute.attention.backend import AttentionBackend
from argosy_worker.compute.config import LayerSpec
from argosy_worker.compute.layer import Layer, Step
from argosy_worker.compute.rope import Rotations


class Stack:
    """Computes `layers`, which are described by `specs`. Holds weights only; the cache is the attention's."""

    def __init__(
        self, layers: Sequence[Layer], specs: Sequence[LayerSpec], *, dtype: torch.dtype, device: torch.device
    ) -> None:
        """`layers` may be fewer than `specs`, where one computes several of them, or have one more, which has none."""
        self.layers, self.specs = list(layers), tuple(specs)
        self.dtype, self.device = dtype, device
        ropes = dict.fromkeys(spec.rope for spec in specs if spec.rope is not None)
        self._ropes = {rope: Rotations(rope, device) for rope in ropes}

    def __call__(
        self, x: Tensor, positions: Tensor, attention: AttentionBackend, adapted: Adapted | None = None
    ) -> Tensor:
        """[rows, hidden], int [rows] -> [rows, hidden].

        `attention` is prepared for the step; its cache gets the rows' keys and values.
        """
        step = Step({rope: of(positions, self.dtype) for rope, of in self._ropes.items()}, attention, adapted)
        for layer in self.layers:
            x = layer(x, step)
        return x
