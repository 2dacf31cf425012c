"""What the largest steps take: which steps these are, and what is left for the KV cache of a GPU."""

import gc
import weakref

import pytest
import torch

from argosy_api import memory
from argosy_api.errors import ModelDoesNotFitError
from argosy_worker.compute import peak, torch_model
from argosy_worker.compute.warm import largest

GIB = 1 << 30


@pytest.mark.parametrize(
    ("longest", "tokens", "sequences", "prompts", "together"),
    [(8192, 256, 64, [256], 64), (100, 256, 64, [100, 100, 56], 64), (128, 256, 512, [128, 128], 256)],
)
def test_the_largest_steps_are_full_of_prompts_and_of_sequences(longest, tokens, sequences, prompts, together):
    first, second = largest(block_size=16, longest=longest, tokens=tokens, sequences=sequences)
    assert [len(s.tokens) for s in first.slices] == prompts
    assert [len(s.tokens) for s in second.slices] == [1] * together
    for s in (*first.slices, *second.slices):
        end = s.start + len(s.tokens)
        assert end <= longest
        assert s.table == [0] * -(-end // 16)  # the null block, which nobody sees


class Meter:
    """Of what a test says was taken; looks whether anybody still has the runner."""

    def __init__(self, most):
        self.taken, self.runner, self.calls = most, None, []

    def begin(self):
        assert self.runner is None
        self.calls.append("begin")

    def most(self):
        gc.collect()
        self.calls.append("the runner is gone" if self.runner() is None else "somebody has the runner")
        return self.taken


def test_steps_are_computed_and_nothing_stays(fp32_model):
    meter, steps = Meter(5 * GIB), []

    def make_runner():
        runner = fp32_model._launched(16)
        launch = runner.launch

        class Watched:
            def launch(self, batch):
                pending = launch(batch)
                steps.append([out.error for out in pending.result()])
                return pending

        watched = Watched()
        meter.runner = weakref.ref(watched)
        return watched

    found = peak.step_bytes(make_runner, meter, block_size=16, longest=8192, tokens=40, sequences=3)
    assert found == 5 * GIB
    assert steps == [[None], [None] * 3]
    assert meter.calls == ["begin", "the runner is gone"]


def test_a_cpu_is_not_measured(int8_model):
    assert int8_model.step_bytes(16, tokens=256, sequences=64) is None


def test_of_a_gpu_the_cache_has_what_steps_leave():
    def cache(step):
        return memory.automatic_cache(100 * GIB, device="cuda", limited=False, one_sequence=1, step=step)

    assert cache(None) == 85 * GIB
    assert cache(2 * GIB) == 93 * GIB
    assert cache(30 * GIB) == 65 * GIB
    assert cache(99 * GIB) == 0


def test_a_step_that_does_not_fit_is_told_in_the_resources_words(fp32_model, monkeypatch):
    class Full:
        def __init__(self, device):
            assert device.type == "cuda"

        def begin(self):
            raise torch.OutOfMemoryError

    monkeypatch.setattr(torch_model.peak, "CudaMeter", Full)
    monkeypatch.setattr(fp32_model.stack, "device", torch.device("cuda"))
    with pytest.raises(ModelDoesNotFitError, match=r"no room for a step of 256 tokens or 64 .* engine.maxBatchTokens"):
        fp32_model.step_bytes(16, tokens=256, sequences=64)
