"""Steps that are recorded once and computed again: which they are, what fills them up, and that answers stay the same.

Without a GPU a recording is a function that is called again: on arrays that stay where they are, as a graph's do.
"""

from collections import deque
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace

import numpy as np
import pytest
import tiny_llama
import torch
from hypothesis import given
from hypothesis import strategies as st
from kernels_here import DEVICE

from argosy_api.params import SamplingParams
from argosy_worker.compute.attention.cache import PagedKvCache
from argosy_worker.compute.attention.kernels import TritonAttention
from argosy_worker.compute.attention.kv_types import KV_TYPES
from argosy_worker.compute.attention.triton_paged import PagedTriton
from argosy_worker.compute.config import Experts
from argosy_worker.compute.fused import FusedLayers
from argosy_worker.compute.fused_layer import FusedLayer
from argosy_worker.compute.graphs import MOST_EXPECTED, MOST_GRAPHS, CudaRecord, Graphs, able
from argosy_worker.compute.layer import LayerWeights
from argosy_worker.compute.mlp import DenseMlp, ExpertsMlp
from argosy_worker.compute.quant.precision import Precision
from argosy_worker.compute.shared import SharedLinear, Sharing
from argosy_worker.compute.torch_runner import TorchRunner
from argosy_worker.compute.triton.buckets import MOST_SEQUENCES, Bucket, bucket_of, filled, likely, nothing
from argosy_worker.compute.triton.machine import Gpu
from argosy_worker.core.batch import PLACEHOLDER, SequenceSlice, StepBatch, prepares
from argosy_worker.core.layout import make_layout
from argosy_worker.models.build import open_model
from argosy_worker.models.builder import Builder
from argosy_worker.sampling.sampler import CUDA

H100 = Gpu(name="NVIDIA H100", capability=(9, 0), multiprocessors=132)


def piece(tokens, start, table, block=16):
    return SequenceSlice(
        request_id=str(table[0]), tokens=list(tokens), start=start, table=table + [0] * (-(-(start + len(tokens)) // block)),
        sample_rows=range(len(tokens) - 1, len(tokens)), params=SamplingParams(temperature=0),
    )  # fmt: skip


def layout_of(counts, starts):
    slices = [piece([0] * n, s, list(range(1, 9))) for n, s in zip(counts, starts, strict=True)]
    return make_layout(slices, 16)


@pytest.mark.parametrize(
    ("counts", "starts", "longest", "expected"),
    [
        ([1], [0], 8192, Bucket(1, 1, 1024)),
        ([1, 1, 1], [5, 100, 2], 8192, Bucket(4, 1, 1024)),
        ([4] * 9, [1030] + [3] * 8, 8192, Bucket(10, 4, 2048)),
        ([1] * 33, [3000] * 33, 4096, Bucket(40, 1, 4096)),
        ([1], [3000], 3500, Bucket(1, 1, 3500)),
        ([1, 4], [5, 100], 8192, None),
        ([9], [0], 8192, None),
        ([1] * 257, [0] * 257, 8192, None),
    ],
)
def test_a_step_has_the_bucket_of_its_shape(counts, starts, longest, expected):
    assert bucket_of(layout_of(counts, starts), longest) == expected


@given(st.integers(1, MOST_SEQUENCES), st.integers(1, 8), st.integers(1, 5000))
def test_a_bucket_has_room_and_wastes_at_most_a_quarter(sequences, tokens, start):
    layout = layout_of([tokens] * sequences, [start] * sequences)
    bucket = bucket_of(layout, 8192)
    assert sequences <= bucket.sequences <= max(MOST_SEQUENCES, sequences)
    assert bucket.sequences < 2 * sequences
    assert sequences <= 8 or bucket.sequences <= 1.25 * sequences
    assert start + tokens <= bucket.keys <= 8192
    whole = filled(layout, bucket)
    assert bucket_of(whole, 8192).sequences == bucket.sequences
    assert whole.block_table.shape == (bucket.sequences, -(-bucket.keys // 16))
    assert len(whole.positions) == len(whole.slots) == bucket.rows == whole.cu_rows[-1]
    rows = sequences * tokens
    for name in ("positions", "slots", "context_lens", "cu_rows"):
        found, held = getattr(whole, name), getattr(layout, name)
        assert np.array_equal(found[: len(held)], held)
        assert found.dtype == np.int32
    assert (whole.slots[rows:] < 16).all()  # the null block, which nobody reads
    assert (whole.block_table[sequences:] == 0).all()
    assert (whole.context_lens[sequences:] == tokens).all()


@given(st.integers(1, 40_000), st.integers(16, 400_000), st.integers(1, 200))
def test_what_is_expected_is_what_steps_fall_into_the_smallest_first(longest, room, most):
    found = likely(longest, room, most)
    assert len(set(found)) == len(found) <= most
    assert found[0] == Bucket(1, 1, min(1024, longest))
    assert sorted(found, key=lambda one: one.rows * one.keys) == found
    for one in found:
        layout = filled(nothing(16), one)
        assert bucket_of(layout, longest) == replace(one, keys=min(1024, longest))
        assert one.sequences == 1 or one.sequences * one.keys <= room
        assert one.keys <= longest
        assert layout.block_table.shape == (one.sequences, -(-one.keys // 16))
        assert not layout.block_table.any()
        assert (layout.slots < 16).all()


def test_an_h100_with_an_8b_model_expects_all_batches_of_short_contexts():
    found = likely(8192, 400_000, MOST_EXPECTED)
    assert 64 < len(found) <= MOST_EXPECTED < MOST_GRAPHS
    assert {one.sequences for one in found if one.keys == 1024} >= {1, 2, 4, 8, 16, 32, 64, 128}
    assert {one.tokens for one in found if one.sequences == 1} == set(range(1, 9))
    assert max(one.keys for one in found) == 8192


@dataclass
class Counting:
    """Records by keeping the function."""

    recorded: int = 0
    again: int = 0
    fails: bool = False

    def __call__(self, run):
        if self.fails:
            raise RuntimeError("operation not permitted when stream is capturing")
        self.recorded += 1
        memory = run()

        def again():
            self.again += 1
            memory.copy_(run())
            return memory

        return again


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A decoder of Triton's layers, and a way to make attention for it."""
    folder = tmp_path_factory.mktemp("model")
    tiny_llama.write(folder)
    with ExitStack() as files, torch.inference_mode():
        source = open_model(folder, files).weights
        precision = Precision(weights="none", group=0, compute="fp32")
        layers = (FusedLayers(TritonAttention(lambda: H100)),)
        builder = Builder(source, precision, DEVICE, None, lambda *_: None, layer_kernels=layers)
        stack = builder.stack(source.config, range(source.config.layers))
        decoder = builder.decoder(source.config, stack)

    def attention():
        config = source.config
        cache = PagedKvCache(
            layers=config.layers, blocks=8, block_size=16, kv_heads=config.kv_heads, head_dim=config.head_dim,
            dtype=torch.float32, device=DEVICE, kind=KV_TYPES["fp32"],
        )  # fmt: skip
        return PagedTriton(cache, stack.specs, multiprocessors=4)

    return decoder, attention


def answers(runner, prompts, steps):
    """Greedy tokens: the prompts one by one, then all sequences together; the last one has a step less."""
    known = [list(prompt) for prompt in prompts]
    for i in range(len(known)):
        [output] = runner.launch(StepBatch([piece(known[i], 0, [i + 1])])).result()
        known[i] += output.tokens
    for step in range(steps):
        going = known[: len(known) - (step == steps - 1)]
        slices = [piece(own[-1:], len(own) - 1, [i + 1]) for i, own in enumerate(going)]
        for i, output in enumerate(runner.launch(StepBatch(slices)).result()):
            known[i] += output.tokens
    return known


def test_recorded_steps_give_the_tokens_of_launched_ones(made):
    """A graph is recorded once for its bucket, and computes sequences that come and go."""
    decoder, attention = made
    prompts = [tiny_llama.PROMPT[:9], tiny_llama.PROMPT[20:31], tiny_llama.PROMPT[40:50]]
    expected = answers(TorchRunner(decoder, attention(), threads=1, sampler=CUDA), prompts, 4)
    record, own = Counting(), attention()
    graphs = Graphs(
        decoder.stack, own, record if DEVICE.type == "cpu" else CudaRecord(), longest=64, width=decoder.config.hidden
    )
    runner = TorchRunner(decoder, own, threads=1, sampler=CUDA, graphs=graphs)
    assert answers(runner, prompts, 4) == expected
    assert graphs.buckets == {Bucket(4, 1, 64), Bucket(2, 1, 64)}
    if DEVICE.type == "cpu":
        assert (record.recorded, record.again) == (2, 4)


def test_recorded_steps_take_the_tokens_of_the_step_that_is_out(made):
    """Two steps are out at a time, and no launch waits for the device, once the graphs are there."""
    decoder, attention = made
    prompts = [tiny_llama.PROMPT[:9], tiny_llama.PROMPT[20:31], tiny_llama.PROMPT[40:50]]
    expected = answers(TorchRunner(decoder, attention(), threads=1, sampler=CUDA), prompts, 4)
    own = attention()
    graphs = Graphs(
        decoder.stack,
        own,
        Counting() if DEVICE.type == "cpu" else CudaRecord(),
        longest=64,
        width=decoder.config.hidden,
    )
    runner = TorchRunner(decoder, own, threads=1, sampler=CUDA, graphs=graphs, asynchronous=True)
    out = deque([runner.launch(StepBatch([piece(p, 0, [i + 1]) for i, p in enumerate(prompts)]))])
    found = [list(prompt) for prompt in prompts]
    for step in range(4):
        slices = [piece([PLACEHOLDER], len(p) + step, [i + 1]) for i, p in enumerate(prompts)]
        with no_waiting() if step == 2 else nullcontext():
            out.append(runner.launch(StepBatch(slices[: 3 - (step == 3)])))
        for i, output in enumerate(out.popleft().result()):
            found[i] += output.tokens
    for i, output in enumerate(out.popleft().result()):
        found[i] += output.tokens
    assert found == expected
    assert graphs.buckets == {Bucket(4, 1, 64), Bucket(2, 1, 64)}


@contextmanager
def no_waiting():
    """On a GPU torch itself refuses to wait for it; what Triton's interpreter does is no tensor's operation."""
    if DEVICE.type == "cpu":
        yield
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_what_is_not_recorded_is_launched(made, caplog):
    decoder, attention = made
    prompts = [tiny_llama.PROMPT[:9]]
    expected = answers(TorchRunner(decoder, attention(), threads=1, sampler=CUDA), prompts, 2)
    own = attention()
    graphs = Graphs(decoder.stack, own, Counting(fails=True), longest=64, width=decoder.config.hidden)
    assert answers(TorchRunner(decoder, own, threads=1, sampler=CUDA, graphs=graphs), prompts, 2) == expected
    assert graphs.buckets == frozenset()
    assert caplog.text.count("graphs are off") == 1
    assert "not permitted when stream is capturing" in caplog.text


def test_expected_steps_are_recorded_one_at_a_time_before_they_are_met(made):
    """And their tokens are those of launched ones. What was met before is not recorded again."""
    decoder, attention = made
    prompts = [tiny_llama.PROMPT[:9], tiny_llama.PROMPT[20:31], tiny_llama.PROMPT[40:50]]
    expected = answers(TorchRunner(decoder, attention(), threads=1, sampler=CUDA), prompts, 4)
    own, record = attention(), Counting() if DEVICE.type == "cpu" else CudaRecord()
    buckets = [Bucket(1, 1, 64), Bucket(1, 3, 64), Bucket(2, 1, 64), Bucket(4, 1, 64)]
    graphs = Graphs(decoder.stack, own, record, longest=64, width=decoder.config.hidden, expected=buckets)
    runner = TorchRunner(decoder, own, threads=1, sampler=CUDA, graphs=graphs, asynchronous=True)
    for i in range(2):
        runner.launch(StepBatch([piece([7 + i], 0, [i + 1])])).result()
    assert graphs.buckets == {buckets[0]}
    more = []
    while not more or more[-1]:
        with torch.inference_mode(mode=False):
            more.append(prepares(runner)())
        assert len(graphs.buckets) == 1 + len(more)
    assert more == [True, True, False]
    assert graphs.buckets == set(buckets)
    assert not prepares(runner)()
    assert answers(runner, prompts, 4) == expected
    assert graphs.buckets == set(buckets)
    if DEVICE.type == "cpu":
        assert record.recorded == 4


def test_where_recording_fails_nothing_more_is_expected(made):
    decoder, attention = made
    graphs = Graphs(
        decoder.stack, attention(), Counting(fails=True), longest=64, width=decoder.config.hidden,
        expected=[Bucket(1, 1, 64), Bucket(2, 1, 64)],
    )  # fmt: skip
    runner = TorchRunner(decoder, attention(), threads=1, sampler=CUDA, graphs=graphs)
    assert not prepares(runner)()
    assert graphs.buckets == frozenset()
    assert not prepares(TorchRunner(decoder, attention(), threads=1, sampler=CUDA))()


class Named:
    def __init__(self, kind, *layers):
        self.device, self.layers = torch.device(kind), layers


class Waiting:
    def __init__(self, waits):
        self.waits = waits


def test_who_has_graphs_is_said_with_reasons(made):
    decoder, attention = made
    fused = decoder.stack.layers[0]
    assert fused.waits == ""
    experts = ExpertsMlp(None, [], Experts(2, 1))
    assert "experts one after another" in FusedLayer(None, 0, LayerWeights(qkv=len, o=len, mlp=experts)).waits
    shared = SharedLinear(len, Sharing(), part=0, outputs=[1])
    assert "ranks wait" in FusedLayer(None, 0, LayerWeights(qkv=len, o=len, mlp=DenseMlp(len, shared, "silu"))).waits
    assert able(Named("cuda", fused, fused), attention()).ok
    for stack, own, reason in (
        (Named("cpu", fused), attention(), "CUDA has graphs, the model is on cpu"),
        (Named("cuda", fused), object(), "attention by torch"),
        (Named("cuda", fused, object()), attention(), "a layer is not by Triton's kernels"),
        (Named("cuda", fused, Waiting("ranks wait for one another")), attention(), "ranks wait for one another"),
    ):
        verdict = able(stack, own)
        assert not verdict.ok
        assert reason in verdict.reason
