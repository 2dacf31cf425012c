"""A whole model on Triton's kernels gives the tokens that it gives on torch; and what is computed before it is ready."""

import os
from contextlib import ExitStack
from dataclasses import replace

import pytest
import small_models
import tiny_llama
import torch
from kernels_here import DEVICE

from argosy_api.params import SamplingParams
from argosy_worker.compute import warm
from argosy_worker.compute.attention.cache import PagedKvCache
from argosy_worker.compute.attention.kernels import TritonAttention
from argosy_worker.compute.attention.kv_types import KV_TYPES
from argosy_worker.compute.attention.triton_paged import PagedTriton
from argosy_worker.compute.experts import GroupedTriton
from argosy_worker.compute.fused import FusedLayers
from argosy_worker.compute.quant.float_cuda import FloatCuda
from argosy_worker.compute.quant.linear import Verdict
from argosy_worker.compute.quant.precision import Precision
from argosy_worker.compute.torch_runner import TorchRunner
from argosy_worker.compute.triton import paths
from argosy_worker.compute.triton.machine import Gpu
from argosy_worker.core.batch import SequenceSlice, StepBatch
from argosy_worker.models import load_model
from argosy_worker.models.build import open_model
from argosy_worker.models.builder import Builder
from argosy_worker.sampling.sampler import CUDA

H100 = Gpu(name="NVIDIA H100", capability=(9, 0), multiprocessors=132)
WAYS = (SamplingParams(temperature=0), SamplingParams(temperature=0.7, top_k=20, top_p=0.95, seed=3))
TABLES = ([1, 2, 3], [4, 5, 6])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    found = tmp_path_factory.mktemp("model")
    tiny_llama.write(found)
    return found


class FloatHere(FloatCuda):
    """cuBLAS's linears, which torch computes on every device."""

    def can_run(self, spec):
        return Verdict(ok=True, reason="")


class GroupedHere(GroupedTriton):
    """Triton's experts in the interpreter, too."""

    def can_run(self, spec):
        return super().can_run(
            replace(spec, **{n: replace(getattr(spec, n), device="cuda") for n in ("gate_up", "down")})
        )


def on_triton(folder, kind, **options):
    with ExitStack() as files, torch.inference_mode():
        source = open_model(folder, files).weights
        precision = Precision(weights="none", group=0, compute="fp32")
        layers = (FusedLayers(TritonAttention(lambda: H100)),)
        builder = Builder(
            source, precision, DEVICE, None, lambda *_: None, kernels=(FloatHere(),), layer_kernels=layers,
            experts_kernels=(GroupedHere(lambda: H100),),
        )  # fmt: skip
        config = source.config
        stack = builder.stack(config, range(config.layers))
        decoder = builder.decoder(config, stack)
    cache = PagedKvCache(
        layers=config.layers, blocks=8, block_size=16, kv_heads=config.kv_heads, head_dim=config.head_dim,
        dtype=torch.float32, device=DEVICE, kind=KV_TYPES[kind],
    )  # fmt: skip
    attention = PagedTriton(cache, stack.specs, multiprocessors=4, **options)
    return TorchRunner(decoder, attention, threads=1, sampler=CUDA)


def tokens(runner, count, *, draft=()):
    """Answers to two prompts in one batch, one greedy, one drawn; the first with a draft in its second step."""
    known = [list(tiny_llama.PROMPT[:20]), list(tiny_llama.PROMPT[30:33])]
    starts = [0, 0]
    while len(known[0]) < 20 + count:
        guessed = [list(draft) if len(known[0]) == 21 else [], []]
        slices = [
            SequenceSlice(
                request_id=str(i), tokens=known[i][starts[i] :] + guessed[i], start=starts[i], table=TABLES[i],
                sample_rows=range(len(known[i]) - starts[i] - 1, len(known[i]) - starts[i] + len(guessed[i])),
                params=WAYS[i], draft=len(guessed[i]),
            )
            for i in range(2)
        ]  # fmt: skip
        for i, output in enumerate(runner.launch(StepBatch(slices)).result()):
            assert output.error is None
            starts[i] = len(known[i])
            known[i] += output.tokens
            starts[i] = len(known[i]) - 1
    return known[0][: 20 + count]


@pytest.mark.parametrize("kind", ["fp32", "int8"])
def test_the_tokens_are_those_of_torch(folder, kind):
    reference = load_model(folder, weights="none", compute="fp32", device="cpu", threads=1, kv_cache=kind)
    expected = tokens(reference.make_runner(8, 16), 6)
    assert tokens(on_triton(folder, kind), 6) == expected
    guessed = expected[21:24]
    assert tokens(on_triton(folder, kind, invariant=True), 6, draft=[*guessed, 5]) == expected


@pytest.mark.parametrize("family", ["qwen3-moe", "gpt-oss"] if os.environ.get("ARGOSY_WHOLE") else ["gpt-oss"])
def test_a_model_of_experts_gives_the_tokens_of_torch(family, tmp_path):
    """With biases and bounded gates, too."""
    small_models.model(family).save_pretrained(tmp_path)
    small_models.write_tokenizer(tmp_path)
    reference = load_model(tmp_path, weights="none", compute="fp32", device="cpu", threads=1, kv_cache="fp32")
    assert reference.kernels["experts"].startswith("experts-each")
    assert tokens(on_triton(tmp_path, "fp32"), 2) == tokens(reference.make_runner(8, 16), 2)


def test_warming_leaves_the_answers_as_they_are(folder):
    runner = load_model(folder, weights="none", compute="fp32", device="cpu", threads=1).make_runner(8, 16)
    cold = tokens(runner, 6)
    warm.warm(runner, block_size=16, longest=64, tokens=64)
    assert tokens(runner, 6) == cold


def test_a_gpu_is_warmed_for_all_kinds_of_steps():
    found = list(warm.steps(block_size=16, longest=8192, tokens=2048))
    kinds = {(len(s.slices), len(s.slices[0].tokens), s.slices[0].start > 0) for s in found}
    assert kinds == {
        (count, tokens, later) for tokens in (1, 4, 16, 32, 200) for count in {1, min(96, 2048 // tokens)} for later in (False, True)
    }  # fmt: skip
    assert all(batch.num_tokens <= 2048 for batch in found)
    for longest in (1, 3, 100):
        for batch in warm.steps(block_size=16, longest=longest, tokens=8):
            assert all(piece.start + len(piece.tokens) <= longest for piece in batch.slices)
            assert batch.num_tokens <= 8


def test_steps_of_all_sizes_have_the_tiles_of_those_before_the_worker_is_ready():
    """Of weights in 8 and 4 bits, of rows in 8 bits, and of experts."""
    rows = {batch.num_tokens for batch in warm.steps(block_size=16, longest=8192, tokens=2048)}
    forms = (
        lambda n: paths.path(rows=n, outputs=4096, inputs=4096, bits=8, group=0, multiprocessors=132).tile,
        lambda n: paths.path(rows=n, outputs=4096, inputs=4096, bits=4, group=64, multiprocessors=132).tile,
        lambda n: paths.takes_codes(n) and paths.coded_tile(n),
        lambda n: [(paths.rows_of_tile(n * 4, count), paths.pairs_at_once(n * 4)) for count in (8, 128)],
    )
    for form in forms:
        warmed = [form(n) for n in rows]
        assert [n for n in range(1, 8193) if form(n) not in warmed] == []
