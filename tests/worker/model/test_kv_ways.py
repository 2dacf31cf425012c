"""Every type of keys and values, and a windowed model, under the scheduler: the same answers whatever the way.

Alone as in company, a prompt as a whole as in chunks, cold as warm, and with blocks that come back from host memory or
come from another worker: compared by `==`, with log-probabilities.
"""

import pytest
import small_models

from argosy_api.blocks import block_ids, root_id
from argosy_api.params import SamplingParams
from argosy_worker.compute.attention.kv_types import KV_TYPES
from argosy_worker.core.blocks import BlockPool, blocks_of_window
from argosy_worker.core.exchange import Exchange
from argosy_worker.core.request import Request
from argosy_worker.core.scheduler import Scheduler, SchedulerConfig
from argosy_worker.models import load_model

BLOCK = 16


@pytest.fixture(params=[*KV_TYPES, "window", "window-int8"])
def subject(request, tmp_path):
    """A model, the length of its prompts, and how many tokens each gets."""
    if not request.param.startswith("window"):
        path = request.getfixturevalue("smollm_path")
        return load_model(path, kv_cache=request.param, device="cpu", threads=2), 40, 3
    small_models.model("mistral").save_pretrained(tmp_path)
    small_models.write_tokenizer(tmp_path)
    kind = "int8" if request.param.endswith("int8") else "auto"
    return load_model(tmp_path, compute="fp32", kv_cache=kind, device="cpu", threads=2), 120, 12


class Worker:
    """Scheduler, pool and runner, as the engine thread has them."""

    def __init__(self, model, *, blocks=64, host=0, budget=512):
        self.model = model
        self.runner = model.make_runner(blocks, BLOCK, host_blocks=host)
        window = blocks_of_window(model.facts.window, BLOCK)
        self.pool = BlockPool(blocks, window_blocks=window, host_blocks=host)
        self.scheduler = Scheduler(SchedulerConfig(max_batch_tokens=budget, max_running=8), self.pool)
        self.exchange = Exchange(self.pool, self.runner.store, self.scheduler.line.stored)

    def answers(self, jobs):
        """(tokens, log-probabilities) of each, and the requests themselves."""
        requests = [
            Request(
                request_id=f"r{i}", prompt=prompt, params=params, root=root_id("m"), block_size=BLOCK, arrival=0.0,
                max_model_len=400,
            )
            for i, (prompt, params) in enumerate(jobs)
        ]  # fmt: skip
        scores = {request: [] for request in requests}
        for request in requests:
            self.scheduler.add(request)
        while self.scheduler.has_work:
            step = self.scheduler.schedule(0.0)
            for progress in self.scheduler.update(step, self.runner.launch(step.batch).result()):
                assert progress.error == ""
                scores[progress.request] += progress.logprobs
        self.pool.check([])
        return [(r.tokens[len(r.prompt) :], scores[r]) for r in requests], requests


def test_every_way_gives_the_same_answers(subject):
    model, length, count = subject
    vocab = model.facts.vocab_size
    jobs = [
        (
            [(3 + i) * (7 + j) % (vocab - 3) + 3 for j in range(length + 5 * i)],
            SamplingParams(max_tokens=count, temperature=0.9 * (i % 2), seed=i, logprobs=2, ignore_eos=True),
        )
        for i in range(3)
    ]
    alone = [Worker(model).answers([job])[0][0] for job in jobs]
    assert len({tuple(tokens) for tokens, _ in alone}) == 3

    together = Worker(model, budget=24)
    for turn in range(2):  # in chunks beside each other, and then on a warm cache
        answers, requests = together.answers(jobs)
        assert answers == alone
        assert all((request.cached_tokens > 0) == bool(turn) for request in requests)

    needed = max(request.most_blocks for request in requests)
    little = Worker(model, blocks=needed, host=64)
    for _ in range(2):  # each drives the others out
        assert [little.answers([job])[0][0] for job in jobs] == alone
    assert little.pool.host.restored > 0
    for job, answer in zip(jobs, alone, strict=True):
        target = Worker(model)
        full = (len(job[0]) - 1) // BLOCK
        for block_id in target.exchange.lacking(block_ids(root_id("m"), job[0], BLOCK)[:full]):
            assert target.exchange.write(block_id, little.exchange.read(block_id))  # most are on the host only
        (found,), (request,) = target.answers([job])
        assert (found, request.cached_tokens) == (answer, full * BLOCK)
