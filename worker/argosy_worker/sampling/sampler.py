"""Picking tokens from logits. The order, for each row:

    1. raw logits -> log-probabilities (for `logprobs`; natural log of softmax, before anything else)
    2. tokens that are barred get minus infinity (those that would end the request before its min_tokens)
    3. greedy (temperature 0): the highest logit, the lowest id among equals; done
    4. temperature: divide
    5. top-k: keep the k highest; the lowest ids among equals at the edge
    6. top-p: keep the smallest set, most likely first, whose probability after 5 reaches p
    7. draw from what is left by inverse CDF, with the number of (seed, position)

Rows are worked on one by one, so that a row's token depends on its own logits and its own number only. A row with a
NaN or an infinity of the model's own has no answer and says so; the others go on.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from argosy_api.params import SamplingParams
from argosy_worker.core.batch import TokenLogprob
from argosy_worker.sampling.rng import uniform

_CANDIDATES = 1024
"""Tokens that top-p sorts first; all are sorted only when these do not reach p."""


@dataclass(frozen=True, slots=True)
class Row:
    """What one row of logits is sampled with."""

    params: SamplingParams
    seed: int
    position: int
    """Of the token to be drawn, in the sequence."""
    barred: Sequence[int] = ()
    """Ids that may not be taken; never all of them."""


def healthy(logits: Tensor) -> list[bool]:
    """Whether each row of fp32 [n, vocab], as the model gave it, is finite. (Finite sums do not overflow fp32.)"""
    found: list[bool] = logits.sum(-1).isfinite().tolist()
    return found


def pick(logits: Tensor, rows: Sequence[Row]) -> list[int]:
    """Tokens for fp32 [n, vocab], all rows healthy. `logits` stay as they are."""
    pairs = [(i, token) for i, row in enumerate(rows) for token in row.barred]
    if pairs:
        logits = logits.clone()
        at, ids = torch.tensor(pairs, device=logits.device).T
        logits[at, ids] = -torch.inf
    tokens: list[int] = logits.argmax(-1).tolist()
    for i, row in enumerate(rows):
        if not row.params.greedy:
            tokens[i] = draw(logits[i], row.params, uniform(row.seed, row.position))
    return tokens


def draw(logits: Tensor, params: SamplingParams, u: float) -> int:
    """Steps 4 to 7 for one row fp32 [vocab], with the uniform number u in [0, 1)."""
    # minus the maximum first, so that no temperature, however small, can overflow
    scaled = (logits - logits.max()).double().div_(params.temperature)
    vocab = len(scaled)
    top_k = params.top_k if 0 < params.top_k < vocab else vocab
    if params.top_p >= 1 and top_k == vocab:
        return _inverse(scaled.exp_(), u)
    total = None
    if top_k < vocab:
        kept = _highest(scaled, top_k)
    else:
        total = scaled.exp().sum()
        kept = _highest(scaled, min(_CANDIDATES, vocab))
    weights = scaled[kept].exp()
    if params.top_p < 1:
        goal = params.top_p * float(weights.sum() if total is None else total)
        running = weights.cumsum(0)
        if float(running[-1]) < goal and len(kept) < top_k:
            kept = _highest(scaled, vocab)
            weights = scaled[kept].exp()
            running = weights.cumsum(0)
        count = min(int(torch.searchsorted(running, goal)) + 1, len(kept))
        kept, weights = kept[:count], weights[:count]
    return int(kept[_inverse(weights, u)])


def _highest(scaled: Tensor, k: int) -> Tensor:
    """Ids of the k highest, highest first, the lowest id first among equals: int64 [k]."""
    if k == len(scaled):
        candidates = torch.arange(k, device=scaled.device)
    else:
        edge = scaled.topk(k, sorted=False).values.min()
        above, at = (scaled > edge).nonzero()[:, 0], (scaled == edge).nonzero()[:, 0]
        candidates = torch.cat((above, at[: k - len(above)])).sort().values
    order = scaled[candidates].sort(descending=True, stable=True).indices
    return candidates[order]


def _inverse(weights: Tensor, u: float) -> int:
    """First index whose running sum exceeds u times the total; never one of weight 0."""
    running = weights.cumsum(0)
    index = int(torch.searchsorted(running, u * float(running[-1]), right=True))
    return min(index, int(weights.nonzero()[-1]))


def logprobs(logits: Tensor, tokens: Sequence[int], tops: Sequence[int]) -> list[TokenLogprob]:
    """Log-probability of `tokens[i]` and of the `tops[i]` best tokens under row i of fp32 [n, vocab]."""
    normal = logits - logits.logsumexp(-1, keepdim=True)
    most = max(tops, default=0)
    chosen = normal.gather(1, torch.tensor(tokens, device=normal.device)[:, None])[:, 0].tolist()
    best = normal.topk(most, -1) if most else None
    found = []
    for i, (token, top) in enumerate(zip(tokens, tops, strict=True)):
        ranked: list[tuple[int, float]] = []
        if top and best is not None:
            pairs = zip(best.indices[i].tolist(), best.values[i].tolist(), strict=True)
            ranked = sorted(pairs, key=lambda pair: (-pair[1], pair[0]))[:top]
        found.append(TokenLogprob(token=token, logprob=chosen[i], top=tuple(ranked)))
    return found
