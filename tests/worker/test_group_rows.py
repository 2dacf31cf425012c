"""How rows go from rank to rank: which way is taken, that copies keep every bit, and what a GPU computes before it is
ready. The rings are real ones of Gloo, with threads as ranks."""

from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from argosy_api.errors import ModelUnsupportedError
from argosy_api.pipeline import Place
from argosy_worker import sim
from argosy_worker.compute import warm
from argosy_worker.core.batch import Finished, RunnerBrokenError
from argosy_worker.core.layout import make_layout
from argosy_worker.group.backend import Backend, Offer, choose, offer
from argosy_worker.group.leader import Hello
from argosy_worker.group.remote import RemoteLayers, follow
from argosy_worker.group.ring import Ring
from argosy_worker.group.rows import GlooRows, Staging
from argosy_worker.serve import startup
from argosy_worker.serve.lifecycle import Lifecycle
from argosy_worker.serve.settings import parse

CPU = torch.device("cpu")


def gpu(number, **more):
    return Offer(device="cuda", gpu=f"GPU-{number}", nccl=more.pop("nccl", True), **more)


@pytest.mark.parametrize(
    ("offers", "backend"),
    [
        ([Offer(), Offer()], Backend.GLOO),
        ([Offer(nccl=True), Offer(nccl=True)], Backend.GLOO),
        ([gpu(0), gpu(1), gpu(2)], Backend.NCCL),
        ([gpu(0), gpu(1, nccl=False)], Backend.GLOO),
        ([gpu(0), gpu(1), gpu(0)], Backend.GLOO),  # NCCL takes no GPU twice
    ],
)
def test_nccl_is_taken_where_all_have_it_and_a_gpu_of_their_own(offers, backend):
    assert choose(offers) is backend


@pytest.mark.parametrize("offers", [[gpu(0), Offer()], [Offer(), Offer(), gpu(0)]])
def test_a_group_of_cpus_and_gpus_is_refused(offers):
    with pytest.raises(ModelUnsupportedError, match=r"engine\.device"):
        choose(offers)


def test_this_machine_offers_its_cpu():
    assert offer("cpu") == Offer(device="cpu")


def ring(*, copied):
    """Two ranks; with copies, as if the rows lay elsewhere."""
    store, port = Ring.store("127.0.0.1")
    ranks = [
        lambda: Ring.join(store, Place(0, 2), "127.0.0.1"),
        lambda: Ring.join(Ring.store_of("127.0.0.1", port, 2), Place(1, 2), "127.0.0.1"),
    ]
    with ThreadPoolExecutor(2) as pool:
        made = list(pool.map(lambda join: join(), ranks))
    for one in made:
        one._rows = GlooRows(one._group, Staging(CPU, copied=copied))
    return made


def layout_of(count):
    step = SimpleNamespace(tokens=[1] * count, start=0, table=[1, 2, 3])
    return make_layout([step], 16)


@pytest.mark.parametrize("copied", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_arrive_bit_for_bit_with_and_without_copies(copied, dtype):
    first, second = ring(copied=copied)
    given = torch.Generator().manual_seed(1)

    def back():
        came = second.receive()
        second.send(None, came.rows)
        return came

    with ThreadPoolExecutor(1) as other:
        for count in (3, 40, 1, 17):  # larger, and smaller again
            rows = torch.randn((count, 8), generator=given).to(dtype)[:, ::2]  # not of one piece
            passed = other.submit(back)
            first.send(layout_of(count), rows)
            assert torch.equal(first.receive().rows, rows)
            came = passed.result(timeout=120)
            assert torch.equal(came.rows, rows)
            assert np.array_equal(came.layout.slots, layout_of(count).slots)


def test_what_was_received_is_kept_when_more_comes():
    staging = Staging(CPU, copied=True)
    found = []
    for value in (1.0, 2.0):
        host = staging.room((2, 2), torch.float32)
        host.fill_(value)
        found.append(staging.back(host))
    assert [float(rows.sum()) for rows in found] == [4, 8]
    rows = torch.ones((2, 2))
    assert Staging(CPU).out(rows) is rows  # nothing is copied on a CPU
    out = staging.out(rows)
    rows.zero_()
    assert float(out.sum()) == 4


# ------------------------------------------------------------------ before a group is ready


class Follower:
    """Layers of rank 1, which note the steps that they compute."""

    def __init__(self):
        self.seen, self.device = [], CPU

    def __call__(self, x, positions, attention):
        self.seen.append(len(x))
        return x


class Runner:
    """Rank 0: all of its steps go to the others."""

    def __init__(self, others):
        self.others = others

    def launch(self, batch):
        layout = make_layout(batch.slices, 16)
        step = SimpleNamespace(attention=SimpleNamespace(layout=layout))
        self.others(torch.zeros((batch.num_tokens, 8)), step)
        return Finished([])


def test_every_rank_computes_the_steps_that_are_computed_ahead():
    first, second = ring(copied=True)
    stack = Follower()
    part = SimpleNamespace(stack=stack, threads=1, config=SimpleNamespace(layer_weights=1))
    attention = SimpleNamespace(prepare=lambda layout: None)

    with ThreadPoolExecutor(1) as other:
        rank_1 = other.submit(follow, part, attention, second)
        others = RemoteLayers()
        with pytest.raises(RunnerBrokenError, match="has not begun"):
            warm.warm(Runner(others), block_size=16, longest=2048, tokens=512)
        others.connect(first)
        warm.warm(Runner(others), block_size=16, longest=2048, tokens=512)
        del first, others  # rank 0 has ended
        with pytest.raises(RunnerBrokenError):
            rank_1.result(timeout=120)
    wanted = [batch.num_tokens for batch in warm.steps(block_size=16, longest=2048, tokens=512)]
    assert stack.seen == wanted
    assert len(wanted) > 8


class Model:
    """What rank 0 has loaded."""

    kernels = {}  # noqa: RUF012

    def __init__(self, events, blocks):
        self.events, self.blocks = events, blocks
        self.facts = sim.load(startup.ModelUri.parse("sim://m"), lambda *_: None).facts

    def kv_bytes_per_block(self, block_size):
        return 1000

    def memory_for_kv(self, kept=0, step=None):
        return self.blocks * 1000

    def memory_left(self):
        return 1_000_000

    def host_memory_left(self):
        return 0

    def make_runner(self, num_blocks, block_size, **more):
        self.events.append(f"cache of {num_blocks}")
        return SimpleNamespace(store=SimpleNamespace(bytes_per_block=1))

    def warm(self, runner, block_size, tokens):
        self.events.append("warm")


@pytest.mark.parametrize(("own", "others", "least"), [(90, [70, 50], 50), (40, [70, 50], 40)])
def test_a_group_warms_up_when_all_have_joined_with_the_cache_of_the_smallest(monkeypatch, own, others, least):
    events = []

    class Leader:
        def wait(self, progress):
            return [hello(rank, blocks) for rank, blocks in enumerate(others, 1)]

        def begin(self, blocks, backend, device):
            events.append(f"begin with {blocks} by {backend} on {device}")

    monkeypatch.setattr(startup, "_load_model", lambda *_, **__: Model(events, own))
    spec = '--spec={"model": {"uri": "file:///m.gguf", "servedName": "m"}, "parallelism": {"pipeline": 3}}'
    settings = parse([spec], {"ARGOSY_RANK": "0", "ARGOSY_GROUP_LEADER": "h:1"})
    loaded = startup.load(settings, Lifecycle(), Leader())
    assert events == [f"cache of {least}", f"begin with {least} by gloo on {loaded.facts.device}", "warm"]
    assert loaded.config.num_blocks == least


def hello(rank, blocks):
    return Hello(rank=rank, ranks=3, spec="s", blocks=blocks, fingerprint="f", exactness="", weights_bytes=1)
