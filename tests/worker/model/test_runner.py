"""Attention against a plain implementation, isolation of faulty rows, memory figures, and the choice of kernels."""

import math

import pytest

from argosy_api.errors import ModelUnsupportedError
from argosy_api.params import SamplingParams
from argosy_worker.compute import loaded
from argosy_worker.compute.quant.int8_cpu import sums_are_exact
from argosy_worker.compute.quant.linear import LinearSpec, choose
from argosy_worker.compute.quant.packer import KERNELS
from argosy_worker.core.batch import SequenceSlice, StepBatch
from argosy_worker.machine import Memory


def test_a_faulty_request_harms_no_other(fp32_model, make_job, run_jobs):
    """NaN in one request's cache ends that request; another in the same steps, and one on its blocks later, are untouched."""
    params = SamplingParams(max_tokens=4, temperature=0, logprobs=1)
    prompt = list(range(100, 140))
    expected = run_jobs(fp32_model.make_runner(20, 16), [make_job("a", prompt, params)], chunk=100)
    runner = fp32_model.make_runner(20, 16)
    runner.launch(
        StepBatch(
            [
                SequenceSlice(
                    request_id="bad", tokens=prompt, start=0, table=[10, 11, 12], sample_rows=range(0), params=params
                )
            ]
        )
    )
    runner._attention.cache._layers[3][10] = math.nan
    good = SequenceSlice(
        request_id="a", tokens=prompt, start=0, table=[1, 2, 3], sample_rows=range(39, 40), params=params
    )
    bad = SequenceSlice(request_id="bad", tokens=[5], start=40, table=[10, 11, 12], sample_rows=range(1), params=params)
    outputs = runner.launch(StepBatch([bad, good])).result()
    assert outputs[0].tokens == ()
    assert outputs[0].error
    assert outputs[1] == expected[0][0]
    reuse = make_job("b", prompt, params, table=[11, 13, 12])  # slot 8 of block 12 holds what was computed from NaN
    assert run_jobs(runner, [reuse], chunk=100) == expected


def test_an_empty_step_gives_nothing(int8_model):
    assert int8_model.make_runner(1, 16).launch(StepBatch([])).result() == []


def test_memory_figures(int8_model):
    """SmolLM2: 30 layers x 2 x 3 heads x 64 x 2 bytes = 23,040 bytes for a token."""
    assert int8_model.kv_bytes_per_block(16) == 16 * 23_040
    assert 0 < int8_model.memory_for_kv() < int8_model.memory_left()


@pytest.mark.parametrize(
    ("available", "limited", "expected"),
    [(24 << 30, False, 512 << 20), (1 << 30, False, 256 << 20), (4 << 30, True, 2 << 30), (100 << 20, True, 50 << 20)],
)
def test_the_cache_takes_a_share_of_what_the_worker_has(int8_model, monkeypatch, available, limited, expected):
    """Half of what a limit of its own leaves; of a shared machine a quarter, and no more than is of use."""
    monkeypatch.setattr(loaded, "memory", lambda: Memory(32 << 30, available, limited))
    assert int8_model.memory_for_kv() == expected
    assert int8_model.memory_left() == available


def spec(**fields):
    base = {
        "role": "qkv",
        "formats": ("Q4_1",),
        "in_features": 64,
        "out_features": 64,
        "weights": "int8",
        "group": 0,
        "compute": "int8",
        "device": "cpu",
        "isa": frozenset({"avx512_vnni"}),
    }
    return LinearSpec(**{**base, **fields})


def test_kernel_choice_gives_reasons():
    if sums_are_exact():
        assert choose(spec(), KERNELS).kernel.name == "int8-onednn"
    else:
        with pytest.raises(ModelUnsupportedError, match="saturate"):
            choose(spec(), KERNELS)
    fp32 = choose(spec(weights="none", compute="fp32"), KERNELS)
    assert fp32.kernel.name == "fp32-onednn"
    assert (
        "int8-onednn (has int8 weights with one scale for each output, asked for weights none computed as fp32)"
        in fp32.report
    )
    assert choose(spec(weights="none", compute="bf16", device="cuda"), KERNELS).kernel.name == "float-cublas"
    with pytest.raises(ModelUnsupportedError, match="VNNI"):
        choose(spec(isa=frozenset()), KERNELS)
