"""Guessing ahead changes no token and no log-probability, whoever guesses and however much."""

from dataclasses import replace

import pytest
from tokenizers import Tokenizer

from argosy_api.params import SamplingParams
from argosy_worker import sim
from argosy_worker.models import load_model
from argosy_worker.speculation.config import Method

CODE = """class Account:
    def get_owner(self):
        return self.owner

    def get_balance(self):
        return self.balance

    def get_"""
TEXT = "<|im_start|>user\nRepeat: the cat sat on the mat, the dog sat on the log.<|im_end|>\n<|im_start|>assistant\nThe"


@pytest.fixture(scope="module")
def model(smollm_path):
    return load_model(smollm_path, compute="auto", device="cpu", threads=2)


@pytest.fixture(scope="module")
def jobs(model):
    """Texts that repeat themselves; greedy and drawn, with and without log-probabilities and penalties."""
    tokenizer = Tokenizer.from_buffer(model.facts.tokenizer_json)
    self_, code = (tokenizer.encode(text).ids[0] for text in (" self", "_"))
    penalties = {
        "repetition_penalty": 1.05,
        "presence_penalty": 0.2,
        "frequency_penalty": 0.1,
        "logit_bias": ((self_, 1.0),),
        "bad_words_ids": ((code, self_),),
    }
    return [
        (
            tokenizer.encode(text).ids,
            SamplingParams(max_tokens=28, temperature=t, seed=7, top_p=0.9, logprobs=n, ignore_eos=True, **more),
        )
        for text, t, n, more in [
            (CODE, 0.0, 2, {}),
            (TEXT, 0.0, None, {}),
            (CODE, 0.6, 0, {}),
            (TEXT, 1.0, 3, {}),
            (CODE, 0.0, 1, penalties),
            (CODE, 0.3, None, penalties),
        ]
    ]


@pytest.fixture(scope="module")
def plain(model, jobs, make_line):
    return make_line(model, method=Method.OFF).answers(jobs)


@pytest.mark.parametrize("most", range(1, 9))
def test_looked_up_tokens_change_nothing(make_line, model, jobs, plain, most):
    line = make_line(model, method=Method.NGRAM, most=most)
    answered = line.answers(jobs)
    assert answered.tokens == plain.tokens
    assert answered.logprobs == plain.logprobs
    assert answered.counts.accepted > 5
    if most == 5:  # now the answers are looked up, and the cache is warm
        again = line.answers(jobs)
        assert again.tokens == plain.tokens
        assert again.logprobs == plain.logprobs
        assert again.counts.accepted > 40
        assert again.steps < plain.steps


@pytest.mark.parametrize(
    ("method", "most"), [(Method.DRAFT, 1), (Method.DRAFT, 4), (Method.DRAFT, 8), (Method.AUTO, 5)]
)
def test_a_draft_model_changes_nothing(make_line, model, jobs, plain, method, most):  # noqa: PLR0917
    """The model as its own draft model, on blocks of its own numbers: what it guesses is right at any temperature."""
    answered = make_line(model, method=method, draft=model, most=most, max_batch_tokens=48).answers(jobs)
    assert answered.tokens == plain.tokens
    assert answered.logprobs == plain.logprobs
    if method is Method.DRAFT:
        assert answered.counts.accepted == answered.counts.drafted > 20


def test_with_what_it_measures_itself(make_line, model, jobs, plain):
    line = make_line(model, method=Method.AUTO, draft=model, policy=None)
    for _ in range(3):
        assert line.answers(jobs).tokens == plain.tokens


@pytest.mark.parametrize("most", range(1, 9))
@pytest.mark.parametrize("method", [Method.DRAFT, Method.AUTO, Method.NGRAM])
@pytest.mark.parametrize("blocks", [128, 24], ids=["roomy", "preempting"])
def test_simulated(make_line, simulated, most, method, blocks):
    ends = frozenset(sim.ENDS)
    params = SamplingParams(max_tokens=40, temperature=1.0, stop_token_ids=(65,), logprobs=1)
    made = [
        (list(range(i, 30 + 9 * i)), replace(params, seed=i, min_tokens=i % 7, temperature=float(i % 2)))
        for i in range(8)
    ]
    plain = make_line(simulated(eos_every=50), blocks=blocks).answers(made, eos=ends)
    draft = None if method is Method.NGRAM else simulated(accept=0.7, eos_every=50)
    answered = make_line(simulated(eos_every=50), method=method, draft=draft, most=most, blocks=blocks)
    assert (found := answered.answers(made, eos=ends)).tokens == plain.tokens
    assert found.logprobs == plain.logprobs
    assert draft is None or found.counts.accepted > 10


def test_answers_of_another_tenant_are_not_drawn_on(make_line, simulated):
    """With the same salt the second request is answered from the first one's answer; with another one not at all."""
    job = [(list(range(30)), SamplingParams(max_tokens=40, temperature=0))]
    line = make_line(simulated(), method=Method.NGRAM)
    first, other, same = (line.answers(job, salt=salt) for salt in ("a", "b", "a"))
    assert first.tokens == other.tokens == same.tokens
    assert first.counts.drafted == other.counts.drafted == 0
    assert same.counts.accepted == same.counts.drafted > 30
