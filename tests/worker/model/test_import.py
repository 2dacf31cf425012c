"""Blocks of a real model that come from another worker answer as those that are computed."""

import pytest

from argosy_api.blocks import root_id
from argosy_api.params import SamplingParams
from argosy_worker.core.blocks import BlockPool
from argosy_worker.core.exchange import Exchange
from argosy_worker.core.request import Request
from argosy_worker.core.scheduler import Scheduler, SchedulerConfig

BLOCKS = 24
PROMPT = [100 + 7 * i % 900 for i in range(150)]


class Worker:
    """Scheduler, pool and runner, as the engine thread has them."""

    def __init__(self, model):
        self.runner = model.make_runner(BLOCKS, 16)
        pool = BlockPool(BLOCKS)
        self.scheduler = Scheduler(SchedulerConfig(max_batch_tokens=64), pool)
        self.exchange = Exchange(pool, self.runner.store, self.scheduler.line.stored)

    def answer(self, params):
        request = Request(
            request_id="r", prompt=PROMPT, params=params, root=root_id("m"), block_size=16, arrival=0.0,
            max_model_len=BLOCKS * 16,
        )  # fmt: skip
        self.scheduler.add(request)
        scores = []
        while self.scheduler.has_work:
            step = self.scheduler.schedule(0.0)
            for progress in self.scheduler.update(step, self.runner.launch(step.batch).result()):
                scores += progress.logprobs
        return request, scores


@pytest.mark.parametrize("params", [{"temperature": 0}, {"temperature": 0.8, "seed": 3}], ids=["greedy", "seeded"])
@pytest.mark.parametrize("name", ["int8_model", "fp32_model"])
def test_imported_blocks_answer_as_computed_ones(request, name, params):
    """Bit for bit, with log-probabilities; other blocks lie where they come in, so places differ."""
    model = request.getfixturevalue(name)
    wanted = SamplingParams(max_tokens=24, logprobs=3, **params)
    source, target = Worker(model), Worker(model)
    assert source.exchange.write(b"0" * 16, source.runner.store.export(1))
    computed, scores = source.answer(wanted)
    assert computed.cached_tokens == 0
    ids = computed.ids[:9]
    contents = [source.exchange.read(block_id) for block_id in ids]
    assert all(target.exchange.write(i, content) for i, content in zip(ids, contents, strict=True))
    assert [target.exchange.read(i) for i in ids] == contents
    imported, others = target.answer(wanted)
    assert imported.cached_tokens == 9 * 16
    assert imported.tokens == computed.tokens
    assert others == scores
