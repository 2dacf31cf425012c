"""The sampler's documented order, its random numbers and its log-probabilities."""

import math

import pytest
import torch

from argosy_api.params import SamplingParams
from argosy_worker.sampling.draw import draw
from argosy_worker.sampling.rng import uniform
from argosy_worker.sampling.rows import Row
from argosy_worker.sampling.sampler import healthy, logprobs, pick


def params(**fields):
    return SamplingParams(**{"temperature": 1.0, **fields})


def test_uniform_is_a_function_of_seed_and_position():
    """Fixed values (a change would change every seeded answer), in [0, 1), mean and spread of a uniform."""
    assert uniform(0, 0) == uniform(0, 0)
    assert uniform(1, 2) != uniform(2, 1)
    values = torch.tensor(
        [uniform(seed, position) for seed in range(100) for position in range(100)], dtype=torch.float64
    )
    assert values.min() >= 0
    assert values.max() < 1
    assert len(values.unique()) == 10_000
    assert abs(values.mean() - 0.5) < 0.01
    assert abs(values.std() - math.sqrt(1 / 12)) < 0.005


def test_greedy_takes_the_lowest_id_among_equals():
    logits = torch.tensor([[0.0, 3.0, 3.0, 1.0], [5.0, 5.0, 5.0, 5.0]])
    rows = [Row(params=params(temperature=0), seed=0, position=0)] * 2
    assert pick(logits, rows) == [1, 0]


def test_what_is_barred_is_never_taken_and_its_probability_stays_told():
    logits = torch.tensor([[0.0, 3.0, 2.0, 1.0]] * 40)
    before = logits.clone()
    for fields in ({"temperature": 0}, {}, {"top_k": 1}, {"top_k": 3}, {"top_p": 0.5}, {"top_k": 4, "top_p": 0.99}):
        rows = [Row(params=params(**fields), seed=i, position=0, barred=(1, 3)[: i % 3]) for i in range(40)]
        tokens = pick(logits, rows)
        for row, token in zip(rows, tokens, strict=True):
            assert token not in row.barred
            if not row.barred:
                assert [token] == pick(logits[:1], [row])
        if "temperature" in fields:
            assert tokens[:3] == [1, 2, 2]
    assert torch.equal(logits, before)
    assert all(healthy(logits))


def test_draws_follow_the_distribution():
    """Frequencies of 20,000 draws with fixed seeds lie within 4 standard errors of softmax."""
    logits = torch.tensor([0.0, 1.0, -1.0, 2.0, 0.5])
    for temperature in (0.7, 1.5):
        expected = (logits / temperature).softmax(0)
        counts = torch.zeros(5)
        for position in range(20_000):
            counts[draw(logits, params(temperature=temperature), uniform(1, position))] += 1
        error = (expected * (1 - expected) / 20_000).sqrt()
        assert ((counts / 20_000 - expected).abs() < 4 * error).all()


def support(logits, **fields):
    return {draw(logits, params(**fields), i / 2000) for i in range(2000)}


def test_top_k_keeps_the_highest_and_the_lowest_ids_among_equals():
    logits = torch.tensor([1.0, 2.0, 2.0, 2.0, 3.0, 0.0])
    assert support(logits, top_k=1) == {4}
    assert support(logits, top_k=3) == {1, 2, 4}
    assert support(logits, top_k=100) == {0, 1, 2, 3, 4, 5}


def test_top_p_keeps_the_smallest_sufficient_set():
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
    assert support(logits, top_p=0.49) == {0}
    assert support(logits, top_p=0.51) == {0, 1}
    assert support(logits, top_p=0.79) == {0, 1}
    assert support(logits, top_p=0.96) == {0, 1, 2, 3}


def test_top_p_comes_after_top_k():
    """Of 0.4, 0.3, 0.2, 0.1 top-k 2 leaves 4/7 and 3/7; 0.55 of that is the first alone."""
    logits = torch.tensor([0.4, 0.3, 0.2, 0.1]).log()
    assert support(logits, top_k=2, top_p=0.55) == {0}
    assert support(logits, top_p=0.55) == {0, 1}


def test_top_p_over_a_flat_distribution_looks_beyond_the_first_candidates():
    """4,000 equal tokens and p = 0.9: the set has 3,600, more than are sorted at first; lowest ids first."""
    logits = torch.zeros(4000)
    drawn = support(logits, top_p=0.9)
    assert max(drawn) > 3500
    assert max(drawn) < 3600


@pytest.mark.parametrize("temperature", [1e-300, 1e-30, 1e-3])
def test_absurdly_small_temperatures_are_greedy(temperature):
    assert support(torch.tensor([1.0, 5.0, 4.0]), temperature=temperature) == {1}


def test_impossible_tokens_are_never_drawn():
    logits = torch.tensor([-1e30, 0.0, -1e30, 0.0, -1e30])
    assert {draw(logits, params(), u) for u in (0.0, 0.25, 0.5, 0.75, 1 - 2**-53)} == {1, 3}


def test_rows_do_not_disturb_each_other():
    torch.manual_seed(0)
    logits = torch.randn(8, 500)
    rows = [
        Row(params=params(temperature=0.5 + i / 4, top_p=0.9, top_k=i * 20), seed=i, position=10 * i) for i in range(8)
    ]
    assert pick(logits, rows) == [pick(logits[i : i + 1], [rows[i]])[0] for i in range(8)]


def test_logprobs_are_of_raw_logits():
    torch.manual_seed(0)
    logits = torch.randn(3, 50) * 4
    expected = logits.double().log_softmax(-1)
    found = logprobs(logits, [7, 8, 9], [0, 2, 5])
    for i, score in enumerate(found):
        assert score.token == 7 + i
        assert score.logprob == pytest.approx(float(expected[i, 7 + i]), abs=1e-5)
        assert [t for t, _ in score.top] == expected[i].topk([0, 2, 5][i]).indices.tolist()


def test_health_is_told_by_row():
    logits = torch.randn(4, 100)
    logits[1, 5] = math.nan
    logits[2, 6] = math.inf
    assert healthy(logits) == [True, False, False, True]
