"""Native layers that ranks share: the bits of one process. Threads are the ranks; one call computes all layers of each."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import small_models
import torch

from argosy_api.pipeline import Cut, Place
from argosy_worker.compute.native import library
from argosy_worker.compute.native.joins import padding
from argosy_worker.compute.native.layer import NativeLayer
from argosy_worker.compute.shared import Sharing
from argosy_worker.core.batch import RunnerBrokenError, SequenceSlice
from argosy_worker.core.layout import make_layout
from argosy_worker.models import load_part

pytestmark = pytest.mark.skipif(not library.load(), reason="LEFT OUT: no native kernels here")
STEPS = [[(0, 1)], [(1, 50)], [(50, 89)], [(89, 90)]]
PROMPT = torch.randint(3, small_models.VOCAB, (90,), generator=torch.Generator().manual_seed(2)).tolist()


class Meeting:
    """The exchange of ranks that are threads; `fails` breaks the first one off."""

    def __init__(self, ranks, fails=False):
        self._barrier, self._held, self._fails = threading.Barrier(ranks, timeout=60), [None] * ranks, fails

    def rank(self, number):
        meeting = self

        class Ring:
            @staticmethod
            def join_columns(x, widths):
                assert x.shape[1] == widths[number]
                if meeting._fails:
                    raise RunnerBrokenError("another rank of the group is gone")
                meeting._held[number] = x.clone()
                meeting._barrier.wait()
                joined = torch.cat(meeting._held, 1)
                meeting._barrier.wait()
                return joined

        return Ring()


@pytest.fixture
def folder(request, tmp_path):
    small_models.model(request.param).save_pretrained(tmp_path)
    small_models.write_tokenizer(tmp_path)
    return tmp_path


def hidden(part, x):
    """What comes of rows of a prompt in chunks, of which the first and the last are one row."""
    attention, found = part.make_attention(8, 16), []
    for step in STEPS:
        slices = [
            SequenceSlice(request_id="r", tokens=PROMPT[b:e], start=b, table=range(1, 9), sample_rows=range(0), params=None)
            for b, e in step
        ]  # fmt: skip
        layout = make_layout(slices, 16)
        attention.prepare(layout)
        rows = torch.from_numpy(layout.positions)
        with torch.inference_mode():
            found.append(part.stack(x[rows].clone(), rows, attention))
    return torch.cat(found)


def shared(folder, ranks, meeting, **how):
    """Each rank's layers, and what computes them."""
    parts = []
    for number in range(ranks):
        sharing = Sharing()
        # of another stage: rank 0 would give its steps to the others first
        parts.append(load_part(folder, place=Place(ranks + number, 2, ranks), sharing=sharing, **how))
        sharing.connect(meeting.rank(number))
    return parts


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    ("folder", "how"),
    [
        ("llama-llama3", {"weights": "int8"}),
        ("llama-biases", {"weights": "int4"}),
        ("gemma2", {"weights": "int8", "kv_cache": "int8"}),
        ("qwen3", {"weights": "int8", "kv_cache": "fp32"}),
    ],
    indirect=["folder"],
)
def test_shared_native_layers_give_the_bits_of_one_process(folder, how, threads):
    how = {**how, "device": "cpu", "threads": threads}
    alone = load_part(folder, place=Place(1, 2, 1), **how)
    parts = shared(folder, 2, Meeting(2), **how)
    assert [[type(layer) for layer in part.stack.layers] for part in (alone, *parts)] == [[NativeLayer]] * 3
    assert {part.facts.exactness for part in parts} == {"exact"}
    x = torch.randn(len(PROMPT), alone.config.hidden, generator=torch.Generator().manual_seed(1))
    expected = hidden(alone, x)
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda part: hidden(part, x), parts))
    assert all(torch.equal(one, expected) for one in found)


@pytest.mark.parametrize("folder", ["llama-llama3"], indirect=True)
def test_a_step_whose_other_rank_is_gone_is_broken_off_with_its_reason(folder):
    part, _ = shared(folder, 2, Meeting(2, fails=True), weights="int8", device="cpu", threads=2)
    x = torch.zeros(len(PROMPT), part.config.hidden)
    for _ in range(2):  # threads meet again afterwards
        with pytest.raises(RunnerBrokenError, match="another rank of the group is gone"):
            hidden(part, x)


@pytest.mark.parametrize("part", [0, 1, 2])
def test_in_place_of_others_there_are_zeros(part):
    widths = [len(Cut(number, 3).outputs(320)) for number in range(3)]
    found = padding(part)(torch.ones(2, widths[part]), widths)
    assert found.shape == (2, 320)
    assert found.sum(1).tolist() == [widths[part]] * 2
    assert found[0].nonzero().min() == sum(widths[:part])
