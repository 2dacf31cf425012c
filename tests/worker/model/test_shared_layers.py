"""Layers that ranks share: the logits of one process, bit for bit, of every kind of layer. Threads are the ranks."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from types import SimpleNamespace

import pytest
import small_models
import torch

from argosy_api.errors import ModelUnsupportedError
from argosy_api.pipeline import Place
from argosy_worker.compute.shared import SharedHead, SharedStack, Sharing
from argosy_worker.compute.stack import Stack
from argosy_worker.core.batch import RunnerBrokenError, SequenceSlice
from argosy_worker.core.layout import make_layout
from argosy_worker.group.remote import RemoteLayers, follow
from argosy_worker.group.ring import Ring
from argosy_worker.models import load_model, load_part, torch_build
from argosy_worker.models.build import open_model
from argosy_worker.models.native_build import Asked

PROMPT = torch.randint(3, small_models.VOCAB, (90,), generator=torch.Generator().manual_seed(2)).tolist()
FP32 = {"weights": "none", "kv_cache": "fp32", "device": "cpu", "threads": 1}
NATIVE = {"weights": "int8", "device": "cpu", "threads": 1}
"""On native kernels, where there are any: layers of llama and gemma2 as one call, linears of mixtral."""


@pytest.fixture
def folder(request, tmp_path):
    small_models.model(request.param).save_pretrained(tmp_path)
    small_models.write_tokenizer(tmp_path)
    return tmp_path


def logits(loaded, runner):
    """Of a prompt in two chunks, and of a token more."""
    found = []
    for start, end in ((0, 50), (50, 89), (89, 90)):
        part = SequenceSlice(request_id="r", tokens=PROMPT[start:end], start=start, table=range(1, 9), sample_rows=range(0), params=None)  # fmt: skip
        layout = make_layout([part], 16)
        runner._attention.prepare(layout)
        with torch.inference_mode():
            hidden = loaded.decoder.hidden(torch.tensor(part.tokens), torch.from_numpy(layout.positions), runner._attention)  # fmt: skip
            found.append(loaded.decoder.logits(hidden))
    return torch.cat(found)


def in_one_process(folder, how):
    """Also of a model that is native as a whole: torch's runner around the native layers."""
    asked = Asked(**{name: value for name, value in how.items() if name != "device"})
    with ExitStack() as stack:
        return torch_build.build(open_model(folder, stack), asked, "cpu", lambda *_: None)


def ring(store, port, place):
    return Ring.join(store if place.rank == 0 else Ring.store_of("127.0.0.1", port, place.ranks), place, "127.0.0.1")


def member(port, path, place, how):
    sharing = Sharing()
    part = load_part(path, place=place, sharing=sharing, **how)
    attention = part.make_attention(8, 16)
    joined = ring(None, port, place)
    sharing.connect(joined)
    with pytest.raises(RunnerBrokenError):
        follow(part, attention, joined, part.head)
    return part.kv_heads


@pytest.mark.parametrize(
    ("folder", "stages", "how"),
    [
        *((name, stages, FP32) for name, stages in (("llama-biases", 1), ("llama", 2), ("mixtral", 1), ("gemma2", 1), ("phi3-plain", 2), ("gpt-oss", 1))),
        *((name, stages, NATIVE) for name, stages in (("llama-biases", 1), ("llama-llama3", 2), ("mixtral", 1), ("gemma2", 1))),
    ],
    indirect=["folder"],
)  # fmt: skip
def test_logits_are_those_of_one_process(folder, stages, how):
    whole = in_one_process(folder, how)
    alone = logits(whole, whole.make_runner(8, 16))
    store, port = Ring.store("127.0.0.1")
    group = Place(0, stages, 2)
    with ThreadPoolExecutor(group.ranks) as pool:
        others = [pool.submit(member, port, folder, group._replace(rank=rank), how) for rank in range(1, group.ranks)]
        sharing, rest = Sharing(), RemoteLayers() if stages > 1 else None
        loaded = load_model(folder, place=group, rest=rest, sharing=sharing, **how)
        runner = loaded.make_runner(8, 16)
        joined = ring(store, port, group)
        for one in (sharing, rest):
            if one is not None:
                one.connect(joined)
        found = logits(loaded, runner)
        for one in (sharing, rest):
            if one is not None:
                one.connect(None)
        del joined, one  # rank 0 has ended
        assert [other.result(timeout=120) for other in others] == [1] * (group.ranks - 1)
    assert torch.equal(found, alone)
    assert loaded.kv_heads == 1
    if stages == 1:
        assert loaded.kv_bytes_per_block(16) * 2 == whole.kv_bytes_per_block(16)


class Alone:
    """An exchange without others."""

    def share(self, layout, rows):
        pass

    def logits(self, rows, head, widths):
        return head(rows)


def fails(*_):
    raise MemoryError


def test_what_fails_while_others_wait_ends_the_group():
    sharing = Sharing()
    head = SharedHead(fails, sharing, [8])
    stack = SharedStack(Stack([fails], [], dtype=torch.float32, device=torch.device("cpu")), sharing)
    with pytest.raises(RunnerBrokenError, match="has not begun"):
        head(torch.ones(1, 8))
    sharing.connect(Alone())
    with pytest.raises(RunnerBrokenError, match="MemoryError"):
        head(torch.ones(1, 8))
    with pytest.raises(RunnerBrokenError, match="MemoryError"):
        stack(torch.ones(1, 8), torch.zeros(1), SimpleNamespace(layout=None))


@pytest.mark.parametrize(
    ("folder", "parts", "why"),
    [("olmo2", 2, "norms all heads together"), ("llama", 3, "has 2 key/value heads")],
    indirect=["folder"],
)
def test_what_cannot_be_shared_is_refused(folder, parts, why):
    with pytest.raises(ModelUnsupportedError, match=rf"parallelism\.tensor.*{why}"):
        load_model(folder, place=Place(0, 1, parts), sharing=Sharing(), **FP32)
