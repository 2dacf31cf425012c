"""Evicted blocks in host memory: which are kept, what is copied when, and that answers do not change by it."""

import asyncio

import grpc
import pytest

from argosy_api.blocks import block_ids, root_id
from argosy_api.v1 import worker_pb2 as pb
from argosy_worker import sim
from argosy_worker.core.batch import StepBatch
from argosy_worker.core.blocks import ON_HOST, BlockPool
from argosy_worker.core.exchange import Exchange
from argosy_worker.core.host import Move

URI = "sim://test?decode_ms=0&prefill_tps=0&check=1"


def fill(pool, *ids):
    table = pool.allocate(len(ids))
    for block, block_id in zip(table, ids, strict=True):
        pool.store(block, block_id)
    return table


def hold(pool, *ids):
    """These become known, and nobody uses them."""
    table = fill(pool, *ids)
    pool.release(table)
    return table


def out(block, slot):
    return Move(block, slot, out=True)


def back(slot, block):
    return Move(block, slot, out=False)


# --- the pool


def test_an_evicted_block_is_known_and_comes_back_into_another_one():
    pool = BlockPool(3, host_blocks=2)
    a, b = hold(pool, b"a", b"b")
    assert pool.take_change().stored == (b"a", b"b")
    used = pool.allocate(3)
    assert pool.host.take_moves() == (out(b, 0), out(a, 1))  # the tail first
    assert (pool.free, pool.cached, pool.used, pool.host.free, pool.host.cached) == (0, 0, 3, 0, 2)
    assert not pool.take_change()  # routers go on to send here who begins like this
    assert pool.match([b"a", b"b", b"c"], 3) == [ON_HOST, ON_HOST]
    assert pool.known_ids() == [b"b", b"a"]

    pool.release(used[:2])
    hit = pool.match([b"a", b"b"], 2)
    assert pool.evictable(hit) == 2
    table = pool.acquire(hit, [b"a", b"b"])
    assert sorted(table) == sorted(used[:2])
    assert pool.host.take_moves() == (back(1, table[0]), back(0, table[1]))
    assert pool.match([b"a", b"b"], 2) == table
    pool.check([table, used[2:]])
    assert not pool.take_change()


def test_only_part_of_a_hit_may_be_on_the_host():
    pool = BlockPool(4, host_blocks=4)
    hold(pool, b"a", b"b", b"c")
    pool.release(pool.allocate(3))  # c and b are evicted
    hit = pool.match([b"a", b"b", b"c"], 3)
    assert hit[1:] == [ON_HOST, ON_HOST]
    assert pool.evictable(hit) == 3
    table = pool.acquire(hit, [b"a", b"b", b"c"])
    assert table[0] == hit[0]
    pool.check([table])
    assert (pool.free, pool.used) == (1, 3)


def test_a_block_evicted_again_is_copied_once():
    pool = BlockPool(1, host_blocks=2)
    (block,) = hold(pool, b"a")
    pool.release(pool.allocate(1))
    pool.release(pool.acquire(pool.match([b"a"], 1), [b"a"]))
    pool.allocate(1)
    assert pool.host.take_moves() == (out(block, 0), back(0, block))
    assert (pool.host.evicted, pool.host.restored) == (1, 1)
    assert pool.match([b"a"], 1) == [ON_HOST]


def test_what_the_device_holds_too_is_forgotten_first_and_nothing_is_lost_by_it():
    pool = BlockPool(2, host_blocks=2)
    hold(pool, b"a", b"b")
    pool.release(pool.allocate(2))
    pool.take_change()
    table = pool.acquire(pool.match([b"b"], 1), [b"b"])  # a, evicted later, has been here for a shorter time
    hold(pool, b"c")
    pool.release(pool.allocate(1))
    assert pool.host.ids() == [b"a", b"c"]
    assert pool.take_change().stored == (b"c",)
    assert set(pool.known_ids()) == {b"a", b"b", b"c"}
    pool.check([table])


def test_the_last_to_be_evicted_is_the_last_to_be_forgotten():
    pool = BlockPool(3, host_blocks=2)
    hold(pool, b"a", b"b", b"c")
    pool.take_change()
    pool.allocate(3)
    assert pool.host.ids() == [b"b", b"a"]
    assert pool.take_change().removed == (b"c",)  # of a prompt the tail goes first, here as on the device
    pool.host.touch(b"b")
    assert pool.host.ids() == [b"a", b"b"]


def test_a_computed_block_that_the_host_holds_is_no_news():
    pool = BlockPool(2, host_blocks=2)
    hold(pool, b"a")
    pool.release(pool.allocate(2))
    pool.take_change()
    table = fill(pool, b"a")  # by a request that needs every row
    assert not pool.take_change()
    assert pool.match([b"a"], 1) == table
    pool.check([table])


def test_two_full_tiers_exchange_blocks():
    """No slot of a block that is to come back is given to one that has to go for it."""
    pool = BlockPool(2, host_blocks=2)
    hold(pool, b"a", b"b")
    one, two = hold(pool, b"c", b"d")
    pool.host.take_moves()
    pool.take_change()
    hit = pool.match([b"a", b"b"], 2)
    assert hit == [ON_HOST, ON_HOST]
    table = pool.acquire(hit, [b"a", b"b"])
    assert pool.host.take_moves() == (back(1, table[0]), back(0, table[1]))  # c and d found no room
    assert set(pool.take_change().removed) == {b"c", b"d"}
    assert {one, two} == set(table)
    pool.check([table])


def test_too_few_blocks_bring_nothing_back():
    pool = BlockPool(2, host_blocks=2)
    hold(pool, b"a", b"b")
    used = pool.allocate(2)
    with pytest.raises(MemoryError):
        pool.acquire([ON_HOST, ON_HOST], [b"a", b"b"])
    pool.check([used])
    assert pool.host.cached == 2


def test_a_window_brings_back_only_what_is_read():
    pool = BlockPool(4, window_blocks=2, host_blocks=4)
    hold(pool, *(b"%d" % i for i in range(4)))
    pool.release(pool.allocate(4))
    ids = [b"%d" % i for i in range(4)]
    table = pool.acquire(pool.match(ids, 4), ids)
    assert table[:2] == [0, 0]
    assert pool.host.restored == 2
    pool.check([table])


# --- the engine


def prompts(count, length=100):
    return [[40 + i] * 8 + list(range(32, 32 + length - 8)) for i in range(count)]


def counted(rig, name, **labels):
    return rig.metrics.registry.get_sample_value(name, {"model": "test", "worker": "w", **labels})


async def balanced(rig):
    load = await rig.load()
    assert (load.used_blocks, load.running, load.waiting) == (0, 0, 0)
    assert load.free_blocks + load.cached_blocks == load.total_blocks
    view = rig.engine.view
    assert view.host_free_blocks + view.host_cached_blocks == rig.engine.config.host_blocks


async def test_restored_answers_as_cold_and_warm_ones(make_rig, oracle):
    """Prompts that together need four times the device's blocks: none is computed twice, and routers are told so."""
    async with make_rig(URI, num_blocks=16, host_blocks=100) as rig:
        info = await rig.stub.GetModel(pb.GetModelRequest())
        assert (info.total_blocks, info.host_blocks) == (16, 100)  # so many may be told of
        for turn in range(3):
            for i, prompt in enumerate(prompts(8)):
                answer = await rig.generate(prompt, f"{turn}.{i}", max_tokens=9)
                assert answer.tokens == oracle(prompt, 9)
                assert answer.chunks[0].usage.cached_tokens == (96 if turn else 0)
        stored = [i for batch in rig.events.after(0) for i in batch.stored]
        assert len(stored) == len(set(stored)) == 8 * 6
        assert not [i for batch in rig.events.after(0) for i in batch.removed]
        assert counted(rig, "argosy_worker_kv_host_moved_blocks_total", to="host") >= 8 * 6 - 16
        assert counted(rig, "argosy_worker_kv_host_moved_blocks_total", to="device") >= 2 * (8 * 6 - 16)
        assert counted(rig, "argosy_worker_kv_host_seconds_total") > 0
        rig.metrics.watch(rig.engine, block_size=rig.engine.config.block_size)
        cached = counted(rig, "argosy_worker_kv_host_blocks", state="cached")
        assert cached == 100 - counted(rig, "argosy_worker_kv_host_blocks", state="free") >= 8 * 6 - 16
        await balanced(rig)


async def test_what_neither_tier_has_room_for_is_computed_again(make_rig, oracle):
    async with make_rig(URI, num_blocks=16, host_blocks=10) as rig:
        for turn in range(2):
            for i, prompt in enumerate(prompts(8)):
                assert (await rig.generate(prompt, f"{turn}.{i}", max_tokens=9)).tokens == oracle(prompt, 9)
        known = set()
        for batch in rig.events.after(0):
            known = (known - set(batch.removed)) | set(batch.stored)
        assert len(known) <= 16 + 10
        assert known == set(rig.engine._thread.scheduler.pool.known_ids())
        await balanced(rig)


async def test_company_preemption_and_requests_given_up_leave_both_tiers_whole(make_rig, oracle):
    """More requests than the device has blocks for, some of which end in the midst: the others are exact."""
    async with make_rig(URI, num_blocks=24, host_blocks=40, max_running=8, max_batch_tokens=64) as rig:
        for turn in range(3):
            jobs = [
                asyncio.create_task(rig.generate(prompt, f"{turn}.{i}", max_tokens=60))
                for i, prompt in enumerate(prompts(12, 80))
            ]
            await asyncio.gather(*(rig.engine.abort(f"{turn}.{i}") for i in range(0, 12, 5)))
            for i in range(1, 12, 5):
                jobs[i].cancel()
            answers = await asyncio.gather(*jobs, return_exceptions=True)
            for i, (prompt, answer) in enumerate(zip(prompts(12, 80), answers, strict=True)):
                if i % 5 == 1:
                    continue
                tokens = answer.tokens
                assert tokens == oracle(prompt, 60)[: len(tokens)]
                assert len(tokens) == 60 or answer.last.finish_reason == pb.FINISH_REASON_ABORT
        assert rig.engine._thread.scheduler.pool.host.restored > 0
        assert counted(rig, "argosy_worker_preemptions_total") > 0
        while rig.engine.busy:
            await asyncio.sleep(0.01)
        await balanced(rig)


async def test_a_block_on_the_host_goes_to_another_worker(make_rig, oracle):
    first, *others = prompts(4)
    async with make_rig(URI, num_blocks=10, host_blocks=50) as one, make_rig(URI) as two:
        for i, prompt in enumerate([first, *others]):
            await one.generate(prompt, f"r{i}", max_tokens=1)
        pool = one.engine._thread.scheduler.pool
        ids = block_ids(root_id(one.engine.facts.fingerprint), first)
        assert all(pool.find(block_id) is None and pool.knows(block_id) for block_id in ids)
        answer = await two.generate(first, max_tokens=20, source=one.address)
        assert answer.tokens == oracle(first, 20)
        assert answer.chunks[0].usage.cached_tokens == 96


async def test_blocks_that_come_in_push_others_to_the_host(make_rig, oracle):
    """An import evicts between steps, when no step carries the copies."""
    mine, theirs = prompts(2, 150)
    async with make_rig(URI) as one, make_rig(URI, num_blocks=12, host_blocks=50) as two:
        await one.generate(theirs, "a", max_tokens=1)
        await two.generate(mine, "a", max_tokens=1)
        assert (await two.generate(theirs, "b", max_tokens=9, source=one.address)).tokens == oracle(theirs, 9)
        assert counted(two, "argosy_worker_kv_blocks_imported_total") == 9
        answer = await two.generate(mine, "c", max_tokens=9)
        assert answer.tokens == oracle(mine, 9)
        assert answer.chunks[0].usage.cached_tokens == 144


class Failing:
    """A runner whose steps, or whose copies, fail."""

    def __init__(self, real):
        self.real = real
        self.moves = []
        self.bad = None
        self.broken = False

    def launch(self, batch):
        self.moves += batch.moves
        if self.broken and batch.moves:
            raise RuntimeError("no copy")
        if any(piece.request_id == self.bad for piece in batch.slices):
            raise RuntimeError("no step")
        return self.real.launch(batch)


async def test_copies_are_made_once_though_their_step_is_computed_again(make_rig, oracle):
    runners = []

    def failing(real):
        runners.append(Failing(real))
        return runners[0]

    async with make_rig(URI, num_blocks=20, host_blocks=50, runner=failing) as rig:
        (runner,) = runners
        for i, prompt in enumerate(prompts(6)):
            await rig.generate(prompt, f"warm{i}", max_tokens=1)
        runner.bad = "bad"
        good = [rig.generate(prompt, f"r{i}", max_tokens=9) for i, prompt in enumerate(prompts(2))]
        (status, _), *answers = await asyncio.gather(
            rig.status_of(rig.request(prompts(6)[3], "bad", max_tokens=9)), *good
        )
        assert status is grpc.StatusCode.INTERNAL
        assert [answer.tokens for answer in answers] == [oracle(prompt, 9) for prompt in prompts(2)]
        host = rig.engine._thread.scheduler.pool.host
        assert sum(move.out for move in runner.moves) == host.evicted
        assert sum(not move.out for move in runner.moves) == host.restored > 0
        runner.bad = None
        again = await rig.generate(prompts(6)[3], "again", max_tokens=9)
        assert again.tokens == oracle(prompts(6)[3], 9)
        await balanced(rig)


async def test_copies_that_fail_end_the_worker_and_nobody_gets_a_wrong_answer(make_rig):
    runners = []

    def failing(real):
        runners.append(Failing(real))
        return runners[0]

    async with make_rig(URI, num_blocks=8, host_blocks=50, runner=failing) as rig:
        await rig.generate(prompts(1)[0], "a", max_tokens=1)
        runners[0].broken = True
        status, _ = await rig.status_of(rig.request(prompts(2)[1], "b", max_tokens=9))
        assert status is grpc.StatusCode.UNAVAILABLE  # another worker may answer it
        assert (rig.engine.alive, rig.engine.failure) == (False, "RunnerBrokenError")


def test_moves_are_made_in_order():
    runner = sim.SimRunner(sim.SimSpec(), 2, 16, 2)
    content = {n: bytes([0, *bytes(runner.store.bytes_per_block - 2), n]) for n in (1, 2)}
    runner.store.import_(1, content[1])
    runner.store.import_(2, content[2])
    assert runner.launch(StepBatch((), [out(1, 0), back(0, 2), out(2, 1)])).result() == []
    assert [runner.store.export(2), runner.store.export_host(1)] == [content[1]] * 2


def test_what_is_read_between_steps_is_there():
    """Though its copy would have gone with the next step."""
    runner, pool = sim.SimRunner(sim.SimSpec(), 1, 16, 1), BlockPool(1, host_blocks=1)
    exchange = Exchange(pool, runner.store, lambda _: None)
    content = bytes([*bytes(11), *range(128)])
    assert exchange.write(b"a", content)
    (block,) = pool.allocate(1)
    assert pool.find(b"a") is None
    assert exchange.read(b"a") == content
    assert pool.host.take_moves() == ()
    pool.check([[block]])
