"""From one row of logits to a token: steps 7 to 12 of the order (`sampler`).

All sums are running sums, which are taken one after another: those of `sum` depend on the number of threads.
"""

import math

import torch
from torch import Tensor

from argosy_api.params import SamplingParams

_CANDIDATES = 1024
"""Tokens that top-p sorts first; _GROWTH times as many, and so on, when these do not reach p."""
_GROWTH = 8


def draw(logits: Tensor, params: SamplingParams, u: float) -> int:
    """A token for one row fp32 [vocab], with the uniform number u in [0, 1)."""
    kept, weights = candidates(logits, params)
    index = _inverse(weights, u)
    return index if kept is None else int(kept[index])


def candidates(logits: Tensor, params: SamplingParams) -> tuple[Tensor | None, Tensor]:
    """Ids that a row fp32 [vocab] is drawn from (None: all, in order) and their weights, fp64; a weight may be 0."""
    # minus the maximum first, so that no temperature, however small, can overflow
    scaled = (logits - logits.max()).double().div_(params.temperature)
    likely = None
    if params.min_p > 0:
        likely = (scaled >= math.log(params.min_p)).nonzero()[:, 0]
        scaled = scaled[likely]
    kept, weights = _nucleus(scaled, params)
    if params.typical_p < 1:
        weights = _typical(weights, params.typical_p)
    if likely is not None:
        kept = likely if kept is None else likely[kept]
    return kept, weights


def _nucleus(scaled: Tensor, params: SamplingParams) -> tuple[Tensor | None, Tensor]:
    """Top-k, then top-p."""
    count = len(scaled)
    top_k = params.top_k if 0 < params.top_k < count else count
    if params.top_p >= 1 and top_k == count:
        return None, scaled.exp_()
    total = None
    if top_k < count:
        kept = _highest(scaled, top_k)
    else:
        total = scaled.exp().cumsum(0)[-1]
        kept = _highest(scaled, min(_CANDIDATES, count))
    weights = scaled[kept].exp()
    if params.top_p < 1:
        running = weights.cumsum(0)
        goal = params.top_p * float(running[-1] if total is None else total)
        while float(running[-1]) < goal and len(kept) < top_k:
            kept = _highest(scaled, min(_GROWTH * len(kept), count))
            weights = scaled[kept].exp()
            running = weights.cumsum(0)
        enough = min(int(torch.searchsorted(running, goal)) + 1, len(kept))
        kept, weights = kept[:enough], weights[:enough]
    return kept, weights


def _typical(weights: Tensor, mass: float) -> Tensor:
    """The same weights, 0 for those beyond the ones whose information is nearest to the entropy; ties stay together."""
    p = weights / weights.cumsum(0)[-1]
    information = -p.log()
    entropy = torch.where(p > 0, p * information, 0.0).cumsum(0)[-1]
    distance = torch.where(p > 0, (information - entropy).abs(), torch.inf)
    order = distance.sort(stable=True).indices
    enough = min(int((p[order].cumsum(0) < mass).sum()), len(order) - 1)
    return torch.where(distance <= distance[order[enough]], weights, 0.0)


def _highest(scaled: Tensor, k: int) -> Tensor:
    """Indices of the k highest, highest first, the lowest index first among equals: int64 [k]."""
    if k == len(scaled):
        chosen = torch.arange(k, device=scaled.device)
    else:
        edge = scaled.topk(k, sorted=False).values.min()
        above, at = (scaled > edge).nonzero()[:, 0], (scaled == edge).nonzero()[:, 0]
        chosen = torch.cat((above, at[: k - len(above)])).sort().values
    order = scaled[chosen].sort(descending=True, stable=True).indices
    return chosen[order]


def _inverse(weights: Tensor, u: float) -> int:
    """First index whose running sum exceeds u times the total; never one of weight 0."""
    running = weights.cumsum(0)
    index = int(torch.searchsorted(running, u * float(running[-1]), right=True))
    return min(index, int(weights.nonzero()[-1]))
