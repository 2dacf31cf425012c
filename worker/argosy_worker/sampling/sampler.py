"""Picking tokens from logits. The order, for each row, is that of vLLM (docs/sampling.md):

     1. raw logits -> log-probabilities (for `logprobs`; natural log of softmax, before anything else)
     2. allowed tokens: all others get minus infinity
     3. bad words, and what would end the request before its min_tokens: minus infinity
     4. logit bias: added
     5. penalties: repetition (prompt and answer), then frequency, then presence (answer)
     6. greedy (temperature 0): the highest logit, the lowest id among equals; done
     7. temperature: divide
     8. min-p: keep what is at least so probable as this part of the most likely
     9. top-k: keep the k highest; the lowest ids among equals at the edge
    10. top-p: keep the smallest set, most likely first, whose probability after 9 reaches p
    11. typical-p: keep those whose information is nearest to the entropy of what 10 left, until p is reached
    12. draw from what is left by inverse CDF, with the number of (seed, position)

Steps 2 to 5 change all rows of a batch in one pass (`rows`), 7 to 12 are done row by row (`draw`), on GPUs for all
rows at once (`together`). A row's token
depends on its own logits, history and number only. All of it runs on one thread: two share a sum differently than
one, as was seen with a logsumexp of 151,936. A row with a NaN or an infinity of the model's own has no answer and says
so; the others go on.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from argosy_worker.core.batch import TokenLogprob
from argosy_worker.sampling import together
from argosy_worker.sampling.contract import Sampler
from argosy_worker.sampling.draw import draw
from argosy_worker.sampling.rng import uniform
from argosy_worker.sampling.rows import Row, edited


def healthy(logits: Tensor) -> list[bool]:
    """Whether each row of fp32 [n, vocab], as the model gave it, is finite. (Finite sums do not overflow fp32.)"""
    found: list[bool] = logits.sum(-1).isfinite().tolist()
    return found


def pick(logits: Tensor, rows: Sequence[Row]) -> list[int]:
    """Tokens for fp32 [n, vocab], all rows healthy. `logits` stay as they are. That of a stuck row means nothing."""
    with _one_thread():
        logits = edited(logits, rows)
        tokens: list[int] = logits.argmax(-1).tolist()
        for i, row in enumerate(rows):
            if not (row.params.greedy or row.stuck):
                tokens[i] = draw(logits[i], row.params, uniform(row.seed, row.position))
    return tokens


class Scores(NamedTuple):
    """Of n rows, on their device: nobody has waited for it."""

    chosen: Tensor
    """fp32 [n]: log-probability of each row's token."""
    best: Tensor
    """fp32 [n, k]: the highest log-probabilities."""
    ids: Tensor
    """int64 [n, k]: whose they are."""


def scores(logits: Tensor, tokens: Tensor, most: int) -> Scores:
    """Log-probabilities under fp32 [n, vocab] of int64 [n] tokens, and of the `most` best; waits for nothing."""
    with _one_thread():
        normal = logits - logits.logsumexp(-1, keepdim=True)
    best, ids = normal.topk(most, -1) if most else (normal[:, :0], tokens[:, None][:, :0])
    return Scores(normal.gather(1, tokens[:, None])[:, 0], best, ids)


def listed(found: Scores, tokens: Sequence[int], tops: Sequence[int]) -> list[TokenLogprob]:
    """The same as the caller wants it: of row i the `tops[i]` best, at most as many as there are."""
    answers = []
    rows = zip(tokens, tops, found.chosen.tolist(), found.ids.tolist(), found.best.tolist(), strict=True)
    for token, top, chosen, ids, values in rows:
        ranked = sorted(zip(ids, values, strict=True), key=lambda pair: (-pair[1], pair[0]))[:top]
        answers.append(TokenLogprob(token=token, logprob=chosen, top=tuple(ranked)))
    return answers


def logprobs(logits: Tensor, tokens: Sequence[int], tops: Sequence[int]) -> list[TokenLogprob]:
    """Log-probability of `tokens[i]` and of the `tops[i]` best tokens under row i of fp32 [n, vocab]."""
    found = scores(logits, torch.tensor(tokens, device=logits.device), max(tops, default=0))
    return listed(found, tokens, tops)


TORCH = Sampler(healthy, pick, logprobs)
CUDA = Sampler(healthy, pick, logprobs, at_once=together.sample)
"""The same tokens with one copy from the device for each step."""


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
