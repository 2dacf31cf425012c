"""Blocks between workers: what comes is exact, what fails costs only time, and nobody gets what is not his."""

import asyncio
import contextlib
import random

import grpc
import pytest

from argosy_api import limits
from argosy_api.blocks import block_ids, root_id
from argosy_api.errors import ArgosyError
from argosy_api.params import SamplingParams
from argosy_api.v1 import worker_pb2 as pb
from argosy_api.v1 import worker_pb2_grpc
from argosy_worker.engine.copies import Copies
from argosy_worker.serve import imports

INVALID = grpc.StatusCode.INVALID_ARGUMENT
URI = "sim://test?decode_ms=0&prefill_tps=0&check=1"
PROMPT = [random.Random(7).randrange(32, 127) for _ in range(500)]  # 31 blocks of 16, and 4 tokens


def ids_of(rig, prompt=PROMPT, *, salt=""):
    return block_ids(root_id(rig.engine.facts.fingerprint, salt=salt), prompt)


def counter(rig, name, **labels):
    return rig.metrics.registry.get_sample_value(f"{name}_total", {"model": "test", "worker": "w", **labels})


def export(rig, ids, **other):
    return rig.stub.ExportBlocks(
        pb.ExportBlocksRequest(
            **{
                "fingerprint": rig.engine.facts.fingerprint,
                "kv_layout": rig.engine.blocks.layout,
                "block_ids": ids,
                **other,
            }
        )
    )


async def idle(rig):
    load = await rig.load()
    assert (load.used_blocks, load.running, load.waiting) == (0, 0, 0)
    assert load.free_blocks + load.cached_blocks == load.total_blocks
    return load


@contextlib.asynccontextmanager
async def serving(answer):
    """A source of one's own: `answer(request, context)` streams what it likes."""

    class Service(worker_pb2_grpc.WorkerServicer):
        async def ExportBlocks(self, request, context):
            async for part in answer(request, context):
                yield part

    server = grpc.aio.server()
    worker_pb2_grpc.add_WorkerServicer_to_server(Service(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(0)


@pytest.mark.parametrize("sampling", [{}, {"temperature": 0.9, "seed": 11, "logprobs": 2}], ids=["greedy", "seeded"])
async def test_imported_blocks_answer_as_computed_ones(make_rig, oracle, sampling):
    """All but the last token's block comes from the other worker; the events tell routers of it as of computed ones."""
    async with make_rig(URI) as one, make_rig(URI) as two, make_rig(URI) as alone:
        await one.generate(PROMPT, max_tokens=1)
        plain = await alone.generate(PROMPT, max_tokens=40, **sampling)
        answer = await two.generate(PROMPT, max_tokens=40, source=one.address, **sampling)
        params = {k: v for k, v in sampling.items() if k != "logprobs"}
        assert answer.tokens == plain.tokens == oracle(PROMPT, 40, **params)
        assert [row for c in answer.chunks for row in c.logprobs] == [row for c in plain.chunks for row in c.logprobs]
        assert answer.chunks[0].usage.cached_tokens == 31 * 16
        stored = [i for batch in two.events.after(0) for i in batch.stored]
        assert stored == ids_of(two, [*PROMPT, *answer.tokens[:-1]])
        assert (await idle(two)).cached_blocks == len(stored)
        assert counter(one, "argosy_worker_kv_blocks_exported") == 31
        assert counter(two, "argosy_worker_kv_blocks_imported") == 31
        assert counter(two, "argosy_worker_kv_imports", result="whole") == 1
        assert (await two.load()).transfer_bytes_per_second > 0
        again = await two.generate(PROMPT, "again", max_tokens=40, source="127.0.0.1:1", **sampling)
        assert again.tokens == plain.tokens  # all is here: nobody is asked


async def test_only_what_is_missing_is_fetched_and_a_source_may_have_less(make_rig, oracle):
    async with make_rig(URI) as one, make_rig(URI) as two:
        await one.generate(PROMPT[:320], max_tokens=1)
        await two.generate(PROMPT[:100], max_tokens=1)
        answer = await two.generate(PROMPT, "b", max_tokens=20, source=one.address)
        assert answer.tokens == oracle(PROMPT, 20)
        assert answer.chunks[0].usage.cached_tokens == 320
        assert counter(two, "argosy_worker_kv_blocks_imported") == 20 - 6
        assert counter(two, "argosy_worker_kv_imports", result="part") == 1


async def test_a_full_cache_takes_what_it_can_and_no_request_loses_a_block(make_rig, oracle):
    async with make_rig(URI) as one, make_rig(URI, num_blocks=40, max_running=4) as two:
        await one.generate(PROMPT, max_tokens=1)
        others = [two.generate([i] * 130, f"o{i}", max_tokens=100) for i in range(3)]
        mine = two.generate(PROMPT, "mine", max_tokens=30, source=one.address)
        answers = await asyncio.gather(*others, mine)
        assert [a.tokens for a in answers] == [*(oracle([i] * 130, 100) for i in range(3)), oracle(PROMPT, 30)]
        await idle(two)


async def test_without_a_cache_nothing_is_fetched(make_rig, oracle):
    async with make_rig(URI) as one, make_rig(URI, caching=False) as two:
        await one.generate(PROMPT, max_tokens=1)
        assert (await two.generate(PROMPT, max_tokens=9, source=one.address)).tokens == oracle(PROMPT, 9)
        assert counter(two, "argosy_worker_kv_blocks_imported") == 0


async def test_another_salt_shares_nothing(make_rig, oracle):
    async with make_rig(URI) as one, make_rig(URI) as two:
        await one.generate(PROMPT, max_tokens=1, salt="tenant")
        for i, salt in enumerate(["", "other"]):
            answer = await two.generate(PROMPT, f"r{i}", max_tokens=5, source=one.address, salt=salt)
            assert answer.chunks[0].usage.cached_tokens == 0
        mine = await two.generate(PROMPT, "mine", max_tokens=5, source=one.address, salt="tenant")
        assert mine.chunks[0].usage.cached_tokens == 31 * 16
        assert mine.tokens == oracle(PROMPT, 5)


async def wrong_id(request, context):
    yield pb.BlockPart(block_id=request.block_ids[1], block_bytes=139, content=bytes(139))


async def wrong_size(request, context):
    yield pb.BlockPart(block_id=request.block_ids[0], block_bytes=140, content=bytes(140))


async def too_much(request, context):
    yield pb.BlockPart(block_id=request.block_ids[0], block_bytes=139, content=bytes(141))


async def half_a_block(request, context):
    yield pb.BlockPart(block_id=request.block_ids[0], block_bytes=139, content=bytes(100))


async def refuses(request, context):
    await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "kv_layout: is another")
    yield


async def empty(request, context):
    yield pb.BlockPart(block_id=request.block_ids[0], block_bytes=139)


async def silent(request, context):
    await asyncio.Event().wait()
    yield


@pytest.mark.parametrize("answer", [wrong_id, wrong_size, too_much, half_a_block, refuses, empty, silent])
async def test_a_source_that_sends_something_else_costs_only_time(make_rig, oracle, answer, monkeypatch):
    monkeypatch.setattr(imports, "STALL_S", 0.2)
    async with make_rig(URI) as rig, serving(answer) as address:
        assert (await rig.generate(PROMPT, max_tokens=9, source=address)).tokens == oracle(PROMPT, 9)
        assert counter(rig, "argosy_worker_kv_blocks_imported") == 0
        assert counter(rig, "argosy_worker_kv_imports", result="failed") == 1
        await rig.generate([5, *PROMPT], "b", max_tokens=1, source=address)
        assert counter(rig, "argosy_worker_kv_imports", result="refused") == 1  # it is left alone for a while
        await idle(rig)


async def test_nobody_there_costs_only_time(rig, oracle, free_port):
    answer = await rig.generate(PROMPT, max_tokens=9, source=f"127.0.0.1:{free_port()}")
    assert answer.tokens == oracle(PROMPT, 9)


async def test_a_source_that_dies_within_a_transfer_costs_only_time(make_rig, oracle):
    """What came before counts, the rest is computed."""
    async with make_rig(URI) as one, make_rig(URI) as two:
        await one.generate(PROMPT, max_tokens=1)

        async def relayed(request, context):
            async for part in export(one, request.block_ids):
                if part.block_id == request.block_ids[12]:
                    await context.abort(grpc.StatusCode.UNAVAILABLE, "gone")
                yield part

        async with serving(relayed) as address:
            answer = await two.generate(PROMPT, max_tokens=30, source=address)
        assert answer.tokens == oracle(PROMPT, 30)
        assert answer.chunks[0].usage.cached_tokens <= 12 * 16
        assert counter(two, "argosy_worker_kv_imports", result="failed") == 1
        await idle(two)


async def test_a_request_ends_at_any_moment_of_its_transfer(make_rig, eventually):
    """Cancelled by its caller, aborted, replaced by a later attempt: no block stays in use."""
    asked = asyncio.Event()

    async def hangs(request, context):
        asked.set()
        await asyncio.Event().wait()
        yield

    async with make_rig(URI) as rig, serving(hangs) as address:
        call = rig.stub.Generate(rig.request(PROMPT, "a", source=address, max_tokens=3))
        await asked.wait()
        load = await rig.load()
        assert (load.waiting, load.accepted, load.queue[0].uncached_tokens) == (1, 1, 4)
        call.cancel()
        await eventually(lambda: not rig.engine.busy, "the cancelled request is gone")
        rig.serving._imports._avoided.clear()

        asked.clear()
        waiting = asyncio.create_task(rig.generate(PROMPT, "b", source=address, max_tokens=3))
        await asked.wait()
        assert await rig.engine.abort("b")
        assert (await waiting).last.finish_reason == pb.FINISH_REASON_ABORT

        asked.clear()
        first = asyncio.create_task(rig.status_of(rig.request(PROMPT, "c", source=address, max_tokens=3)))
        await asked.wait()
        assert len((await rig.generate(PROMPT, "c", attempt=2, max_tokens=3)).tokens) == 3
        assert (await first)[0] is grpc.StatusCode.CANCELLED
        await idle(rig)


async def test_transfers_at_a_time_are_bounded(make_rig, eventually, monkeypatch):
    """Of the requests, those beyond compute; of the readers, those beyond are refused."""
    monkeypatch.setattr(imports, "STALL_S", 60)
    asked = 0

    async def waits(request, context):
        nonlocal asked
        asked += 1
        await asyncio.Event().wait()
        yield

    async with make_rig(URI, num_blocks=1000) as rig, serving(waits) as address:
        prompts = [[i, *PROMPT[:200]] for i in range(limits.MAX_TRANSFERS + 2)]
        streams = [
            asyncio.create_task(rig.generate(p, f"r{i}", max_tokens=4, source=address)) for i, p in enumerate(prompts)
        ]
        await eventually(lambda: sum(s.done() for s in streams) == 2, "two are computed")
        await eventually(lambda: asked == limits.MAX_TRANSFERS, "the others wait for blocks")
        for stream in streams:
            stream.cancel()
        await asyncio.gather(*streams, return_exceptions=True)

        await rig.generate(PROMPT, "x", max_tokens=1)
        readers = [export(rig, ids_of(rig) * 200) for _ in range(limits.MAX_TRANSFERS)]
        for reader in readers:
            await reader.read()
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await export(rig, ids_of(rig)).read()
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        for reader in readers:
            reader.cancel()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("fingerprint", "00"),
        ("kv_layout", "sim block_size=8"),
        ("block_ids", [b"short"]),
        ("block_ids", [bytes(16)] * (limits.MAX_TRANSFER_BLOCKS + 1)),
    ],
)
async def test_a_wrong_question_is_refused(rig, field, value):
    with pytest.raises(grpc.aio.AioRpcError, match=field) as refused:
        await export(rig, ids_of(rig), **{field: value}).read()
    assert refused.value.code() is INVALID
    assert refused.value.details().startswith(field)


@pytest.mark.parametrize(
    "source",
    ["nowhere", "host:", ":80", "unix:/tmp/x", "dns:///a:80", "a b:80", "[::1]", "x" * 300 + ":80", "h:123456"],
)
async def test_a_source_that_is_no_address_is_refused(rig, source):
    code, details = await rig.status_of(rig.request(PROMPT, source=source))
    assert code is INVALID
    assert details.startswith("kv_source: ")


async def test_what_is_not_cached_ends_the_answer(rig):
    await rig.generate(PROMPT[:100], max_tokens=1)
    ids = ids_of(rig)
    parts = [part async for part in export(rig, ids)]
    assert [part.block_id for part in parts] == ids[:6]
    assert all(len(part.content) == part.block_bytes == rig.engine.blocks.bytes_per_block for part in parts)


async def test_a_block_larger_than_a_message_comes_in_parts(make_rig, oracle, monkeypatch):
    monkeypatch.setattr(limits, "TRANSFER_PART_BYTES", 50)
    async with make_rig(URI) as one, make_rig(URI) as two:
        await one.generate(PROMPT, max_tokens=1)
        assert [len(p.content) async for p in export(one, ids_of(one)[:2])] == [50, 50, 39] * 2
        answer = await two.generate(PROMPT, max_tokens=9, source=one.address)
        assert answer.tokens == oracle(PROMPT, 9)
        assert answer.chunks[0].usage.cached_tokens == 31 * 16


async def test_steps_go_on_while_blocks_are_copied(make_rig, oracle):
    """Copies are made between steps: a stream of many blocks, each slow, does not hold up who generates."""
    async with make_rig("sim://test?decode_ms=1&prefill_tps=0&copy_ms=3&check=1") as one:
        await one.generate(PROMPT, max_tokens=1)
        before = one.engine.view.accepted
        reader = asyncio.create_task(_all(export(one, ids_of(one))))
        answer = await one.generate(PROMPT[:40], "b", max_tokens=20)
        assert answer.tokens == oracle(PROMPT[:40], 20)
        assert not reader.done()  # 31 copies, at most one for each of the 22 steps
        assert len(await reader) == 31
        assert one.engine.view.accepted == before + 1


async def _all(call):
    return [part async for part in call]


async def test_enough_is_asked_for_at_once_to_use_a_pause(make_rig, monkeypatch):
    """Engines copy between steps: with a few blocks asked for at a time, a transfer would take a step for each few."""
    async with make_rig(URI) as rig:
        assert rig.engine.blocks.window == limits.TRANSFER_WINDOW_BLOCKS
    monkeypatch.setattr(limits, "TRANSFER_WINDOW_BYTES", 139 * 5)
    async with make_rig(URI) as rig:
        assert rig.engine.blocks.window == 5


def test_copies_take_a_share_of_the_step():
    copies, done = Copies(), []
    for i in range(50):
        copies.add(lambda i=i: done.append(i))
    copies.step_took(0.0)
    copies.run(idle=False)
    assert done  # always one at least, in order
    copies.finish()
    assert done == list(range(50))
    assert not copies


async def test_a_dead_engine_leaves_nobody_waiting(make_rig, oracle):
    async with make_rig(URI) as one, make_rig(URI) as two:
        await one.generate(PROMPT, max_tokens=1)
        one.engine.stop()
        answer = await two.generate(PROMPT, max_tokens=9, source=one.address)
        assert answer.tokens == oracle(PROMPT, 9)
        stream = two.engine.submit("z", 1, [7, *PROMPT], SamplingParams(max_tokens=2), prepare=_stop(two))
        with pytest.raises(ArgosyError):
            [chunk async for chunk in stream]


def _stop(rig):
    async def prepare(ids):
        rig.engine.stop()
        while rig.engine.alive:
            await asyncio.sleep(0.01)

    return prepare
