"""Steps 7 to 12 of the order (`sampler`) for all rows at once, for a device that is slow to answer.

What `draw` asks the device for row by row is computed on it for all rows; one copy brings tokens and marks back. The
operations are those of `draw`, on the same numbers in the same order, and what it leaves out is here a weight of 0,
which changes no running sum: so are the tokens. Rows for which something would have to be asked first (typical-p, a
nucleus beyond the first candidates) are marked, and drawn by `draw`.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from argosy_api.params import SamplingParams
from argosy_worker.arrays import sent
from argosy_worker.sampling.contract import Picked
from argosy_worker.sampling.draw import draw
from argosy_worker.sampling.rng import uniform
from argosy_worker.sampling.rows import Row, edited

CANDIDATES = 1024
"""Tokens that top-k and top-p choose from; as many as `draw` looks at first."""
ROWS_AT_ONCE = 64
"""Whose logits are held in fp64 besides."""


class Drawn(NamedTuple):
    """Of n rows of logits, on their device: nobody has waited for it."""

    tokens: Tensor
    """int64 [n]: each is one of the vocabulary, whatever the row."""
    fine: Tensor
    """bool [n]: whether the row, as the model gave it, is finite."""
    done: Tensor
    """bool [n]: whether the token is the one that `draw` gives."""
    logits: Tensor
    """As the rows' parameters want them."""


def begin(logits: Tensor, rows: Sequence[Row]) -> Drawn:
    """Draw from fp32 [n, vocab], and wait for nothing."""
    fine = logits.sum(-1).isfinite()
    changed = edited(logits, rows)
    tokens = changed.argmax(-1)
    done = torch.ones_like(fine)
    drawn = [i for i, row in enumerate(rows) if not row.params.greedy]
    for first in range(0, len(drawn), ROWS_AT_ONCE):
        some = drawn[first : first + ROWS_AT_ONCE]
        whole = len(some) == len(rows)
        at = sent(np.array(some), logits.device)
        found, reached = _draw(changed if whole else changed.index_select(0, at), [rows[i] for i in some])
        tokens.index_copy_(0, at, found)
        done.index_copy_(0, at, reached)
    return Drawn(tokens, fine, done, changed)


def packed(drawn: Drawn, *more: Tensor | None) -> Tensor:
    """All that is to be told of the rows, and `more` where there is some, for one copy: int64 [3 n + more]."""
    return torch.cat([part.to(torch.int64) for part in (*drawn[:3], *more) if part is not None])


def told(logits: Tensor | None, rows: Sequence[Row], numbers: Sequence[int]) -> tuple[Picked, list[int]]:
    """What was `packed`, on the host; and the rows whose token was another one, which `draw` has drawn now.

    `logits`: as the rows' parameters want them; None where all rows are `surely` done.
    """
    count = len(rows)
    picked, healthy = list(numbers[:count]), [bool(mark) for mark in numbers[count : 2 * count]]
    changed = []
    for i, (mark, sound) in enumerate(zip(numbers[2 * count : 3 * count], healthy, strict=True)):
        if not mark and sound and not rows[i].stuck and logits is not None:
            token = draw(logits[i], rows[i].params, uniform(rows[i].seed, rows[i].position))
            if token != picked[i]:
                picked[i] = token
                changed.append(i)
    return Picked(picked, healthy, [bool(mark) for mark in numbers[3 * count :]]), changed


def sample(logits: Tensor, rows: Sequence[Row], marks: Tensor | None = None) -> Picked:
    """As `Sampler.sample` says, in one copy from the device."""
    drawn = begin(logits, rows)
    picked, _ = told(drawn.logits, rows, packed(drawn, marks).tolist())
    return picked


def surely(params: SamplingParams, vocab: int) -> bool:
    """Whether `done` is known beforehand."""
    top_k = _top_k(params, vocab)
    if params.greedy or params.typical_p < 1 or CANDIDATES < top_k < vocab:
        return params.greedy
    return top_k < vocab or params.top_p >= 1 or vocab <= CANDIDATES


def _draw(logits: Tensor, rows: Sequence[Row]) -> tuple[Tensor, Tensor]:
    """Tokens int64 [n] of fp32 [n, vocab], and whether each is the one that `draw` gives."""
    vocab, params = logits.shape[1], [row.params for row in rows]
    numbers: Tensor = sent(np.array([_fields(row, vocab) for row in rows]), logits.device)
    temperature, least, top_k, top_p, u, able = numbers.t()[:, :, None]
    scaled = (logits - logits.amax(-1, keepdim=True)).double().div_(temperature)
    left = torch.full_like(top_k, vocab)
    if any(one.min_p > 0 for one in params):
        scaled.masked_fill_(scaled < least, -math.inf)
        left = torch.where(least > -math.inf, (scaled > -math.inf).sum(-1, keepdim=True), left)
    top_k = torch.where(top_k < left, top_k, vocab)
    cut = (top_p < 1) | (top_k < vocab)
    tokens, known = torch.zeros_like(cut, dtype=torch.int64), able > 0
    if not all(_cut(one, vocab) and one.min_p == 0 for one in params):
        tokens = _inverse(scaled.exp(), u)
    if any(_cut(one, vocab) for one in params):
        most = min(vocab, max(_candidates(one, vocab) for one in params))
        kept = _highest(scaled, most)
        place = torch.arange(most, device=logits.device)
        weights = scaled.gather(1, kept).exp().masked_fill_(place >= top_k, 0.0)
        running = weights.cumsum(-1)
        total = torch.where(top_k < vocab, running[:, -1:], _total(scaled, params))
        goal = top_p * total
        enough = torch.where(top_p < 1, torch.searchsorted(running, goal) + 1, vocab)
        found = kept.gather(1, _inverse(weights.masked_fill_(place >= enough, 0.0), u))
        tokens = torch.where(cut, found, tokens)
        known &= ~cut | (top_k < vocab) | (running[:, -1:] >= goal) | (left <= most)
    return tokens[:, 0], known[:, 0]


def _total(scaled: Tensor, params: Sequence[SamplingParams]) -> Tensor:
    """Sums of all weights: fp64 [n, 1], for the rows whose nucleus is a part of them."""
    if all(_top_k(one, scaled.shape[1]) < scaled.shape[1] and one.min_p == 0 for one in params):
        return scaled.new_zeros((len(scaled), 1))
    return scaled.exp().cumsum(-1)[:, -1:]


def _cut(params: SamplingParams, vocab: int) -> bool:
    """Whether only some of the tokens may be drawn, by top-k or top-p."""
    return params.top_p < 1 or _top_k(params, vocab) < vocab


def _fields(row: Row, vocab: int) -> list[float]:
    params = row.params
    able = params.typical_p >= 1 and (_top_k(params, vocab) <= CANDIDATES or _top_k(params, vocab) == vocab)
    least = math.log(params.min_p) if params.min_p > 0 else -math.inf
    return [
        params.temperature,
        least,
        float(_top_k(params, vocab)),
        params.top_p,
        uniform(row.seed, row.position),
        float(able),
    ]


def _top_k(params: SamplingParams, vocab: int) -> int:
    """Tokens that top-k keeps."""
    return params.top_k if 0 < params.top_k < vocab else vocab


def _candidates(params: SamplingParams, vocab: int) -> int:
    """How many of the highest a row is drawn from."""
    top_k = _top_k(params, vocab)
    if top_k < vocab:
        return min(top_k, CANDIDATES)
    return CANDIDATES if params.top_p < 1 else 1


def _highest(scaled: Tensor, k: int) -> Tensor:
    """Ids of each row's k highest, highest first, the lowest id first among equals: int64 [n, k]."""
    vocab = scaled.shape[1]
    if k == vocab:
        found: Tensor = torch.sort(scaled, dim=-1, descending=True, stable=True).indices
        return found
    edge = scaled.topk(k, -1).values[:, -1:]
    above, at = scaled > edge, scaled == edge
    room = k - above.sum(-1, keepdim=True)
    chosen = above | (at & (at.cumsum(-1) <= room))
    ids = torch.arange(vocab, device=scaled.device).expand_as(scaled)
    kept = ids.masked_fill(~chosen, vocab).topk(k, -1, largest=False, sorted=True).values.clamp_(max=vocab - 1)
    order = torch.sort(scaled.gather(1, kept), dim=-1, descending=True, stable=True).indices
    return kept.gather(1, order)


def _inverse(weights: Tensor, u: Tensor) -> Tensor:
    """Of each row the first index whose running sum exceeds u times the total; never one of weight 0: int64 [n, 1]."""
    running = weights.cumsum(-1)
    index = torch.searchsorted(running, u * running[:, -1:], right=True)
    ids = torch.arange(weights.shape[1], device=weights.device)
    last = torch.where(weights > 0, ids, 0).amax(-1, keepdim=True)
    return torch.minimum(index, last)
