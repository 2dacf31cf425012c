"""All rows drawn at once, as on a GPU: the tokens of row by row, and one answer of the device for each step."""

import math
from array import array

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from argosy_api.params import SamplingParams
from argosy_worker.sampling import together
from argosy_worker.sampling.rows import Row
from argosy_worker.sampling.sampler import CUDA, TORCH

PARAMS = st.builds(
    SamplingParams,
    temperature=st.sampled_from((0.0, 1e-30, 0.3, 1.0, 5.0)),
    top_k=st.sampled_from((0, 1, 3, 50, 1500, 100_000)),
    top_p=st.sampled_from((0.01, 0.5, 0.9, 0.999, 1.0)),
    min_p=st.sampled_from((0.0, 0.001, 0.1, 1.0)),
    typical_p=st.sampled_from((1.0, 1.0, 1.0, 0.7)),
)
ROWS = st.lists(st.tuples(PARAMS, st.integers(0, 2**63), st.integers(0, 100_000)), min_size=1, max_size=9)


@settings(max_examples=150)
@given(ROWS, st.integers(0, 2**31), st.sampled_from((5, 300, 2000)), st.sampled_from((0.0, 0.1, 1.0, 8.0)))
def test_the_tokens_are_those_of_row_by_row(asked, seed, vocab, width):
    """Peaked and flat logits, many equal ones too, with all parameters mixed in one step."""
    generator = torch.Generator().manual_seed(seed)
    logits = (torch.randn(len(asked), vocab, generator=generator) * width).mul(4).round().div(4)
    rows = [Row(params=params, seed=number, position=position) for params, number, position in asked]
    assert CUDA.sample(logits, rows) == TORCH.sample(logits, rows)


def test_what_is_forbidden_and_what_is_no_number():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(5, 400, generator=generator)
    logits[1, 3], logits[3, 9] = math.nan, math.inf
    params = SamplingParams(temperature=0.8, top_p=0.9, min_p=0.01, top_k=30)
    rows = [
        Row(params=params, seed=1, position=2, allowed=array("i", [5, 7, 300])),
        Row(params=params, seed=1, position=3),
        Row(params=SamplingParams(temperature=2.0), seed=7, position=4, barred=[1, 2, 3]),
        Row(params=params, seed=9, position=3),
        Row(params=SamplingParams(temperature=0), seed=9, position=3),
    ]
    marks = torch.tensor([True, False, True])
    before = logits.clone()
    found, expected = CUDA.sample(logits, rows, marks), TORCH.sample(logits, rows, marks)
    assert torch.equal(logits.nan_to_num(), before.nan_to_num())
    assert (found.fine, found.marks) == (expected.fine, expected.marks) == ([True, False, True, False, True], [1, 0, 1])
    assert [found.tokens[i] for i in (0, 2, 4)] == [expected.tokens[i] for i in (0, 2, 4)]
    assert found.tokens[0] in (5, 7, 300)


class Answers(TorchDispatchMode):
    """Counts what makes the host wait for a device: numbers that are read, and sizes that depend on them."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if name in ("_local_scalar_dense", "nonzero", "item", "masked_select", "unique", "equal"):
            self.found.append(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(temperature=0),
        SamplingParams(temperature=1.0),
        SamplingParams(temperature=0.7, top_k=40, top_p=0.9, min_p=0.02),
        SamplingParams(temperature=0.7, top_p=0.95),
    ],
)
def test_nothing_is_asked_of_the_device_but_the_tokens(params):
    logits = torch.randn(16, 5000, generator=torch.Generator().manual_seed(3)) * 5
    rows = [Row(params=params, seed=i, position=i) for i in range(16)]
    with Answers() as answers:
        together.sample(logits, rows, torch.ones(20, dtype=torch.bool))
    assert answers.found == []
    if not params.greedy:
        with Answers() as answers:
            TORCH.sample(logits, rows)
        assert len(answers.found) >= 16  # what it is there for
