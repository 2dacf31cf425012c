"""Very many requests through the whole engine, a third of them given up at random tokens: the others are exact."""

import asyncio
import random

from argosy_api.params import SamplingParams
from argosy_worker.core.request import Finish
from argosy_worker.speculation.config import Method, SpeculationConfig

REQUESTS = 10_000
TOGETHER = 64
BLOCKS = 64
"""64 requests of up to 64 tokens need 256 blocks."""


async def test_ten_thousand_requests_of_which_a_third_is_given_up(make_rig, oracle):
    draw = random.Random(8)
    seen = {"ended": 0, "aborted": 0, "cancelled": 0}

    async def one(engine, number):
        begin, most = draw.randrange(60), draw.randint(8, 24)
        prompt = list(range(begin, begin + draw.randint(4, 40)))
        sampled = draw.randrange(2)
        params = SamplingParams(max_tokens=most, temperature=sampled, seed=number if sampled else None)
        until = draw.randrange(most) if draw.random() < 0.3 else None
        cancels = draw.random() < 0.5
        stream = engine.submit(f"r{number}", 1, prompt, params)
        tokens, finish = [], None
        async for piece in stream:
            tokens += piece.tokens
            finish = piece.finish
            if until is not None and len(tokens) > until and finish is None:
                if cancels:  # as when a client goes away
                    engine.cancel(stream)
                    break
                until = None
                await engine.abort(f"r{number}")
        if finish is Finish.LENGTH:
            assert tokens == oracle(prompt, most, temperature=sampled, seed=params.seed)
            seen["ended"] += 1
        else:
            assert tokens == oracle(prompt, most, temperature=sampled, seed=params.seed)[: len(tokens)]
            seen["cancelled" if finish is None else "aborted"] += 1

    numbers = iter(range(REQUESTS))

    async def client(engine):
        for number in numbers:
            await one(engine, number)

    speculation = SpeculationConfig(method=Method.AUTO, max_draft=4)
    async with make_rig(
        # steps that take a moment: else an answer may be whole before its reader can give it up
        "sim://m?decode_ms=1&prefill_tps=0", num_blocks=BLOCKS, max_running=TOGETHER, max_batch_tokens=512,
        host_blocks=2 * BLOCKS, speculation=speculation, draft="sim://m?decode_ms=0&prefill_tps=0&accept=0.7",
    ) as rig:  # fmt: skip
        async with asyncio.TaskGroup() as clients:
            for _ in range(TOGETHER):
                clients.create_task(client(rig.engine))
        load = await rig.load()
        assert (load.used_blocks, load.running, load.waiting) == (0, 0, 0)
        assert load.free_blocks + load.cached_blocks == load.total_blocks == BLOCKS
        pool = rig.engine._thread.scheduler.pool
        pool.check([])
        assert pool.host.restored > 0
        samples = {s.name: s.value for m in rig.metrics.registry.collect() for s in m.samples if not s.labels.get("le")}
    assert sum(seen.values()) == REQUESTS
    assert seen["ended"] > 0.6 * REQUESTS
    assert min(seen["aborted"], seen["cancelled"]) > 0.05 * REQUESTS
    assert samples["argosy_worker_preemptions_total"] > 0
    assert samples["argosy_worker_accepted_draft_tokens_total"] > 0
