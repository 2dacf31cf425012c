"""Paged attention in plain torch: the reference that later kernels are compared with.

Every row's bits are the same whoever shares its step and however its prompt was cut into chunks:

* keys are multiplied tile by tile at absolute positions; a tile beyond a row's position is not visited, or adds exact
  zeros; tiles are added in order; the maximum is taken over all tiles first, so no rescaling depends on the order;
* matrix products always have a multiple of 4 rows. Measured with torch 2.13 (MKL) on a CPU with AVX-512: a row of
  `bmm` has the same bits for every number of rows from 4 to 400, any number of columns and any batch, but other bits
  for 1, 2 or 3 rows, where another kernel is taken;
* scores, sums of weights and results are fp32 whatever the cache holds, and `exp` goes through `elementwise.aligned`,
  because its vector and scalar versions round differently.

Slices of one token are worked on together, longer ones one by one. Scores of a group are held as a whole: for decode
that is sequences x heads x context, for prefill QUERY_BLOCK x heads x context.
"""

import numpy as np
import torch
from torch import Tensor

from argosy_worker.compute.attention.plan import AttentionPlan, PrefillRows, SingleGroup
from argosy_worker.compute.elementwise import aligned

ROW_MULTIPLE = 4


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
    ) -> None:
        shape = (blocks + 1, 2, kv_heads, block_size, head_dim)
        self._layers = [_zeros(shape, dtype, device) for _ in range(layers)]
        self.kv_heads, self.head_dim, self.block_size = kv_heads, head_dim, block_size
        self._slots = [layer.view(-1, head_dim) for layer in self._layers]
        self._pages = [layer.view(-1, block_size * head_dim) for layer in self._layers]

    def write(self, layer: int, plan: AttentionPlan, kv: Tensor) -> None:
        """Store a step's keys and values: [rows, 2 * kv_heads, head_dim], keys first."""
        # A masked value is multiplied by an exact 0; a NaN of an ended request must not come back through that.
        self._slots[layer].index_copy_(0, plan.writes, torch.nan_to_num(kv).reshape(-1, self.head_dim))

    def pages(self, layer: int, pages: Tensor) -> Tensor:
        """Gather int64 [n] pages of keys or values: [n, block_size * head_dim]."""
        return self._pages[layer].index_select(0, pages)


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Zeros, because padding reads the null block and 0 * NaN is not 0.

    On the CPU they come from numpy, which asks the system for zero pages instead of writing them: the memory is taken
    when a block is first used, and a worker starts at once with a small resident size.
    """
    if device.type == "cpu" and dtype == torch.float32:
        return torch.from_numpy(np.zeros(shape, dtype=np.float32))
    return torch.zeros(shape, dtype=dtype, device=device)


def attend(q: Tensor, cache: PagedKvCache, layer: int, plan: AttentionPlan) -> Tensor:
    """Causal attention of a step's queries [rows, heads, head_dim] over their sequences' caches; same shape."""
    out = torch.empty_like(q)
    scaled = q * q.shape[-1] ** -0.5
    if plan.singles is not None:
        _attend_singles(scaled, out, cache, layer=layer, group=plan.singles, tile=plan.tile)
    for chunk in plan.chunks:
        _attend_chunk(scaled, out, cache, layer=layer, chunk=chunk, tile=plan.tile)
    return out


def _padded(rows: int) -> int:
    return -(-rows // ROW_MULTIPLE) * ROW_MULTIPLE


def _weights(scores: Tensor, highest: Tensor) -> Tensor:
    return aligned(torch.Tensor.exp_, scores.sub_(highest))


def _attend_singles(q: Tensor, out: Tensor, cache: PagedKvCache, *, layer: int, group: SingleGroup, tile: int) -> None:
    kv_heads, dim = cache.kv_heads, cache.head_dim
    seqs, per = len(group.rows), q.shape[1] // kv_heads
    queries = q.new_zeros((seqs, kv_heads, _padded(per), dim))
    queries[:, :, :per] = q.index_select(0, group.rows).view(seqs, kv_heads, per, dim)
    if group.pair_seq is not None:
        queries = queries.index_select(0, group.pair_seq)
    pairs = len(queries)
    keys = cache.pages(layer, group.keys).view(pairs * kv_heads, tile, dim)
    scores = (
        torch.bmm(queries.view(pairs * kv_heads, -1, dim), keys.transpose(1, 2)).float().view(pairs, kv_heads, -1, tile)
    )
    scores.masked_fill_(group.masked, -torch.inf)
    highest = scores.amax(-1, keepdim=True)
    if group.pair_seq is not None:
        best = highest[:seqs].clone()
        for begin, count in _later_tiles(group.counts):
            torch.maximum(best[:count], highest[begin : begin + count], out=best[:count])
        highest = best.index_select(0, group.pair_seq)
    weights = _weights(scores, highest)
    values = cache.pages(layer, group.values).view(pairs * kv_heads, tile, dim)
    part = (
        torch.bmm(weights.view(pairs * kv_heads, -1, tile).to(q.dtype), values).float().view(pairs, kv_heads, -1, dim)
    )
    norm = weights.sum(-1, keepdim=True)
    total, totals = part[:seqs], norm[:seqs]
    for begin, count in _later_tiles(group.counts):
        total[:count] += part[begin : begin + count]
        totals[:count] += norm[begin : begin + count]
    result = (total / totals)[:, :, :per].reshape(seqs, -1, dim)
    out.index_copy_(0, group.rows, result.to(out.dtype))


def _later_tiles(counts: tuple[int, ...]) -> list[tuple[int, int]]:
    """(first pair, number of pairs) of the tiles after the first."""
    begin, found = counts[0], []
    for count in counts[1:]:
        found.append((begin, count))
        begin += count
    return found


def _attend_chunk(q: Tensor, out: Tensor, cache: PagedKvCache, *, layer: int, chunk: PrefillRows, tile: int) -> None:
    kv_heads, dim = cache.kv_heads, cache.head_dim
    per = q.shape[1] // kv_heads
    keys = cache.pages(layer, chunk.keys).view(kv_heads, -1, dim).transpose(1, 2)
    values = cache.pages(layer, chunk.values).view(kv_heads, -1, dim)
    for block in chunk.blocks:
        count, length = block.tokens, block.tiles * tile
        used = count * per
        rows = slice(block.first, block.first + count)
        queries = q.new_zeros((kv_heads, _padded(used), dim))
        queries[:, :used] = q[rows].view(count, kv_heads, per, dim).transpose(0, 1).reshape(kv_heads, used, dim)
        scores = torch.bmm(queries, keys[:, :, :length]).float()
        scores[:, :used].view(kv_heads, count, per, length).masked_fill_(block.masked, -torch.inf)
        weights = _weights(scores, scores.amax(-1, keepdim=True))
        norms = weights.view(kv_heads, -1, block.tiles, tile).sum(-1)
        weights = weights.to(q.dtype)
        total, norm = torch.bmm(weights[:, :, :tile], values[:, :tile]).float(), norms[..., :1]
        for j in range(1, block.tiles):
            keep = slice(j * tile, (j + 1) * tile)
            total += torch.bmm(weights[:, :, keep], values[:, keep])
            norm = norm + norms[..., j : j + 1]
        result = (total / norm)[:, :used].view(kv_heads, count, per, dim).transpose(0, 1)
        out[rows] = result.reshape(count, kv_heads * per, dim)
