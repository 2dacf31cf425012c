"""The engine: what it answers, what a fault ends, and that nothing keeps a block."""

import asyncio
import threading
import time

import grpc
import pytest
from engine_kit import GREEDY, PROMPT, Faulty, collect, tokens_of

from argosy_api import limits
from argosy_api.errors import DeadlineError, OverloadedError, UnavailableError
from argosy_api.order import Order
from argosy_api.params import SamplingParams
from argosy_api.v1 import worker_pb2 as pb
from argosy_worker.core.batching import Batching, Forming
from argosy_worker.core.request import Finish
from argosy_worker.engine.stream import Piece, Stream


async def test_many_at_once_answer_as_each_alone(make_rig, oracle):
    """Batches, chunks and the order of the line never show in the tokens; afterwards no block is in use."""
    prompts = [PROMPT[: 3 + 2 * i] + [i] * (i % 5) for i in range(24)]
    for budget in (16, 64, 256):
        async with make_rig(max_batch_tokens=budget, max_running=8, num_blocks=40) as rig:
            params = [SamplingParams(max_tokens=5 + i, temperature=i % 2, seed=i) for i in range(24)]
            for attempt in (1, 2):  # the second time with a warm cache
                streams = [rig.engine.submit(f"r{i}", attempt, p, params[i]) for i, p in enumerate(prompts)]
                answers = await asyncio.gather(*map(collect, streams))
                for i, chunks in enumerate(answers):
                    assert tokens_of(chunks) == oracle(prompts[i], 5 + i, temperature=i % 2, seed=i)
                    assert chunks[-1].finish is Finish.LENGTH
            load = await rig.load()
            assert (load.used_blocks, load.running, load.waiting) == (0, 0, 0)
            assert load.free_blocks + load.cached_blocks == load.total_blocks


@pytest.mark.parametrize("mode", [Batching.DYNAMIC, Batching.STATIC])
async def test_batches_that_wait_for_more_answer_as_each_request_alone(make_rig, oracle, mode):
    """The thread sleeps until a batch is due: also the last few, who are too few, are answered."""
    forming = Forming(mode=mode, size=4, wait_s=0.05)
    async with make_rig(forming=forming, num_blocks=40) as rig:
        streams = [rig.engine.submit(f"r{i}", 1, PROMPT[: 9 + i], GREEDY) for i in range(10)]
        answers = await asyncio.gather(*map(collect, streams))
        for i, chunks in enumerate(answers):
            assert tokens_of(chunks) == oracle(PROMPT[: 9 + i], 20)


async def test_chunks_are_numbered_and_say_what_was_cached(rig):
    first = await collect(rig.engine.submit("a", 1, PROMPT, GREEDY))
    second = await collect(rig.engine.submit("b", 1, PROMPT, GREEDY))
    for chunks in (first, second):
        position = 0
        for chunk in chunks:
            assert chunk.index == position
            position += len(chunk.tokens)
        assert chunks[-1].usage.completion_tokens == position == 20
    assert first[0].usage.cached_tokens == 0
    assert second[0].usage.cached_tokens == 48  # three whole blocks of the 50 tokens
    third = await collect(rig.engine.submit("c", 1, PROMPT[:48], GREEDY))
    assert third[0].usage.cached_tokens == 32  # the last token is computed anew, so its block is too
    salted = await collect(rig.engine.submit("d", 1, PROMPT, GREEDY, salt="other"))
    assert salted[0].usage.cached_tokens == 0
    assert [tokens_of(x) for x in (second, salted)] == [tokens_of(first)] * 2


async def test_without_prefix_caching_nothing_is_cached(make_rig):
    async with make_rig(caching=False) as rig:
        for name in "ab":
            chunks = await collect(rig.engine.submit(name, 1, PROMPT, GREEDY))
            assert chunks[0].usage.cached_tokens == 0
        load = await rig.load()
        assert (load.free_blocks, load.cached_blocks) == (load.total_blocks, 0)
        assert rig.events.seq == 0


async def test_abort_ends_the_stream_and_frees_the_blocks(make_rig):
    async with make_rig("sim://slow?decode_ms=5&check=1") as rig:
        stream = rig.engine.submit("a", 1, PROMPT, SamplingParams(temperature=0, max_tokens=900))
        first = await anext(stream)
        assert (await rig.load()).used_blocks > 0
        assert await rig.engine.abort("a") is True
        assert (await rig.load()).used_blocks == 0
        rest = await collect(stream)
        assert rest[-1].finish is Finish.ABORT
        assert rest[-1].usage.completion_tokens == len(tokens_of([first, *rest]))
        assert await rig.engine.abort("a") is False


async def test_a_waiting_request_can_be_aborted(make_rig, eventually):
    async with make_rig("sim://slow?decode_ms=5&check=1", max_running=1) as rig:
        params = SamplingParams(temperature=0, max_tokens=900)
        running = rig.engine.submit("a", 1, PROMPT, params)
        waiting = rig.engine.submit("b", 1, PROMPT, params)
        await anext(running)
        assert (await rig.load()).waiting == 1
        await rig.engine.abort("b")
        assert [c.finish for c in await collect(waiting)] == [Finish.ABORT]
        rig.engine.cancel(running)
        await eventually(lambda: rig.engine.view.used_blocks == 0, "blocks free")


async def test_a_later_attempt_replaces_the_earlier_one(make_rig, oracle, eventually):
    async with make_rig("sim://slow?decode_ms=5&check=1") as rig:
        old = rig.engine.submit("a", 1, PROMPT, SamplingParams(temperature=0, max_tokens=900))
        await anext(old)
        new = rig.engine.submit("a", 2, PROMPT, GREEDY)
        rig.engine.cancel(old)  # what the old call's handler does at its end must not touch the new attempt
        assert tokens_of(await collect(new)) == oracle(PROMPT, 20)
        await eventually(lambda: rig.engine.view.used_blocks == 0, "blocks free")


async def test_what_nobody_asks_for_is_not_kept(rig):
    """Without a router that reads the load, what was submitted is forgotten all the same."""
    for i in range(20):
        await collect(rig.engine.submit(f"r{i}", 1, PROMPT, GREEDY))
    assert len(rig.engine._unseen) <= 2


async def test_too_many_requests_are_refused(make_rig):
    async with make_rig("sim://slow?decode_ms=5", max_running=1, max_waiting=2) as rig:
        for i in range(3):
            rig.engine.submit(f"r{i}", 1, PROMPT, GREEDY)
        with pytest.raises(OverloadedError):
            rig.engine.submit("more", 1, PROMPT, GREEDY)


async def test_unseeded_sampling_draws_a_seed_each_time(rig):
    params = SamplingParams(max_tokens=20)
    answers = [tokens_of(await collect(rig.engine.submit(f"r{i}", 1, PROMPT, params))) for i in range(4)]
    assert len({tuple(a) for a in answers}) == 4


async def test_drain_lets_running_requests_finish(make_rig, oracle):
    async with make_rig("sim://slow?decode_ms=5") as rig:
        stream = rig.engine.submit("a", 1, PROMPT, GREEDY)
        reading = asyncio.create_task(collect(stream))
        assert await rig.engine.drain(20) == (1, 0)
        assert tokens_of(await reading) == oracle(PROMPT, 20)
        with pytest.raises(UnavailableError):
            rig.engine.submit("b", 1, PROMPT, GREEDY)


async def test_drain_aborts_what_takes_too_long(make_rig):
    async with make_rig("sim://slow?decode_ms=5") as rig:
        stream = rig.engine.submit("a", 1, PROMPT, SamplingParams(temperature=0, max_tokens=900))
        await anext(stream)
        assert await rig.engine.drain(0.05) == (0, 1)
        assert (await collect(stream))[-1].finish is Finish.ABORT


async def test_a_short_prompt_overtakes_a_long_one_between_chunks(make_rig):
    """Least work first, chunk by chunk; with FCFS the long one goes first. The tokens are the same."""
    ends = {}
    for order in Order:
        started = threading.Event()
        faulty = []

        def gate(real, faulty=faulty, started=started):
            faulty.append(Faulty(real))
            faulty[0].fault = lambda batch: started.wait(10) and None
            return faulty[0]

        async with make_rig(
            "sim://m?prefill_tps=20000", runner=gate, max_batch_tokens=64, order=order, ageing=0.0
        ) as rig:
            one = SamplingParams(temperature=0, max_tokens=1)
            long = rig.engine.submit("long", 1, [1] * 900, one)
            short = rig.engine.submit("short", 1, [2] * 30, one)
            finished = []

            async def read(stream, finished=finished):
                await collect(stream)
                finished.append(stream.request_id)

            tasks = [asyncio.create_task(read(s)) for s in (long, short)]
            await asyncio.sleep(0)
            started.set()
            await asyncio.gather(*tasks)
            ends[order.value] = finished
    assert ends == {"leastWork": ["short", "long"], "fcfs": ["long", "short"]}


async def test_load_counts_requests_that_the_thread_has_not_seen(make_rig):
    release, faulty = threading.Event(), []

    def gate(real):
        faulty.append(Faulty(real))
        faulty[0].fault = lambda batch: release.wait(10) and None
        return faulty[0]

    async with make_rig(runner=gate, max_running=1) as rig:
        try:
            streams = [rig.engine.submit("a", 1, PROMPT, GREEDY)]
            while rig.engine._thread._inbox.qsize():
                await asyncio.sleep(0.001)
            streams += [rig.engine.submit(f"r{i}", 1, PROMPT, GREEDY) for i in range(3)]
            load = await rig.load()
            assert load.waiting + load.running == 4 or load.waiting == 4
            assert load.uncached_tokens == 4 * len(PROMPT)
            assert [q.uncached_tokens for q in load.queue] == [len(PROMPT)] * 4
        finally:
            release.set()
        await asyncio.gather(*map(collect, streams))
        load = await rig.load()
        assert (load.waiting, load.running, load.uncached_tokens, len(load.queue)) == (0, 0, 0, 0)


async def test_prompt_logprobs_are_whole_even_with_a_warm_cache(rig):
    for name in "ab":
        params = SamplingParams(temperature=0, max_tokens=4, prompt_logprobs=1, logprobs=2)
        chunks = await collect(rig.engine.submit(name, 1, PROMPT, params))
        assert [row.token for row in chunks[0].prompt_logprobs] == PROMPT[1:]
        assert all(not chunk.prompt_logprobs for chunk in chunks[1:])
        assert [row.token for chunk in chunks for row in chunk.logprobs] == tokens_of(chunks)


async def test_a_slow_reader_gets_joined_chunks_and_a_stuck_one_is_given_up(monkeypatch):
    monkeypatch.setattr(limits, "MAX_STREAM_CHUNKS", 3)
    stream = Stream("a", 1, number=1)
    assert all(stream.put(Piece(index=i, tokens=[i], text=str(i))) for i in range(3))
    chunk = await anext(stream)
    assert (chunk.index, chunk.tokens, chunk.text) == (0, [0, 1, 2], "012")
    assert [stream.put(Piece(index=i, tokens=[i])) for i in range(3, 7)] == [True, True, True, False]
    assert (await anext(stream)).tokens == [3, 4, 5]
    with pytest.raises(OverloadedError):
        await anext(stream)


async def test_tokens_wait_for_each_other_where_a_reader_wants_few_messages():
    """The first and the last are not kept back, nor is an error; what comes in between is joined, and in order."""
    stream = Stream("a", 1, number=1)
    stream.interval = 3600.0
    stream.put(Piece(index=0, tokens=[0], text="0"))
    assert (await anext(stream)).tokens == [0]
    stream.put(Piece(index=1, tokens=[1], text="1"))
    reading = asyncio.ensure_future(anext(stream))
    for _ in range(10):
        await asyncio.sleep(0)
    assert not reading.done()
    stream.put(Piece(index=2, tokens=[2], text="2"))
    stream.put(Piece(index=3, tokens=[3], text="3", finish=Finish.LENGTH))
    chunk = await reading
    assert (chunk.index, chunk.tokens, chunk.text, chunk.finish) == (1, [1, 2, 3], "123", Finish.LENGTH)
    with pytest.raises(StopAsyncIteration):
        await anext(stream)


async def test_an_error_does_not_wait_for_tokens_to_come():
    stream = Stream("a", 1, number=1)
    stream.interval = 3600.0
    stream.put(Piece(index=0, tokens=[0]))
    await anext(stream)
    stream.put(Piece(index=1, tokens=[1]))
    reading = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0)
    stream.fail(OverloadedError("no"))
    assert (await reading).tokens == [1]
    with pytest.raises(OverloadedError):
        await anext(stream)


async def test_the_prefill_rate_is_measured(make_rig):
    async with make_rig("sim://m?prefill_tps=5000&decode_ms=2") as rig:
        assert (await rig.load()).prefill_tokens_per_second == 0
        await collect(rig.engine.submit("a", 1, [1] * 900, GREEDY))
        rate = (await rig.load()).prefill_tokens_per_second
        assert 0 < rate <= 5100  # what the simulation computes at most; a busy machine takes longer


async def test_heartbeat(make_rig, eventually):
    release, faulty = threading.Event(), []

    def gate(real):
        faulty.append(Faulty(real))
        faulty[0].fault = lambda batch: release.wait(10) and None
        return faulty[0]

    async with make_rig(runner=gate) as rig:
        await eventually(lambda: rig.engine.last_step_age < 0.2, "an idle engine beats")
        assert not rig.engine.busy
        stream = rig.engine.submit("a", 1, PROMPT, GREEDY)
        began = time.monotonic()
        await eventually(lambda: rig.engine.last_step_age > 0.7, "a hanging step shows")
        assert time.monotonic() - began >= 0.6
        assert rig.engine.busy
        release.set()
        await collect(stream)
        await eventually(lambda: rig.engine.last_step_age < 0.6, "it beats again")


async def test_a_cancelled_call_frees_its_blocks(make_rig, eventually):
    async with make_rig("sim://slow?decode_ms=5&check=1") as rig:
        call = rig.stub.Generate(rig.request(PROMPT, max_tokens=900))
        await call.read()
        assert (await rig.load()).used_blocks > 0
        call.cancel()
        await eventually(lambda: rig.engine.view.used_blocks == 0 and not rig.engine.busy, "blocks free after a cancel")


async def test_a_passed_deadline_frees_its_blocks(make_rig, eventually):
    async with make_rig("sim://slow?decode_ms=5&check=1") as rig:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async for _ in rig.stub.Generate(rig.request(PROMPT, max_tokens=900), timeout=0.2):
                pass
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await eventually(
            lambda: rig.engine.view.used_blocks == 0 and not rig.engine.busy, "blocks free after a deadline"
        )


async def test_who_waits_too_long_ends_at_its_deadline_and_costs_no_step(make_rig, eventually):
    """Also where nobody but the engine looks at the clock."""
    seen = []

    class Watching:
        def __init__(self, real):
            self.real = real

        def launch(self, batch):
            seen.extend(piece.request_id for piece in batch.slices)
            return self.real.launch(batch)

    async with make_rig("sim://slow?decode_ms=5&check=1", runner=Watching, max_running=1) as rig:
        runs = rig.engine.submit("runs", 1, PROMPT, SamplingParams(temperature=0, max_tokens=900))
        await eventually(lambda: "runs" in seen, "it runs")
        waits = rig.engine.submit("waits", 1, PROMPT, GREEDY, deadline=time.monotonic() + 0.05)
        with pytest.raises(DeadlineError):
            await collect(waits)
        assert "waits" not in seen
        assert rig.engine.view.running == 1
        rig.engine.cancel(runs)
        await eventually(lambda: rig.engine.view.used_blocks == 0 and not rig.engine.busy, "all is free")


async def test_a_report_tells_priorities(make_rig, eventually):
    release = threading.Event()

    class Held:
        def __init__(self, real):
            self.real = real

        def launch(self, batch):
            release.wait(30)
            return self.real.launch(batch)

    async with make_rig(runner=Held, max_running=1) as rig:
        calls = [rig.stub.Generate(rig.request(PROMPT, f"r{p}", priority=p)) for p in (0, -3, 7)]
        await eventually(lambda: len(rig.engine._active) == 3, "all are here")

        async def told():
            return sorted(q.priority for q in (await rig.load()).queue) == [-3, 0, 7]

        await eventually(told, "all are reported")
        release.set()
        for call in calls:
            call.cancel()


async def test_steps_follow_a_target_time_and_the_tokens_stay_the_same(make_rig, oracle, eventually):
    """A simulated machine of 2,000 tokens/s and steps of 20 ms: 40 tokens, not the 256 that a step may have."""
    sizes = []

    class Watching:
        def __init__(self, real):
            self.real = real

        def launch(self, batch):
            sizes.append(batch.num_tokens)
            return self.real.launch(batch)

    uri = "sim://m?prefill_tps=2000&decode_ms=0&check=1"
    async with make_rig(uri, runner=Watching, max_batch_tokens=256, target_step_s=0.02) as rig:
        prompt = list(range(256)) * 3
        assert (await rig.generate(prompt, max_tokens=8)).tokens == oracle(prompt, 8)
        assert sizes[0] == rig.engine.config.block_size, "nothing is known yet"
        assert sizes[1] <= 40, "the first step cannot have been faster than the machine"


async def test_an_abort_ends_the_call_too(make_rig):
    async with make_rig("sim://slow?decode_ms=5&check=1") as rig:
        call = rig.stub.Generate(rig.request(PROMPT, max_tokens=900))
        await call.read()
        assert await rig.engine.abort("r") is True
        assert (await rig.load()).used_blocks == 0
        last = None
        while (chunk := await call.read()) is not grpc.aio.EOF:
            last = chunk
        assert last.finish_reason == pb.FINISH_REASON_ABORT
