"""Launches of the attention kernels. Loads Triton."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from argosy_worker.compute.triton import tiles
from argosy_worker.compute.triton.kernels.attention import join_splits, paged_attention
from argosy_worker.compute.triton.kernels.cache import turn_and_store
from argosy_worker.compute.triton.step import StepArrays
from argosy_worker.compute.triton.tiles import Heads, Launch

_LOG2E = 1.4426950408889634
_SCALED_MOST = 1e37
"""As in `kv_types`: larger magnitudes of rows with a scale are cut off."""
_HEADS_AT_ONCE = 8
PLAIN, INT8, E4M3 = 0, 1, 2
"""How rows are held: as numbers, or as codes with a scale for each row."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pages:
    """A layer of the cache: elements [blocks, 2, kv_heads, page, head_dim], fp32 scales [blocks, 2, kv_heads, page]."""

    elements: Tensor
    scales: Tensor | None
    code: int
    """PLAIN, INT8 or E4M3."""

    @property
    def page(self) -> int:
        """Tokens of a block."""
        return self.elements.shape[3]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """How a layer's rows attend."""

    scale: float
    softcap: float
    window: int
    sinks: Tensor | None
    """fp32 [heads]."""


def attend(  # noqa: PLR0917  # what a launch takes
    q: Tensor, pages: Pages, scores: Scores, shape: Heads, step: StepArrays, launches: tuple[Launch, ...],
    *, multiprocessors: int, invariant: bool,
) -> Tensor:  # fmt: skip
    """Attention of a step's rows: q [rows, heads, head_dim], whose rows may lie apart -> the same, without gaps."""
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    for launch in launches:
        _launch(q, out, pages, scores, shape, step, launch, multiprocessors, invariant)
    return out


def _launch(  # noqa: PLR0917
    q: Tensor, out: Tensor, pages: Pages, scores: Scores, shape: Heads, step: StepArrays, launch: Launch,
    multiprocessors: int, invariant: bool,
) -> None:  # fmt: skip
    tile, kv_heads, dim = launch.tile, shape.kv_heads, shape.head_dim
    count = tiles.splits(launch, kv_heads, multiprocessors, scores.window, invariant=invariant)
    target, sums = out, out
    if count > 1:
        parts = launch.count * count * kv_heads
        target = torch.empty((parts, tile.rows, dim), dtype=torch.float32, device=q.device)
        sums = torch.empty((parts, 2, tile.rows), dtype=torch.float32, device=q.device)
    here = slice(launch.begin, launch.begin + launch.count)
    sequence, block = step.sequence[here], step.block[here]
    sinks = out if scores.sinks is None else scores.sinks
    paged_attention[launch.count, kv_heads, count](
        q, pages.elements, pages.elements if pages.scales is None else pages.scales, sinks, target, sums,
        step.table, step.cu_rows, step.context_lens, sequence, block,
        scores.scale * _LOG2E, scores.softcap, scores.window, q.stride(0), step.table.shape[1], count,
        H=shape.heads, KVH=kv_heads, D=dim, DP=shape.padded_dim, PAGE=pages.page, BM=tile.rows, BN=tile.keys,
        SPLIT=count > 1, CHUNK=tiles.CHUNK if invariant else tiles.SHORT_RANGE, SOFTCAP=scores.softcap > 0,
        WINDOW=scores.window > 0, CODE=pages.code, HAS_SINKS=scores.sinks is not None, INVARIANT=invariant,
        num_warps=tile.warps, num_stages=tile.stages, enable_fp_fusion=not invariant,
    )  # fmt: skip
    if count > 1:
        join_splits[launch.count, kv_heads, launch.tokens * shape.queries](
            target, sums, sinks, out, step.cu_rows, sequence, block, count,
            H=shape.heads, KVH=kv_heads, D=dim, DP=shape.padded_dim, BM=tile.rows,
            SP=16 if count <= 16 else tiles.MOST_SPLITS, HAS_SINKS=scores.sinks is not None, INVARIANT=invariant,
            num_warps=4, num_stages=1, enable_fp_fusion=not invariant,
        )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """What queries and keys go through before they meet."""

    cos: Tensor | None = None
    """[rows, 1, dims], as in `rope.Rotation`; None: no rotation."""
    sin: Tensor | None = None
    q_weight: Tensor | None = None
    """[head_dim], of an RMSNorm over each head; None: no norm."""
    k_weight: Tensor | None = None
    eps: float = 0.0


NOTHING = Turn()


def turn_and_write(  # noqa: PLR0917
    q: Tensor | None, k: Tensor, v: Tensor, pages: Pages, shape: Heads, slots: Tensor, turn: Turn = NOTHING
) -> Tensor | None:
    """Turn queries and keys, and store keys and values: q [rows, heads, head_dim], k and v [rows, kv_heads, head_dim].

    Rows may lie apart. `slots`: int32 [rows]. Returns the queries, without gaps; None where there are none.
    """
    dims = 0 if turn.cos is None else turn.cos.shape[-1]
    blocks = -(-shape.kv_heads // _HEADS_AT_ONCE)
    programs = 2 * blocks + (0 if q is None else -(-shape.heads // _HEADS_AT_ONCE))
    turned = k if q is None else torch.empty(q.shape, dtype=q.dtype, device=q.device)
    q_from = k if q is None else q
    most = _SCALED_MOST if pages.code else min(torch.finfo(k.dtype).max, torch.finfo(pages.elements.dtype).max)
    size = shape.head_dim & -shape.head_dim
    turn_and_store[len(k), programs](
        q_from, k, v, turned, pages.elements, pages.elements if pages.scales is None else pages.scales, slots,
        k if turn.cos is None else turn.cos, k if turn.sin is None else turn.sin,
        k if turn.q_weight is None else turn.q_weight, k if turn.k_weight is None else turn.k_weight,
        q_from.stride(0), k.stride(0), v.stride(0), turn.eps,
        H=shape.heads, KVH=shape.kv_heads, D=shape.head_dim, DP=shape.padded_dim, PAGE=pages.page, HB=_HEADS_AT_ONCE,
        DIMS=dims, NORM=turn.q_weight is not None, CODE=pages.code, STAGES=size.bit_length() - 1,
        FACTOR=1 / math.sqrt(size), MOST=most, QUERIES=q is not None, num_warps=4, num_stages=1,
    )  # fmt: skip
    return None if q is None else turned
