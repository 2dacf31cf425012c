"""Tokens from logits on the native kernels: what `sampling.draw` does in torch, all rows in one call."""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from argosy_api.params import SamplingParams
from argosy_worker.arrays import Array, address, is_numpy, solid, to_torch
from argosy_worker.compute.native import library
from argosy_worker.compute.native.crew import Crew
from argosy_worker.core.batch import TokenLogprob
from argosy_worker.sampling.contract import Sampler
from argosy_worker.sampling.rng import uniform
from argosy_worker.sampling.rows import Row, closed, edited

Floats = npt.NDArray[np.float32]


def sampler(crew: Crew) -> Sampler:
    """One that a crew works for. Rows with typical-p are drawn in torch, which is loaded for the first of them."""

    def healthy(logits: Array) -> list[bool]:
        logits = solid(logits)
        rows, vocab = logits.shape
        fine = np.empty(rows, dtype=np.bool_)
        crew.healthy(address(logits), rows, vocab, address(fine))
        found: list[bool] = fine.tolist()
        return found

    def pick(logits: Array, rows: Sequence[Row]) -> list[int]:
        logits = solid(edited(logits, rows, masks=False))
        draws = (library.Draw * len(rows))(*(draw_of(row.params, row.seed, row.position, row.open) for row in rows))
        picked = np.empty(len(rows), dtype=np.int32)
        crew.pick(address(logits), draws, logits.shape[-1], address(picked))
        tokens: list[int] = picked.tolist()
        for i, row in enumerate(rows):
            if row.params.typical_p < 1 and not row.params.greedy:
                tokens[i] = _typical(closed(logits[i : i + 1], [row])[0], row)
        return tokens

    return Sampler(healthy, pick, logprobs)


def logprobs(logits: Array, tokens: Sequence[int], tops: Sequence[int]) -> list[TokenLogprob]:
    """Log-probability of `tokens[i]` and of the `tops[i]` best tokens under row i of fp32 [n, vocab].

    Each row by itself, in memory of its own: its bits depend neither on its place nor on its company.
    """
    rows: Floats = logits if is_numpy(logits) else logits.numpy()
    found = []
    for row, token, top in zip(rows, tokens, tops, strict=True):
        highest = row.max()
        weights = np.exp(row - highest)
        total = float(highest) + math.log(weights.sum(dtype=np.float64))
        best = [(int(i), float(np.float32(row[i] - total))) for i in _highest(row, min(top, len(row)))]
        found.append(TokenLogprob(token=token, logprob=float(np.float32(row[token] - total)), top=tuple(best)))
    return found


def _highest(row: Floats, k: int) -> npt.NDArray[np.int64]:
    """Indices of the k highest, highest first, the lowest index first among equals."""
    if not k:
        return np.empty(0, dtype=np.int64)
    edge = np.partition(row, len(row) - k)[len(row) - k]
    above, at = np.flatnonzero(row > edge), np.flatnonzero(row == edge)
    above = above[np.argsort(-row[above], kind="stable")]
    return np.concatenate((above, at[: k - len(above)]))


def _typical(logits: Array, row: Row) -> int:
    from argosy_worker.sampling.draw import draw  # noqa: PLC0415  # loads torch, which a worker may never need

    tensor = to_torch(logits) if is_numpy(logits) else logits
    return draw(tensor, row.params, uniform(row.seed, row.position))


def draw_of(
    params: SamplingParams, seed: int, position: int, left: npt.NDArray[np.uint8] | None = None
) -> library.Draw:
    """How the token at `position` is drawn; `left`: see `Row.open`. Where typical-p has a say, anything is."""
    bits = None if left is None else address(left)
    if params.greedy or params.typical_p < 1:
        return library.Draw(temperature=0.0, open=bits)
    return library.Draw(
        temperature=params.temperature,
        least=math.log(params.min_p) if params.min_p > 0 else -math.inf,
        top_p=params.top_p,
        u=uniform(seed, position),
        top_k=params.top_k,
        open=bits,
    )
