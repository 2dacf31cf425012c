"""Tokens from logits on the native kernels: what `sampling.draw` does in torch, all rows in one call."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from argosy_worker.compute.native import library
from argosy_worker.compute.native.crew import Crew
from argosy_worker.sampling.draw import draw
from argosy_worker.sampling.rng import uniform
from argosy_worker.sampling.rows import Row, edited
from argosy_worker.sampling.sampler import Sampler


def sampler(crew: Crew) -> Sampler:
    """One that a crew works for. Rows with typical-p are drawn in torch."""

    def healthy(logits: Tensor) -> list[bool]:
        logits = logits.contiguous()
        rows, vocab = logits.shape
        fine = np.empty(rows, dtype=np.bool_)
        crew.healthy(logits.data_ptr(), rows, vocab, fine.ctypes.data)
        found: list[bool] = fine.tolist()
        return found

    def pick(logits: Tensor, rows: Sequence[Row]) -> list[int]:
        logits = edited(logits, rows).contiguous()
        draws = (library.Draw * len(rows))(*map(_draw, rows))
        picked = torch.empty(len(rows), dtype=torch.int32)
        crew.pick(logits.data_ptr(), draws, logits.shape[-1], picked.data_ptr())
        tokens: list[int] = picked.tolist()
        for i, row in enumerate(rows):
            if row.params.typical_p < 1 and not row.params.greedy:
                tokens[i] = draw(logits[i], row.params, uniform(row.seed, row.position))
        return tokens

    return Sampler(healthy, pick)


def _draw(row: Row) -> library.Draw:
    params = row.params
    if params.greedy or params.typical_p < 1:
        return library.Draw(temperature=0.0)
    return library.Draw(
        temperature=params.temperature,
        least=math.log(params.min_p) if params.min_p > 0 else -math.inf,
        top_p=params.top_p,
        u=uniform(row.seed, row.position),
        top_k=params.top_k,
    )
