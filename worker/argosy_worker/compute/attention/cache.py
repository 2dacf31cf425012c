"""The paged cache of keys and values on torch."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from argosy_api.errors import InvalidArgumentError
from argosy_worker.compute.attention.backend import LAYOUT_VERSION, KvSpec
from argosy_worker.compute.attention.host import HostMemory
from argosy_worker.compute.attention.kv_types import SCALE, KvType, kv_type
from argosy_worker.core.host import Move


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
        kind: KvType | None = None,
        touch: bool = False,
        host_blocks: int = 0,
    ) -> None:
        """`dtype` is that of the activations, and of what is read; `kind` what is held, by default the same.

        `host_blocks`: blocks that host memory has room for besides.

        Raises:
            ModelUnsupportedError: there is no host memory for so many.

        """
        self._kind, self._dtype = kind or kv_type("auto", dtype), dtype
        self.spec = KvSpec(
            layers=layers,
            kv_heads=kv_heads,
            head_dim=head_dim,
            block_size=block_size,
            dtype=self._kind.name,
            layout_version=LAYOUT_VERSION,
        )
        self.layout = self.spec.describe()
        self.bytes_per_block = self.spec.rows * self._kind.row_bytes(head_dim)
        self.device = device
        self._blocks = blocks
        shape = (blocks + 1, 2, kv_heads, block_size, head_dim)
        self._layers = [_zeros(shape, self._kind.dtype, device) for _ in range(layers)]
        scaled = layers if self._kind.code is not None else 0
        self._scales = [_zeros(shape[:-1], SCALE, device) for _ in range(scaled)]
        if touch:  # a page that is written to is ours; one that is only promised may be missing when it is needed
            for tensor in (*self._layers, *self._scales):
                tensor.zero_()
        self._slots = [layer.view(-1, head_dim) for layer in self._layers]
        self._scale_slots = [scales.view(-1) for scales in self._scales]
        self._pages = [layer.view(-1, block_size * head_dim) for layer in self._layers]
        self._scale_pages = [scales.view(-1, block_size) for scales in self._scales]
        self._host = HostMemory(host_blocks, self.bytes_per_block, device)

    @property
    def dtype(self) -> torch.dtype:
        """Of the activations."""
        return self._dtype

    @property
    def coded(self) -> bool:
        """Whether rows are held with a scale of their own; keys are to be written, and met, `spread` then."""
        return self._kind.code is not None

    def write(self, layer: int, slots: Tensor, kv: Tensor) -> None:
        """Store a step's keys and values at int64 `slots`: [rows, 2 * kv_heads, head_dim], keys first."""
        elements, scales = self._kind.encode(kv.reshape(-1, kv.shape[-1]))
        self._slots[layer].index_copy_(0, slots, elements)
        if scales is not None:
            self._scale_slots[layer].index_copy_(0, slots, scales)

    def elements(self, layer: int) -> Tensor:
        """What a layer holds, as the class says."""
        return self._layers[layer]

    def scales(self, layer: int) -> Tensor | None:
        """A layer's fp32 scales [blocks + 1, 2, kv_heads, block_size], where rows have them."""
        return self._scales[layer] if self._scales else None

    def pages(self, layer: int, pages: Tensor) -> Tensor:
        """Gather int64 [n] pages of keys or values: [n, block_size * head_dim], in the activations' type."""
        elements = self._pages[layer].index_select(0, pages)
        if not self._scales:
            return self._kind.decode(elements, None, self._dtype)
        scales = self._scale_pages[layer].index_select(0, pages)
        rows = elements.view(*scales.shape, self.spec.head_dim)
        return self._kind.decode(rows, scales, self._dtype).view(elements.shape)

    def export(self, block: int) -> bytes:
        """The content of a block, over all layers."""
        self._check(block)
        return self.gather([block])[0].cpu().numpy().tobytes()

    def export_host(self, slot: int) -> bytes:
        """The content of a slot in host memory, in the same form."""
        return self._host.read(slot)

    def move(self, moves: Sequence[Move]) -> None:
        """Copy blocks to slots in host memory and back, one after the other; all is copied on return."""
        self._host.move(moves, self)

    def gather(self, blocks: Sequence[int]) -> Tensor:
        """What n blocks hold, as they are exported: uint8 [n, bytes_per_block], on the cache's device."""
        index = torch.tensor(blocks, device=self.device)
        parts = (tensor.index_select(0, index).view(len(blocks), -1) for tensor in (*self._layers, *self._scales))
        return torch.cat([part.view(torch.uint8) for part in parts], 1)

    def scatter(self, blocks: Sequence[int], contents: Tensor) -> None:
        """Put what `gather` gave into n different blocks."""
        index, begin = torch.tensor(blocks, device=self.device), 0
        for tensor in (*self._layers, *self._scales):
            end = begin + tensor[0].nbytes
            part = contents[:, begin:end].contiguous().view(tensor.dtype)
            tensor.index_copy_(0, index, part.view(len(blocks), *tensor.shape[1:]))
            begin = end

    def import_(self, block: int, content: bytes) -> None:
        """Put exported content into a block."""
        self._check(block)
        if len(content) != self.bytes_per_block:
            raise InvalidArgumentError("content", f"has {len(content)} bytes; a block has {self.bytes_per_block}")
        raw, shape = bytearray(content), (self.spec.layers, *self._layers[0].shape[1:])
        elements = torch.frombuffer(raw, dtype=self._kind.dtype, count=self.spec.rows * self.spec.head_dim)
        scales = torch.frombuffer(raw, dtype=SCALE, offset=elements.nbytes) if self._scales else None
        elements, scales = self._kind.sound(elements, scales)
        for layer, part in zip(self._layers, elements.view(shape), strict=True):
            layer[block].copy_(part)
        if scales is not None:
            for layer, part in zip(self._scales, scales.view(shape[:-1]), strict=True):
                layer[block].copy_(part)

    def _check(self, block: int) -> None:
        if not 1 <= block <= self._blocks:
            raise InvalidArgumentError("block", f"is {block}; the cache has the blocks 1 to {self._blocks}")


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Zeros, because padding reads the null block and 0 * NaN is not 0.

    On the CPU they come from numpy, which asks the system for zero pages instead of writing them: the memory is taken
    when a block is first used, and a worker starts at once with a small resident size.
    """
    if device.type == "cpu":
        rows = np.zeros((*shape[:-1], shape[-1] * dtype.itemsize), dtype=np.uint8)
        return torch.from_numpy(rows).view(dtype)
    return torch.zeros(shape, dtype=dtype, device=device)
