"""What shapes a distribution: as transformers' processors do it where they mean the same, in the documented order."""

import dataclasses
from array import array

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers.generation import logits_process as peer

from argosy_api.params import SamplingParams
from argosy_worker.core.batch import SequenceSlice
from argosy_worker.core.rules import Counts, TokenRules
from argosy_worker.sampling.draw import candidates
from argosy_worker.sampling.rows import Row, edited, row_of
from argosy_worker.sampling.sampler import CUDA, TORCH, logprobs, pick

VOCAB = 300


@pytest.fixture
def logits():
    torch.manual_seed(0)
    return torch.randn(40, VOCAB) * 3


def row(**fields):
    more = {k: fields.pop(k) for k in list(fields) if k in ("counts", "bias", "allowed", "barred", "open")}
    return Row(params=SamplingParams(**fields), seed=0, position=0, **more)


def counts(times):
    return Counts(array("q", times), array("q", times.values()))


def kept(logits, **fields):
    """Which tokens a row may become."""
    ids, weights = candidates(logits, SamplingParams(**fields))
    alive = torch.zeros(len(logits), dtype=torch.bool)
    alive[(weights > 0).nonzero()[:, 0] if ids is None else ids[weights > 0]] = True
    return alive


CHAINS = [
    ({"min_p": 0.05}, [peer.MinPLogitsWarper(0.05)]),
    ({"min_p": 0.9}, [peer.MinPLogitsWarper(0.9)]),
    ({"top_k": 7}, [peer.TopKLogitsWarper(7)]),
    ({"top_p": 0.3}, [peer.TopPLogitsWarper(0.3)]),
    ({"top_p": 0.95}, [peer.TopPLogitsWarper(0.95)]),
    ({"typical_p": 0.2}, [peer.TypicalLogitsWarper(0.2)]),
    ({"typical_p": 0.9}, [peer.TypicalLogitsWarper(0.9)]),
    ({"top_k": 50, "top_p": 0.9}, [peer.TopKLogitsWarper(50), peer.TopPLogitsWarper(0.9)]),
    ({"top_k": 50, "typical_p": 0.7}, [peer.TopKLogitsWarper(50), peer.TypicalLogitsWarper(0.7)]),
    ({"min_p": 0.02, "top_k": 9, "top_p": 0.8, "typical_p": 0.5},
     [peer.MinPLogitsWarper(0.02), peer.TopKLogitsWarper(9), peer.TopPLogitsWarper(0.8), peer.TypicalLogitsWarper(0.5)]),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "chain"), CHAINS, ids=lambda v: "-".join(v) if isinstance(v, dict) else "")
@pytest.mark.parametrize("temperature", [0.4, 1.0, 2.5])
def test_the_same_tokens_are_kept_as_by_transformers(logits, fields, chain, temperature):
    scores = logits.double()  # both in the same precision, so that rounding decides nothing
    wanted = peer.TemperatureLogitsWarper(temperature)(None, scores)
    for processor in chain:
        wanted = processor(None, wanted)
    for i in range(len(logits)):
        assert torch.equal(kept(logits[i], temperature=temperature, **fields), wanted[i].isfinite())
        ids, weights = candidates(logits[i], SamplingParams(temperature=temperature, **fields))
        assert torch.allclose(weights / weights.sum(), wanted[i].softmax(-1)[ids], atol=1e-12)


@pytest.mark.parametrize("penalty", [0.5, 1.1, 1.7])
def test_repetition_penalty_has_the_bits_of_transformers(logits, penalty):
    history = torch.randint(0, VOCAB, (len(logits), 60))
    wanted = peer.RepetitionPenaltyLogitsProcessor(penalty)(history, logits)
    rows = [row(repetition_penalty=penalty, counts=counts(dict.fromkeys(h.tolist(), 0))) for h in history]
    assert torch.equal(edited(logits, rows), wanted)


def test_bad_words_and_bias_are_those_of_transformers(logits):
    """Within an answer; bad words look at the answer alone here, at the prompt too there."""
    answer = [5, 6, 7]
    words, bias = [[9], [7, 11], [6, 7, 12], [6, 13], [5, 6, 7, 8, 14]], {20: 1.5, 21: -100.0, 299: 0.25}
    params = SamplingParams(bad_words_ids=tuple(map(tuple, words)), logit_bias=tuple(bias.items()), temperature=0)
    rules = TokenRules.of(params, [1, 2, *answer], 2)
    piece = SequenceSlice(
        request_id="r", tokens=[7], start=4, table=(), sample_rows=range(1), params=params, rules=rules
    )
    ids = torch.tensor([answer])
    wanted = peer.NoBadWordsLogitsProcessor(words, eos_token_id=[])(ids, logits[:1].clone())
    wanted = peer.SequenceBiasLogitsProcessor([[[t], b] for t, b in bias.items()])(ids, wanted)
    found = edited(logits[:1], [row_of(piece, 0, logits.shape[-1])])
    assert torch.equal(found, wanted)
    assert (found == -torch.inf).sum() == 3


def test_allowed_tokens_are_as_a_prefix_constraint(logits):
    allowed = [3, 77, 150]
    wanted = peer.PrefixConstrainedLogitsProcessor(lambda *_: allowed, 1)(torch.zeros(40, 1, dtype=torch.long), logits)
    assert torch.equal(edited(logits, [row(allowed=array("q", allowed))] * 40), wanted)


@pytest.mark.parametrize("vocab", [8, 297, VOCAB])
@pytest.mark.parametrize("kind", ["torch", "numpy"])
@pytest.mark.parametrize("penalty", [0.0, 0.7])
def test_what_a_grammar_does_not_leave_gets_minus_infinity(logits, vocab, kind, penalty):
    """And nothing else changes: in rows with a grammar and without, beside other edits and alone."""
    logits = logits[:, :vocab].contiguous()
    left = torch.rand(logits.shape) < torch.linspace(0, 1, len(logits))[:, None]
    left[::3] = True
    packed = np.packbits(left.numpy(), axis=1, bitorder="little")
    rows = [
        row(open=None if i % 3 == 0 else packed[i], frequency_penalty=penalty, counts=counts({i % vocab: 2}))
        for i in range(len(logits))
    ]
    plain = [dataclasses.replace(one, open=None) for one in rows]
    expected = edited(logits, plain).masked_fill(~left, -torch.inf)
    before = logits.clone()
    found = torch.as_tensor(edited(logits if kind == "torch" else logits.numpy(), rows))
    assert torch.equal(found, expected)
    assert torch.equal(logits, before)


@given(
    bits=st.binary(max_size=40), vocab=st.integers(1, 300),
    allowed=st.sets(st.integers(0, 299), max_size=9), barred=st.sets(st.integers(0, 299), max_size=9),
)  # fmt: skip
def test_what_is_open_is_what_all_rules_leave(bits, vocab, allowed, barred):
    """A grammar may know fewer tokens than the model has, or more."""

    class Given:
        problem = ""

        def allowed(self, text, begin, upto, ahead):
            return bits

    allowed, barred = ({token for token in tokens if token < vocab} for tokens in (allowed, barred))
    params = SamplingParams(allowed_token_ids=tuple(allowed), bad_words_ids=tuple((token,) for token in barred))
    rules = TokenRules(params, [1], 1, Given())
    piece = SequenceSlice(
        request_id="r", tokens=[1], start=0, table=(), sample_rows=range(1), params=params, rules=rules
    )
    found = row_of(piece, 0, vocab)
    left = {t for t in range(min(vocab, 8 * len(bits))) if bits[t >> 3] >> (t & 7) & 1}
    left = (left & allowed if allowed else left) - barred
    assert set(np.flatnonzero(np.unpackbits(found.open, bitorder="little"))) == left
    assert found.stuck == (not left)


@pytest.mark.parametrize(
    "how", [{}, {"min_p": 0.1}, {"top_k": 3, "top_p": 0.5}, {"typical_p": 0.5}, {"temperature": 0}]
)
def test_a_row_whose_grammar_leaves_nothing_draws_nothing_and_harms_no_other(logits, how):
    """Whoever asked for it is refused by whoever knows the request."""
    rows = [row(**how), row(open=np.zeros(-(-logits.shape[1] // 8), dtype=np.uint8), **how), row(**how)]
    for sampler in (TORCH, CUDA):
        found = sampler.sample(logits[:3], rows).tokens
        assert [found[i] for i in (0, 2)] == sampler.sample(logits[[0, 2]], [rows[0], rows[2]]).tokens


def test_presence_and_frequency_penalty_are_those_of_openai(logits):
    times = {3: 2, 4: 1, 9: 0}
    found = edited(logits, [row(presence_penalty=0.5, frequency_penalty=-0.25, counts=counts(times))] * 40)
    wanted = logits.clone()
    for token, count in times.items():
        wanted[:, token] -= -0.25 * count
        wanted[:, token] -= 0.5 * (count > 0)
    assert torch.equal(found, wanted)


def test_the_order():
    """Each pair of steps the other way round would give another result."""
    logits = torch.tensor([[1.0, -1.0, 0.5, 2.0, -3.0]])

    def one(**fields):
        return edited(logits, [row(**fields)])[0].tolist()

    def bias(values):
        return (array("q", values), array("f", values.values()))

    # bias before repetition: (1 + 3) / 2, and a negative logit that the bias makes positive is divided
    assert one(bias=bias({0: 3.0}), repetition_penalty=2.0, counts=counts({0: 0}))[0] == 2.0
    assert one(bias=bias({1: 3.0}), repetition_penalty=2.0, counts=counts({1: 0}))[1] == 1.0
    # repetition before frequency and presence: 2 / 2 - 3 x 0.5 - 0.25
    penalties = {"repetition_penalty": 2.0, "frequency_penalty": 0.5, "presence_penalty": 0.25}
    assert one(**penalties, counts=counts({3: 3}))[3] == -0.75
    # what is not allowed, or banned, stays so whatever is added to it
    found = one(allowed=array("q", [0, 1]), barred=(1,), bias=bias({1: 100.0, 2: 100.0, 0: 1.0}))
    assert found == [2.0, -torch.inf, -torch.inf, -torch.inf, -torch.inf]
    # greedy comes after all of this, and before what follows
    assert pick(logits, [row(temperature=0, bias=bias({4: 9.0}), top_k=1)]) == [4]
    # min-p looks at probabilities after the temperature, and before top-k and top-p
    row_ = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
    assert kept(row_, min_p=0.5).sum() == 2
    assert kept(row_, min_p=0.5, temperature=2.0).sum() == 3
    assert kept(row_, min_p=0.2, top_p=0.84).sum() == 2, "0.8 of 0.95 reach 0.84; of the whole they would not"
    assert kept(row_, top_k=2, top_p=0.6).sum() == 1, "0.5 of 0.8 reach 0.6"
    # typical-p looks at what the others left: the entropy of the whole is nearer to the second token
    assert kept(row_, typical_p=0.1).tolist() == [False, True, False, False]
    assert kept(row_, top_k=2, typical_p=0.1).tolist() == [True, False, False, False]


def test_typical_keeps_equals_together():
    assert kept(torch.zeros(50), typical_p=0.3).sum() == 50


def test_rows_of_different_settings_in_one_pass_are_as_alone(logits):
    """With everything at once, in any company, on one thread and on two."""
    rows = []
    for i in range(40):
        fields = {
            "temperature": [0.0, 0.7, 1.3][i % 3],
            "top_k": [0, 5, 40][i // 3 % 3],
            "top_p": [1.0, 0.8][i % 2],
            "min_p": [0.0, 0.05][i // 2 % 2],
            "typical_p": [1.0, 0.6][i // 4 % 2],
            "repetition_penalty": [1.0, 1.3][i % 2],
            "frequency_penalty": [0.0, 0.4][i // 2 % 2],
        }
        rows.append(
            Row(
                params=SamplingParams(**fields),
                seed=i,
                position=3 * i,
                barred=tuple(range(i % 4)),
                allowed=array("q", range(0, VOCAB, 2)) if i % 5 == 0 else None,
                bias=(array("q", [i]), array("f", [2.5])) if i % 7 == 0 else None,
                counts=counts({t: t % 3 for t in range(i, i + 20)}) if i % 3 else None,
            )
        )
    before = logits.clone()
    together = pick(logits, rows)
    assert torch.equal(logits, before)
    for i, one in enumerate(rows):
        assert pick(logits[i : i + 1], [one]) == [together[i]]
    assert pick(logits.flip(0), rows[::-1]) == together[::-1]
    assert len(set(together)) > 20


@pytest.mark.parametrize("vocab", [151_936, 50_257])
def test_threads_do_not_change_a_row(vocab):
    """Sums of so many are shared among threads; how many a step has depends on its company."""
    torch.manual_seed(1)
    logits = torch.randn(3, vocab) * 3
    rows = [row(temperature=0.9), row(temperature=1.1, top_p=0.97), row(temperature=1.5, min_p=1e-4, typical_p=0.9)]
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            scores = [logprobs(logits[i : i + 1], [i], [3])[0] for i in range(3)]
            assert scores == logprobs(logits, [0, 1, 2], [3, 3, 3])
            found.append((pick(logits, rows), scores))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert found[0] == found[1] == found[2]


def test_huge_logits_survive_every_penalty():
    """Nothing becomes infinite or NaN that was not forbidden."""
    logits = torch.tensor([[3e38, -3e38, 1e30, 0.0]])
    ids = counts({0: 5, 1: 5, 2: 5})
    for penalty in (0.01, 100.0):
        made = row(
            repetition_penalty=penalty, presence_penalty=-2.0, counts=ids, bias=(array("q", [0]), array("f", [100.0]))
        )
        found = edited(logits, [made])
        assert found.isfinite().all()
        assert pick(logits, [made])[0] in range(4)


def test_logprobs_are_told_before_anything_is_done_to_the_logits():
    """Whatever the bias and the temperature; the token that was drawn need not be among the best."""
    logits = torch.tensor([[4.0, 3.0, 2.0, -5.0]])
    made = row(temperature=5.0, bias=(array("q", [3]), array("f", [100.0])), top_k=1)
    (token,) = pick(logits, [made])
    assert token == 3
    (score,) = logprobs(logits, [token], [2])
    assert score.logprob == pytest.approx(float(logits[0].double().log_softmax(-1)[3]), abs=1e-6)
    assert [t for t, _ in score.top] == [0, 1]
