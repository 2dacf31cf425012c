"""Paged attention in plain torch: the reference that later kernels are compared with.

Every row's bits are the same whoever shares its step and however its prompt was cut into chunks:

* keys are multiplied tile by tile and summed up stripe by stripe, both at absolute positions (`tiles.py`). What a row
  does not see is not visited, or adds exact zeros; tiles are added in order; within a stripe the maximum is taken over
  all tiles first, so no rescaling depends on the order; stripes are joined in order (`softmax.py`);
* all products are [rows, head_dim] x [head_dim, tile] and [rows, tile] x [tile, head_dim], and their numbers of rows
  are such that they do not matter on this machine (`rows.py`);
* scores, sums of weights and results are fp32 whatever the cache holds, and `exp` goes through `elementwise.aligned`,
  because its vector and scalar versions round differently.

Slices of one token are worked on together, longer ones one by one. A context of one stripe (2,048 positions) has plain
softmax; of longer ones only one stripe's keys and scores are held at a time, so memory does not grow with the context.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from argosy_worker.compute.attention import softmax
from argosy_worker.compute.attention.cache import PagedKvCache
from argosy_worker.compute.attention.kv_types import spread
from argosy_worker.compute.attention.rows import Rows
from argosy_worker.compute.attention.softmax import LOWEST, Sums
from argosy_worker.compute.attention.tiles import (
    STRIPE,
    ChunkStripe,
    Piece,
    SingleGroup,
    SingleStripe,
    Tiles,
    make_tiles,
)
from argosy_worker.compute.config import LayerSpec
from argosy_worker.core.layout import StepLayout


class PagedTorch:
    """An `AttentionBackend` over a `PagedKvCache`, for layers of these specs."""

    def __init__(self, cache: PagedKvCache, rows: Rows, specs: Sequence[LayerSpec], *, stripe: int = STRIPE) -> None:
        self.cache = cache
        self._rows, self._specs, self._stripe = rows, specs, stripe
        self._windows = [spec.window for spec in specs]
        self._layout: StepLayout | None = None
        self._tiles: Tiles | None = None

    @property
    def layout(self) -> StepLayout:
        """The step that was prepared last."""
        if self._layout is None:
            raise RuntimeError("attend before prepare")
        return self._layout

    def prepare(self, layout: StepLayout) -> None:
        """Take up a step; its index tensors are made when a layer first wants them."""
        self._layout, self._tiles = layout, None

    def _tiled(self) -> Tiles:
        spec = self.cache.spec
        return make_tiles(
            self.layout,
            kv_heads=spec.kv_heads,
            head_dim=spec.head_dim,
            rows=self._rows,
            device=self.cache.device,
            windows=sorted(set(self._windows)),
            stripe=self._stripe,
        )

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, sinks: Tensor | None = None) -> Tensor:
        """Store keys and values and attend, as the protocol says."""
        if self._tiles is None:
            self._tiles = self._tiled()
        if self.cache.coded:  # products of two rows that are turned alike are what they were
            q, k = spread(q), spread(k)
        self.cache.write(layer, self._tiles.writes, torch.cat((k, v), 1))
        view, spec = self._tiles.views[self._windows[layer]], self._specs[layer]
        one = _Layer(self.cache, self._rows, self._tiles.tile, layer, spec.softcap, sinks)
        scaled, out = q * spec.scale, torch.empty_like(q)
        for group in view.singles:
            one.singles(scaled, out, group)
        for stripes in view.chunks:
            one.chunk(scaled, out, stripes)
        return out


class _Layer:
    """Attention of one layer in one step."""

    def __init__(  # noqa: PLR0917  # what a layer has
        self, cache: PagedKvCache, rows: Rows, tile: int, number: int, softcap: float, sinks: Tensor | None
    ) -> None:
        self._cache, self._rows, self._tile, self._number = cache, rows, tile, number
        self._softcap, self._sinks = softcap, sinks
        self._kv_heads, self._dim = cache.spec.kv_heads, cache.spec.head_dim

    def _load(self, pages: Tensor) -> Tensor:
        """Tiles of keys or values: [tiles * kv_heads, tile, head_dim]."""
        return self._cache.pages(self._number, pages).view(-1, self._tile, self._dim)

    def _scores(self, queries: Tensor, keys: Tensor) -> Tensor:
        """[tiles * kv_heads, rows, head_dim] -> fp32 [tiles, kv_heads, rows, tile], capped."""
        scores = torch.bmm(queries, keys.transpose(1, 2)).float()
        return softmax.soft_cap(scores.view(-1, self._kv_heads, queries.shape[1], self._tile), self._softcap)

    def _parts(self, weights: Tensor, values: Tensor) -> Tensor:
        """fp32 [tiles, kv_heads, rows, tile] x [tiles * kv_heads, tile, head_dim]: the tiles' sums, fp32."""
        rows = weights.shape[2]
        parts = torch.bmm(weights.view(-1, rows, self._tile).to(values.dtype), values).float()
        return parts.view(-1, self._kv_heads, rows, self._dim)

    # --- slices of one token

    def singles(self, q: Tensor, out: Tensor, group: SingleGroup) -> None:
        """Attend for the rows of a group."""
        seqs, per = len(group.rows), q.shape[1] // self._kv_heads
        queries = q.new_zeros((seqs, self._kv_heads, self._rows.padded(per), self._dim))
        queries[:, :, :per] = q.index_select(0, group.rows).view(seqs, self._kv_heads, per, self._dim)
        sums = None
        for stripe in group.stripes:
            if sums is None and stripe.members is not None:
                sums = softmax.nothing(queries.float())
            sums = self._join(queries, stripe, sums)
        if sums is None:
            raise RuntimeError("a row sees no key")
        sink = None if self._sinks is None else self._sinks.view(self._kv_heads, per, 1)
        result = softmax.finish(Sums(*(part[:, :, :per] for part in sums)), sink)
        out.index_copy_(0, group.rows, result.reshape(seqs, -1, self._dim).to(out.dtype))

    def _join(self, queries: Tensor, stripe: SingleStripe, sums: Sums | None) -> Sums:
        """Sums of all sequences, with the stripe's."""
        if stripe.members is None:
            more = self._single_stripe(queries, stripe, None if sums is None else sums.highest)
            return more if sums is None else softmax.add(sums, more)
        if sums is None:
            raise RuntimeError("sums of some sequences without those of the others")
        before = Sums(*(part.index_select(0, stripe.members) for part in sums))
        more = self._single_stripe(queries.index_select(0, stripe.members), stripe, before.highest)
        for part, new in zip(sums, softmax.add(before, more), strict=True):
            part.index_copy_(0, stripe.members, new)
        return sums

    def _single_stripe(self, queries: Tensor, stripe: SingleStripe, before: Tensor | None) -> Sums:
        """Sums of the members; `before`: their highest scores so far."""
        count = len(queries)
        if stripe.pair_seq is not None:
            queries = queries.index_select(0, stripe.pair_seq)
        scores = self._scores(queries.flatten(0, 1), self._load(stripe.keys)).masked_fill_(stripe.masked, -torch.inf)
        highest = scores.amax(-1, keepdim=True).clamp_(min=LOWEST)
        best = highest[:count] if stripe.pair_seq is None else highest[:count].clone()
        for begin, size in _later_tiles(stripe.counts):
            torch.maximum(best[:size], highest[begin : begin + size], out=best[:size])
        best = best if before is None else torch.maximum(best, before)
        weights = softmax.weigh(scores, best if stripe.pair_seq is None else best.index_select(0, stripe.pair_seq))
        parts, shares = self._parts(weights, self._load(stripe.values)), weights.sum(-1, keepdim=True)
        total, norm = parts[:count], shares[:count]
        for begin, size in _later_tiles(stripe.counts):
            total[:size] += parts[begin : begin + size]
            norm[:size] += shares[begin : begin + size]
        return Sums(best, norm, total)

    # --- slices of several tokens

    def chunk(self, q: Tensor, out: Tensor, stripes: Sequence[ChunkStripe]) -> None:
        """Attend for the rows of a slice."""
        under_way: dict[int, Sums] = {}
        for stripe in stripes:
            keys, values = self._load(stripe.keys), self._load(stripe.values)
            for piece in stripe.pieces:
                sums = self._piece(q, keys, values, piece, under_way.pop(piece.block, None))
                if piece.last:
                    out[piece.first : piece.first + piece.tokens] = self._finish(sums, piece.tokens, q.shape[1])
                else:
                    under_way[piece.block] = sums

    def _piece(self, q: Tensor, keys: Tensor, values: Tensor, piece: Piece, before: Sums | None) -> Sums:
        """Sums of a block's rows [kv_heads, rows, ...], with a stripe's."""
        kv_heads, dim, per = self._kv_heads, self._dim, q.shape[1] // self._kv_heads
        count, used = piece.tokens, piece.tokens * per
        queries = q.new_zeros((kv_heads, self._rows.padded(used), dim))
        mine = q[piece.first : piece.first + count]
        queries[:, :used] = mine.view(count, kv_heads, per, dim).transpose(0, 1).reshape(kv_heads, used, dim)
        # [tiles * kv_heads, ...]: all products of a block in one call, which keeps all threads busy
        there = slice(piece.begin * kv_heads, (piece.begin + piece.tiles) * kv_heads)
        scores = self._scores(queries.repeat(piece.tiles, 1, 1), keys[there])
        for first, masked in piece.masks:
            partly = scores[first : first + len(masked), :, :used]
            partly.view(len(masked), kv_heads, count, per, -1).masked_fill_(masked, -torch.inf)
        highest = scores.amax(-1, keepdim=True).amax(0).clamp_(min=LOWEST)
        if before is not None:
            highest = torch.maximum(highest, before.highest)
        weights = softmax.weigh(scores, highest)
        parts, shares = self._parts(weights, values[there]), weights.sum(-1, keepdim=True)
        total, norm = parts[0], shares[0]
        for part, share in zip(parts[1:], shares[1:], strict=True):
            total += part
            norm += share
        if before is not None:
            return softmax.add(before, Sums(highest, norm, total))
        # a copy where they outlive the stripe: all tiles' parts would stay with them
        return Sums(highest, norm, total) if piece.last else Sums(highest, norm.clone(), total.clone())

    def _finish(self, sums: Sums, count: int, heads: int) -> Tensor:
        """[kv_heads, rows, ...] -> [tokens, heads, head_dim]."""
        kv_heads, per = self._kv_heads, heads // self._kv_heads
        used = count * per
        sink = None
        if self._sinks is not None:
            sink = self._sinks.view(kv_heads, 1, per).expand(-1, count, -1).reshape(kv_heads, used, 1)
        result = softmax.finish(Sums(*(part[:, :used] for part in sums)), sink)
        return result.view(kv_heads, count, per, self._dim).transpose(0, 1).reshape(count, heads, self._dim)


def _later_tiles(counts: tuple[int, ...]) -> list[tuple[int, int]]:
    """(first pair, number of pairs) of the tiles after the first."""
    begin, found = counts[0], []
    for count in counts[1:]:
        found.append((begin, count))
        begin += count
    return found
