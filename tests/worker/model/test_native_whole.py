"""Steps that are one call of the kernels give what the same steps give in several calls."""

import math
import shutil
from dataclasses import replace

import numpy as np
import pytest

from argosy_api.params import SamplingParams
from argosy_worker.compute.native.model import NativeModel
from argosy_worker.compute.native.whole import WholeSteps, plain
from argosy_worker.compute.runner import FAULT
from argosy_worker.core.batch import SequenceSlice, StepBatch
from argosy_worker.core.rules import TokenRules

pytestmark = pytest.mark.skipif(shutil.which("c++") is None, reason="there was no compiler to build them with")

GREEDY = SamplingParams(max_tokens=8, temperature=0)
WAYS = (
    GREEDY,
    SamplingParams(max_tokens=8, temperature=0.9, seed=4, top_p=0.9),
    SamplingParams(max_tokens=8, temperature=1.3, seed=5, top_k=20, min_p=0.01),
    SamplingParams(max_tokens=8, temperature=0.7, seed=6),
)


def piece(tokens, start, table, params=GREEDY, **more):
    more = {"sample_rows": range(len(tokens))} | more
    return SequenceSlice(request_id="r", tokens=tokens, start=start, table=table, params=params, **more)


def told(outputs):
    return [(list(o.tokens), list(o.logprobs), list(o.prompt_logprobs), o.error) for o in outputs]


@pytest.fixture
def both(int8_model, monkeypatch):
    """Two runners over caches of their own, and what the second one computed in one call."""
    assert isinstance(int8_model, NativeModel)
    several, whole = (int8_model.make_runner(60, 16) for _ in range(2))
    several._whole = None
    called, made = [], WholeSteps.__call__

    def noted(self, *given):
        called.append(made(self, *given))
        return called[-1]

    monkeypatch.setattr(WholeSteps, "__call__", noted)
    return several, whole, called


def prompts_of(lengths):
    rng = np.random.default_rng(1)
    tables, block = [], 1
    for length in lengths:
        need = (length + 40) // 16
        tables.append(list(range(block, block + need)))
        block += need
    return [rng.integers(20, 49_000, length).tolist() for length in lengths], tables


def test_tokens_and_caches_are_the_same(both):
    """Greedy and drawn rows, of one token and of drafts, at positions of which none was known before, too."""
    several, whole, called = both
    prompts, tables = prompts_of((3, 30, 254, 17))
    for runner in (several, whole):
        parts = [piece(p, 0, t, sample_rows=range(0)) for p, t in zip(prompts, tables, strict=True)]
        runner.launch(StepBatch(parts)).result()
    assert called == []
    ends, last = [len(p) for p in prompts], [5, 6, 7, 8]
    for turn in range(5):
        draft = [100 + turn, 101] if turn % 2 else []
        ways = [GREEDY] * 4 if turn == 3 else WAYS
        parts = [
            piece([token, *draft], end, table, params, draft=len(draft))
            for token, end, table, params in zip(last, ends, tables, ways, strict=True)
        ]
        wanted, found = (runner.launch(StepBatch(parts)).result() for runner in (several, whole))
        assert told(found) == told(wanted)
        assert len(called) == turn + 1
        ends = [end + len(o.tokens) for end, o in zip(ends, found, strict=True)]
        last = [o.tokens[-1] for o in found]
    for table in tables:
        for block in table:
            assert whole.store.export(block) == several.store.export(block)


def test_a_right_draft_is_taken(both):
    _, whole, called = both
    (prompt,), (table,) = prompts_of((20,))
    whole.launch(StepBatch([piece(prompt, 0, table, sample_rows=range(0))])).result()
    (first,) = whole.launch(StepBatch([piece([9], 20, table)])).result()
    (second,) = whole.launch(StepBatch([piece([first.tokens[0]], 21, table)])).result()
    (again,) = whole.launch(StepBatch([piece([9, first.tokens[0], 3], 20, table, draft=2)])).result()
    assert list(again.tokens[:2]) == [first.tokens[0], second.tokens[0]]
    assert len(called) == 3


def test_a_row_that_is_no_number_ends_its_request_alone(both):
    several, whole, called = both
    prompts, tables = prompts_of((20, 20))
    for runner in (several, whole):
        parts = [piece(p, 0, t, sample_rows=range(0)) for p, t in zip(prompts, tables, strict=True)]
        runner.launch(StepBatch(parts)).result()
        runner.store._held[3, tables[0][0], 0, 0] = math.nan
    parts = [piece([5], 20, table) for table in tables]
    wanted, found = (runner.launch(StepBatch(parts)).result() for runner in (several, whole))
    assert [o.error for o in found] == [FAULT, None]
    assert told(found) == told(wanted)
    assert len(called) == 1


def test_a_token_that_the_vocabulary_lacks_is_refused(both):
    _, whole, _ = both
    for token in (-1, 49_152):
        with pytest.raises(IndexError, match="vocabulary"):
            whole.launch(StepBatch([piece([5], 0, [1]), piece([token], 0, [2])]))


def test_a_model_with_other_ends_is_computed_in_several_calls(int8_model):
    decoder = int8_model.decoder
    assert WholeSteps.able(decoder)
    for other in (
        replace(decoder, config=replace(decoder.config, logit_softcap=30.0)),
        replace(decoder, config=replace(decoder.config, logit_divisor=2.0)),
        replace(decoder, embed=replace(decoder.embed, format="Q4_1")),
    ):
        assert not WholeSteps.able(other)


@pytest.mark.parametrize(
    "more",
    [
        {"sample_rows": range(0)}, {"sample_rows": range(1, 2)}, {"params": SamplingParams(max_tokens=8, logprobs=0)},
        {"params": SamplingParams(max_tokens=8, typical_p=0.5)}, {"barred": (2,), "barred_rows": 1},
        {"rules": TokenRules(SamplingParams(max_tokens=8, logit_bias=((3, 1.0),)), [5], 1)}, {"pool": object()},
        {"adapter": object()}, {"prompt_targets": (4,)},
    ],
    ids=lambda more: next(iter(more)),
)  # fmt: skip
def test_whoever_wants_more_than_a_token_is_not_plain(more):
    assert plain(piece([4, 5], 0, [1]))
    assert not plain(piece([4, 5], 0, [1], **more))
