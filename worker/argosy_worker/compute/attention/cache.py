"""The paged cache of keys and values on torch."""

import numpy as np
import torch
from torch import Tensor

from argosy_api.errors import InvalidArgumentError
from argosy_worker.compute.attention.backend import KvSpec

LAYOUT_VERSION = 1
"""An exported block is [layers, 2 (keys, values), kv_heads, block_size, head_dim], in the machine's byte order."""


class PagedKvCache:
    """Keys and values: for each layer [blocks + 1, 2, kv_heads, block_size, head_dim]; block 0 is the null block."""

    def __init__(
        self,
        *,
        layers: int,
        blocks: int,
        block_size: int,
        kv_heads: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device,
        touch: bool = False,
    ) -> None:
        shape = (blocks + 1, 2, kv_heads, block_size, head_dim)
        self.spec = KvSpec(
            layers=layers,
            kv_heads=kv_heads,
            head_dim=head_dim,
            block_size=block_size,
            dtype=str(dtype).removeprefix("torch."),
            layout_version=LAYOUT_VERSION,
        )
        self.layout = self.spec.describe()
        self.bytes_per_block = self.spec.elements * dtype.itemsize
        self.device = device
        self._blocks = blocks
        self._layers = [_zeros(shape, dtype, device) for _ in range(layers)]
        if touch:  # a page that is written to is ours; one that is only promised may be missing when it is needed
            for layer in self._layers:
                layer.zero_()
        self._slots = [layer.view(-1, head_dim) for layer in self._layers]
        self._pages = [layer.view(-1, block_size * head_dim) for layer in self._layers]

    def write(self, layer: int, slots: Tensor, kv: Tensor) -> None:
        """Store a step's keys and values at int64 `slots`: [rows, 2 * kv_heads, head_dim], keys first."""
        # A masked value is multiplied by an exact 0; a NaN of an ended request must not come back through that.
        self._slots[layer].index_copy_(0, slots, torch.nan_to_num(kv).reshape(-1, kv.shape[-1]))

    def pages(self, layer: int, pages: Tensor) -> Tensor:
        """Gather int64 [n] pages of keys or values: [n, block_size * head_dim]."""
        return self._pages[layer].index_select(0, pages)

    def export(self, block: int) -> bytes:
        """The content of a block, over all layers."""
        self._check(block)
        content = torch.stack([layer[block] for layer in self._layers]).contiguous().cpu()
        return content.view(-1).view(torch.uint8).numpy().tobytes()

    def import_(self, block: int, content: bytes) -> None:
        """Put exported content into a block."""
        self._check(block)
        if len(content) != self.bytes_per_block:
            raise InvalidArgumentError("content", f"has {len(content)} bytes; a block has {self.bytes_per_block}")
        raw = torch.frombuffer(bytearray(content), dtype=self._layers[0].dtype)
        for layer, part in zip(self._layers, raw.view(len(self._layers), *self._layers[0].shape[1:]), strict=True):
            layer[block].copy_(torch.nan_to_num(part))

    def _check(self, block: int) -> None:
        if not 1 <= block <= self._blocks:
            raise InvalidArgumentError("block", f"is {block}; the cache has the blocks 1 to {self._blocks}")


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Zeros, because padding reads the null block and 0 * NaN is not 0.

    On the CPU they come from numpy, which asks the system for zero pages instead of writing them: the memory is taken
    when a block is first used, and a worker starts at once with a small resident size.
    """
    if device.type == "cpu" and dtype == torch.float32:
        return torch.from_numpy(np.zeros(shape, dtype=np.float32))
    return torch.zeros(shape, dtype=dtype, device=device)
