"""A request's tokens and log-probabilities are the same, bit for bit, whatever company and chunks it has."""

import random
from dataclasses import replace

import pytest
import torch

from argosy_api.params import SamplingParams
from argosy_worker.compute.elementwise import aligned, shares_aligned
from argosy_worker.compute.native.model import NativeModel

LENGTHS = [1, 2, 3, 5, 15, 16, 17, 31, 64, 65, 100, 127, 128, 129, 180, 260]
NEW = 6


@pytest.fixture(scope="module", params=["int8", "fp32"])
def model(request):
    return request.getfixturevalue(f"{request.param}_model")


@pytest.fixture(scope="module")
def jobs_of(make_job):
    def make():
        rng = random.Random(5)
        jobs = []
        for i, length in enumerate(LENGTHS):
            params = SamplingParams(
                max_tokens=NEW,
                temperature=0.9 if i % 4 else 0,
                top_p=0.95 if i % 2 else 1.0,
                top_k=40 if i % 3 else 0,
                seed=i,
                logprobs=3,
            )
            jobs.append(make_job(f"r{i}", [rng.randrange(3, 49152) for _ in range(length)], params))
        return jobs

    return make


@pytest.fixture(scope="module")
def alone(model, jobs_of, run_jobs):
    """Outputs of each request by itself, on two threads."""
    return run_jobs(model.make_runner(200, 16), jobs_of(), chunk=1000, together=False)


def test_sixteen_together_equal_each_alone(model, alone, jobs_of, run_jobs):
    """Outputs of 16 requests (every fourth greedy) in the same steps == outputs of each alone, for chunks of 16, 64 and whole prompts."""
    for chunk in (16, 64, 1000):
        assert run_jobs(model.make_runner(200, 16), jobs_of(), chunk=chunk) == alone


def test_warm_prefix_equals_cold(model, make_job, run_jobs):
    """A prompt that starts from another request's blocks gives the outputs that it gives from nothing."""
    rng = random.Random(6)
    prompt = [rng.randrange(3, 49152) for _ in range(150)]
    params = SamplingParams(max_tokens=NEW, temperature=0.8, seed=3, logprobs=2)
    runner = model.make_runner(100, 16)
    first = make_job("cold", list(prompt), params)
    cold = run_jobs(runner, [first], chunk=37)
    for cached in (16, 128, 144):
        warm = make_job("warm", list(prompt), params, table=first.table[: cached // 16], done=cached)
        assert run_jobs(runner, [warm], chunk=1000, first_block=40) == cold


def test_threads_do_not_matter(model, alone, jobs_of, run_jobs):
    """One compute thread gives the bits of two."""
    one = replace(model, threads=1)
    assert run_jobs(one.make_runner(200, 16), jobs_of(), chunk=200) == alone


def test_linears_do_not_depend_on_the_number_of_rows(model):
    """Each row of every kind of linear layer has the same bits for 1 to 80 rows."""
    decoder, config = model.decoder, model.config
    if isinstance(model, NativeModel):
        layer, head, mlp = decoder.layers[0], decoder.head, decoder.layers[0]
    else:
        layer, head = decoder.stack.layers[0]._weights, decoder._head
        mlp = layer.mlp
    torch.manual_seed(0)
    for linear, wide in (
        (layer.qkv, config.hidden),
        (layer.o, config.hidden),
        (mlp.gate_up, config.hidden),
        (mlp.down, config.ffn),
        (head, config.hidden),
    ):
        x = torch.randn(80, wide) * torch.logspace(-2, 2, 80)[:, None]
        full = linear(x)
        for rows in (*range(1, 34), 63, 79):
            assert torch.equal(linear(x[:rows].contiguous()), full[:rows])
        assert torch.equal(linear(x[41:44].contiguous()), full[41:44])


def test_aligned_elementwise_does_not_depend_on_rows():
    """silu over rows whose thread shares would begin inside a vector has each row's own bits."""
    torch.manual_seed(0)
    x = torch.randn(600, 288)
    alone = torch.cat([torch.nn.functional.silu(row[None]) for row in x])
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            for rows in (1, 255, 511, 600):
                assert torch.equal(
                    aligned(lambda t: torch.nn.functional.silu(t, inplace=True), x[:rows].clone()), alone[:rows]
                )
    finally:
        torch.set_num_threads(threads)
    assert not shares_aligned(255 * 288, 2)
    assert shares_aligned(256 * 288, 2)
