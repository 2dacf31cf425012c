"""Tokens picked by the native kernels: those that torch picks, on every instruction set, however many threads."""

import random

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from argosy_api.params import SamplingParams
from argosy_worker.compute.native import library
from argosy_worker.compute.native.crew import Crew
from argosy_worker.compute.native.picking import sampler
from argosy_worker.sampling.rows import Row
from argosy_worker.sampling.sampler import TORCH

LIBRARY = library.load()
KERNELS = [n for n in library.NAMES if LIBRARY is not None and LIBRARY.argosy_kernels(n.encode())]
pytestmark = pytest.mark.skipif(not KERNELS, reason="the package was built without a C++ compiler")


def logits_of(rng: random.Random, rows: int, vocab: int) -> Tensor:
    """Flat, peaked, with many equal ones, far from zero, or with tokens that are out of the question."""
    made = torch.Generator().manual_seed(rng.randrange(1 << 30))
    x = torch.randn((rows, vocab), generator=made) * rng.choice([0.0, 0.1, 1.0, 4.0, 30.0])
    kind = rng.choice(["plain", "rounded", "far", "barred"])
    if kind == "rounded":
        x = x.round()
    elif kind == "far":
        x = x * 1e-3 + 3e4
    elif kind == "barred":
        barred = torch.rand((rows, vocab), generator=made) < 0.7
        barred[:, rng.randrange(vocab)] = False
        x = x.masked_fill(barred, -torch.inf)
    return x


def params_of(rng: random.Random, vocab: int) -> SamplingParams:
    return SamplingParams(
        temperature=rng.choice([0.0, 1e-3, 0.3, 0.8, 1.0, 2.0, 50.0]),
        top_k=rng.choice([0, 0, 1, 2, 40, max(1, vocab // 3), vocab - 1, vocab, vocab + 5]),
        top_p=rng.choice([1.0, 1.0, 0.999999, 0.9, 0.5, 1e-6]),
        min_p=rng.choice([0.0, 0.0, 1e-9, 0.05, 0.9, 1.0]),
        typical_p=rng.choice([1.0] * 9 + [0.6]),
    )


def open_of(rng: random.Random, logits: Tensor) -> npt.NDArray[np.uint8] | None:
    """What a grammar leaves of a row: at least one token that is not out of the question."""
    if rng.random() < 0.6:
        return None
    left = torch.rand(len(logits)) < rng.choice([0.01, 0.5, 0.99])
    left[rng.choice(logits.isfinite().nonzero()[:, 0].tolist())] = True
    return np.packbits(left.numpy(), bitorder="little")


@pytest.mark.parametrize("vocab", [1, 2, 15, 63, 64, 65, 130, 1000, 5003])
def test_the_token_is_the_one_that_torch_picks(vocab: int) -> None:
    rng = random.Random(vocab)
    sides = [sampler(Crew(threads, name)) for name in KERNELS for threads in (1, 2)]
    for _ in range(60):
        rows = rng.randrange(1, 5)
        logits = logits_of(rng, rows, vocab)
        asked = [
            Row(params_of(rng, vocab), rng.randrange(1 << 40), rng.randrange(5000), open=open_of(rng, logits[i]))
            for i in range(rows)
        ]
        wanted = TORCH.pick(logits, asked)
        for side in sides:
            assert side.pick(logits, asked) == wanted


def test_a_large_vocabulary() -> None:
    rng, vocab = random.Random(7), 151_936
    side = sampler(Crew(2))
    logits = torch.randn((12, vocab), generator=torch.Generator().manual_seed(1)) * 3
    asked = [Row(params_of(rng, vocab), seed, seed) for seed in range(12)]
    assert side.pick(logits, asked) == TORCH.pick(logits, asked)


def test_each_token_comes_as_often_as_its_weight_says() -> None:
    logits = torch.tensor([[0.0, 1.0, 2.0, -torch.inf, 1.0]] * 4000)
    weights = torch.tensor([0.0, 1.0, 2.0, -torch.inf, 1.0]).softmax(0)
    params = SamplingParams(temperature=1.0)
    tokens = sampler(Crew(2)).pick(logits, [Row(params, seed, 3) for seed in range(4000)])
    shares = torch.tensor(tokens).bincount(minlength=5) / 4000
    assert (shares - weights).abs().max() < 0.03  # four standard deviations
    assert shares[3] == 0


def test_rows_edit_logits_before_they_are_drawn_from() -> None:
    logits = torch.tensor([[5.0, 4.0, 3.0, 2.0]] * 2)
    rows = [Row(SamplingParams(temperature=0.0), 0, 0, barred=(0,)), Row(SamplingParams(temperature=0.0), 0, 0)]
    assert sampler(Crew(1)).pick(logits, rows) == [1, 0]


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("fault", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("vocab", [5, 64, 100])
def test_a_row_with_a_number_that_is_none_is_not_healthy(name: str, fault: float, vocab: int) -> None:
    for place in range(vocab):
        logits = torch.full((3, vocab), 1e38)  # sums of these would not be finite
        logits[1, place] = fault
        assert sampler(Crew(2, name)).healthy(logits) == [True, False, True]
