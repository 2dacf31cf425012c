"""Paged attention in plain torch: the reference that later kernels are compared with.

Every row's bits are the same whoever shares its step and however its prompt was cut into chunks:

* keys are multiplied tile by tile at absolute positions; a tile beyond a row's position is not visited, or adds exact
  zeros; tiles are added in order; the maximum is taken over all tiles first, so no rescaling depends on the order;
* all products are [rows, head_dim] x [head_dim, tile] and [rows, tile] x [tile, head_dim], and their numbers of rows
  are such that they do not matter on this machine (`rows.py`);
* scores, sums of weights and results are fp32 whatever the cache holds, and `exp` goes through `elementwise.aligned`,
  because its vector and scalar versions round differently.

Slices of one token are worked on together, longer ones one by one. Scores of a group are held as a whole: for decode
that is sequences x heads x context, for prefill query block x heads x context.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from argosy_api.errors import InvalidArgumentError, ModelUnsupportedError
from argosy_worker.compute.attention.backend import KvSpec
from argosy_worker.compute.attention.rows import Rows
from argosy_worker.compute.attention.tiles import PrefillRows, SingleGroup, Tiles, make_tiles
from argosy_worker.compute.config import Full, LayerSpec
from argosy_worker.compute.elementwise import aligned
from argosy_worker.core.layout import StepLayout

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


def refusal(spec: LayerSpec) -> str | None:
    """Why `PagedTorch` cannot compute the attention of a layer; None where it can."""
    if not isinstance(spec.attention, Full):
        return f"attends to all positions only, asked for {spec.attention}"
    if spec.softcap:
        return f"has no soft-cap, asked for {spec.softcap}"
    if spec.sinks:
        return "has no attention sinks"
    return None


def report(specs: Sequence[LayerSpec]) -> str:
    """What computes the attention of these layers, and why.

    Raises:
        ModelUnsupportedError: nothing does; the message has the reason.

    """
    for spec in specs:
        if reason := refusal(spec):
            raise ModelUnsupportedError(f"nothing computes the model's attention: paged-torch ({reason})")
    return "paged-torch (reference; the only one for this device)"


class PagedTorch:
    """An `AttentionBackend` over a `PagedKvCache`, for layers of these specs."""

    def __init__(self, cache: PagedKvCache, rows: Rows, specs: Sequence[LayerSpec]) -> None:
        self.cache = cache
        self._rows, self._specs = rows, specs
        self._tiles: Tiles | None = None

    def prepare(self, layout: StepLayout) -> None:
        """Make the step's index tensors."""
        self._tiles = make_tiles(layout, kv_heads=self.cache.spec.kv_heads, rows=self._rows, device=self.cache.device)

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, sinks: Tensor | None = None) -> Tensor:
        """Store keys and values and attend, as the protocol says."""
        del sinks  # `refusal` keeps out layers that have them
        if self._tiles is None:
            raise RuntimeError("attend before prepare")
        tiles, out = self._tiles, torch.empty_like(q)
        self.cache.write(layer, tiles.writes, torch.cat((k, v), 1))
        scaled = q * self._specs[layer].scale
        if tiles.singles is not None:
            self._singles(scaled, out, layer, tiles.singles, tiles.tile)
        for chunk in tiles.chunks:
            self._chunk(scaled, out, layer, chunk, tiles.tile)
        return out

    def _singles(self, q: Tensor, out: Tensor, layer: int, group: SingleGroup, tile: int) -> None:
        kv_heads, dim = self.cache.spec.kv_heads, self.cache.spec.head_dim
        seqs, per = len(group.rows), q.shape[1] // kv_heads
        queries = q.new_zeros((seqs, kv_heads, self._rows.padded(per), dim))
        queries[:, :, :per] = q.index_select(0, group.rows).view(seqs, kv_heads, per, dim)
        if group.pair_seq is not None:
            queries = queries.index_select(0, group.pair_seq)
        pairs = len(queries)
        keys = self.cache.pages(layer, group.keys).view(pairs * kv_heads, tile, dim)
        scores = torch.bmm(queries.view(pairs * kv_heads, -1, dim), keys.transpose(1, 2)).float()
        scores = scores.view(pairs, kv_heads, -1, tile).masked_fill_(group.masked, -torch.inf)
        highest = scores.amax(-1, keepdim=True)
        if group.pair_seq is not None:
            best = highest[:seqs].clone()
            for begin, count in _later_tiles(group.counts):
                torch.maximum(best[:count], highest[begin : begin + count], out=best[:count])
            highest = best.index_select(0, group.pair_seq)
        weights = _weights(scores, highest)
        values = self.cache.pages(layer, group.values).view(pairs * kv_heads, tile, dim)
        part = torch.bmm(weights.view(pairs * kv_heads, -1, tile).to(q.dtype), values).float()
        part = part.view(pairs, kv_heads, -1, dim)
        norm = weights.sum(-1, keepdim=True)
        total, totals = part[:seqs], norm[:seqs]
        for begin, count in _later_tiles(group.counts):
            total[:count] += part[begin : begin + count]
            totals[:count] += norm[begin : begin + count]
        result = (total / totals)[:, :, :per].reshape(seqs, -1, dim)
        out.index_copy_(0, group.rows, result.to(out.dtype))

    def _chunk(self, q: Tensor, out: Tensor, layer: int, chunk: PrefillRows, tile: int) -> None:
        kv_heads, dim = self.cache.spec.kv_heads, self.cache.spec.head_dim
        per = q.shape[1] // kv_heads
        # [tiles * kv_heads, ...]: all products of a block in one call, which keeps all threads busy
        keys = self.cache.pages(layer, chunk.keys).view(-1, tile, dim).transpose(1, 2)
        values = self.cache.pages(layer, chunk.values).view(-1, tile, dim)
        for block in chunk.blocks:
            count, used, products = block.tokens, block.tokens * per, block.tiles * kv_heads
            rows = slice(block.first, block.first + count)
            queries = q.new_zeros((kv_heads, self._rows.padded(used), dim))
            queries[:, :used] = q[rows].view(count, kv_heads, per, dim).transpose(0, 1).reshape(kv_heads, used, dim)
            scores = torch.bmm(queries.repeat(block.tiles, 1, 1), keys[:products]).float()
            scores = scores.view(block.tiles, kv_heads, -1, tile)
            partly = scores[block.tiles - len(block.masked) :, :, :used]
            partly.view(-1, kv_heads, count, per, tile).masked_fill_(block.masked, -torch.inf)
            weights = _weights(scores, scores.amax(-1, keepdim=True).amax(0, keepdim=True))
            norms = weights.sum(-1, keepdim=True)
            parts = torch.bmm(weights.view(products, -1, tile).to(q.dtype), values[:products]).float()
            parts = parts.view(block.tiles, kv_heads, -1, dim)
            total, norm = parts[0], norms[0]
            for part, share in zip(parts[1:], norms[1:], strict=True):
                total += part
                norm += share
            result = (total / norm)[:, :used].view(kv_heads, count, per, dim).transpose(0, 1)
            out[rows] = result.reshape(count, kv_heads * per, dim)


def _weights(scores: Tensor, highest: Tensor) -> Tensor:
    return aligned(torch.Tensor.exp_, scores.sub_(highest))


def _later_tiles(counts: tuple[int, ...]) -> list[tuple[int, int]]:
    """(first pair, number of pairs) of the tiles after the first."""
    begin, found = counts[0], []
    for count in counts[1:]:
        found.append((begin, count))
        begin += count
    return found
