"""What Redis is told: every change, the truth again after every loss, and nothing that outlives the worker."""

import asyncio
import contextlib

import pytest
import redis
from hypothesis import given, settings
from hypothesis import strategies as st

from argosy_api import redis_acl
from argosy_api.ending import end
from argosy_api.keys import BATCH_FIELD, LEASE_TTL_S, Keys
from argosy_api.v1 import worker_pb2 as pb
from argosy_worker.core.blocks import CacheChange
from argosy_worker.engine.metrics import WorkerMetrics
from argosy_worker.kv_events import log as events_log
from argosy_worker.kv_events.log import NOTHING, KvEventLog
from argosy_worker.kv_events.publish import RedisPublisher

KEYS = Keys("ns", "dep")


def block(n):
    return n.to_bytes(16, "big")


def change(stored=(), removed=()):
    return CacheChange(tuple(map(block, stored)), tuple(map(block, removed)))


class Follower:
    """A router's view: applies batches, and knows when it cannot."""

    def __init__(self):
        self.blocks, self.seq, self.epoch, self.broken = set(), None, None, True

    def apply(self, batch):
        if batch.snapshot:
            self.blocks, self.broken = set(batch.stored), False
        elif batch.epoch != self.epoch or batch.seq != self.seq + 1:
            self.broken = True
        else:
            self.blocks = (self.blocks - set(batch.removed)) | set(batch.stored)
        self.seq, self.epoch = batch.seq, batch.epoch


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.sets(st.integers(0, 20)), st.booleans()), max_size=40), st.integers(1, 8))
def test_any_follower_of_the_log_gets_the_same_set(steps, capacity):
    """However seldom a follower asks, and however small the ring, it never sees a gap."""
    log, follower, cursor, held = KvEventLog(1, capacity=capacity), Follower(), NOTHING, set()
    for numbers, ask in steps:
        log.append(change(sorted(numbers - held), sorted(held - numbers)))
        held = numbers
        if ask:
            for batch in log.after(cursor):
                follower.apply(batch)
                assert not follower.broken
                cursor = batch.seq
            assert follower.blocks == set(map(block, held))
    for batch in log.after(cursor):
        follower.apply(batch)
        cursor = batch.seq
    assert (follower.blocks, follower.broken) == (set(map(block, held)), False)
    assert log.after(cursor) == []


def test_a_snapshot_has_parents_before_children():
    log = KvEventLog(1)
    log.append(change([5, 3, 9]))
    log.append(change([1], [3]))
    assert list(log.snapshot().stored) == [block(5), block(9), block(1)]


def test_an_impossible_cursor_gets_a_snapshot():
    log = KvEventLog(1)
    log.append(change([1]))
    for cursor in (NOTHING, 5):
        assert [b.snapshot for b in log.after(cursor)] == [True]
    assert [b.seq for b in log.after(0)] == [1]


async def test_tokens_of_a_step_go_out_before_followers_hear_of_it(monkeypatch):
    monkeypatch.setattr(events_log, "TOKENS_FIRST_S", 3600)
    log = KvEventLog(1)
    following = asyncio.ensure_future(log.wait_beyond(log.seq))
    await asyncio.sleep(0)
    log.append(change(stored=[1]))
    for _ in range(10):  # who has a token to send has had many turns
        await asyncio.sleep(0)
    assert not following.done()
    await end(following)
    await log.wait_beyond(NOTHING)  # who is behind waits for nothing


def make_publisher(url, log, metrics=None, worker="w-0"):
    return RedisPublisher(
        url,
        keys=KEYS,
        worker_id=worker,
        events=log,
        load=lambda: pb.Load(worker_id=worker, epoch=log.epoch, running=3),
        metrics=metrics or WorkerMetrics(model="m", worker=worker),
    )


@contextlib.asynccontextmanager
async def publishing(url, log, **more):
    publisher = make_publisher(url, log, **more)
    task = asyncio.create_task(publisher.run())
    try:
        yield publisher
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        await publisher.forget()


def read(valkey, worker="w-0"):
    """What a router that reads the stream from its beginning believes."""
    follower = Follower()
    with redis.Redis(port=valkey.port) as client:
        for _, fields in client.xrange(KEYS.events(worker)):
            follower.apply(pb.KvEventBatch.FromString(fields[BATCH_FIELD]))
    return follower


def believes(valkey, numbers):
    def check():
        follower = read(valkey)
        return not follower.broken and follower.blocks == set(map(block, numbers))

    return check


@pytest.fixture
def client(valkey):
    with redis.Redis(port=valkey.port) as made:
        yield made


async def test_stream_lease_and_load(valkey, client, eventually):
    log = KvEventLog(7)
    log.append(change([1, 2]))
    async with publishing(valkey.url, log):
        await eventually(believes(valkey, [1, 2]), "the snapshot")
        log.append(change([3], [1]))
        await eventually(believes(valkey, [2, 3]), "the live batch")
        assert client.get(KEYS.lease("w-0")) == b"7"
        assert 0 < client.pttl(KEYS.lease("w-0")) <= LEASE_TTL_S * 1000
        assert pb.Load.FromString(client.get(KEYS.load("w-0"))).running == 3
        async with publishing(valkey.url, KvEventLog(8), worker="w-1"):
            await eventually(lambda: client.get(KEYS.lease("w-1")) == b"8", "the second worker's lease")
    assert client.keys("*") == []  # a clean end takes everything back


async def test_the_user_of_its_namespace_may_do_all_that_a_worker_does(valkey, client, eventually):
    client.execute_command("ACL SETUSER", redis_acl.worker_user("ns"), *redis_acl.worker_rules("ns", "pw"))
    log = KvEventLog(7)
    async with publishing(f"redis://{redis_acl.worker_user('ns')}:pw@127.0.0.1:{valkey.port}/0", log):
        await eventually(believes(valkey, []), "the snapshot")
        log.append(change([3]))
        await eventually(believes(valkey, [3]), "the live batch")
        client.pexpire(KEYS.lease("w-0"), 1500)
        await eventually(lambda: client.pttl(KEYS.lease("w-0")) > 3000, "a beat")
    assert client.keys("*") == []
    assert client.acl_log() == []
    used = {name.removeprefix("cmdstat_") for name in client.info("commandstats")}
    granted = {rule[1:] for rule in redis_acl.worker_rules("ns", "pw") if rule.startswith("+")}
    assert granted - used <= {"ping", "select"}, "a right that no worker needs"


async def test_what_nobody_foresaw_does_not_end_the_publishing(valkey, client, eventually):
    """A fault of ours or of the library costs a moment."""
    log = KvEventLog(7)
    log.append(change([1]))
    asked = []

    def load():
        asked.append(1)
        if len(asked) < 3:
            raise LookupError("a fault")
        return pb.Load(worker_id="w-0", epoch=7)

    publisher = make_publisher(valkey.url, log)
    publisher._load = load
    task = asyncio.create_task(publisher.run())
    await eventually(believes(valkey, [1]))
    await eventually(lambda: client.exists(KEYS.lease("w-0")))
    await end(task)
    await publisher.forget()


async def test_the_lease_is_renewed(valkey, client, eventually):
    async with publishing(valkey.url, KvEventLog(7)):
        await eventually(lambda: client.exists(KEYS.lease("w-0")), "the lease")
        client.pexpire(KEYS.lease("w-0"), 1500)
        await eventually(lambda: client.pttl(KEYS.lease("w-0")) > 3000, "a beat")


async def test_a_killed_redis_that_comes_back_is_told_everything(valkey, eventually):
    log, metrics = KvEventLog(7), WorkerMetrics(model="m", worker="w-0")
    async with publishing(valkey.url, log, metrics=metrics):
        log.append(change([1, 2]))
        await eventually(believes(valkey, [1, 2]), "published")
        assert metrics.redis_up._value.get() == 1
        valkey.kill()
        log.append(change([3]))
        await eventually(lambda: metrics.redis_up._value.get() == 0, "the outage is noticed")
        await asyncio.sleep(1)  # let the back-off grow: this outage has a length
        log.append(change([4], [1]))
        valkey.start()
        await eventually(believes(valkey, [2, 3, 4]), "healed")
        log.append(change([5]))
        await eventually(believes(valkey, [2, 3, 4, 5]), "live again")


async def test_a_cancel_that_comes_with_news_is_not_lost(valkey, eventually):
    """As on every clean end of a worker that has just finished a step."""
    log, metrics = KvEventLog(7), WorkerMetrics(model="m", worker="w-0")
    task = asyncio.create_task(make_publisher(valkey.url, log, metrics=metrics).run())
    log.append(change([1]))
    await eventually(believes(valkey, [1]), "published")
    log.append(change([2]))
    task.cancel()
    await asyncio.wait({task}, timeout=5)
    assert task.cancelled()


async def test_a_cancel_at_any_moment_ends_the_task(valkey, eventually):
    log = KvEventLog(7)
    for turns in range(300):  # of the event loop, from the start into the following of the log
        task = asyncio.create_task(make_publisher(valkey.url, log).run())
        for _ in range(turns % 60):
            log.append(change([turns]))
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task}, timeout=20)
        assert task.cancelled(), f"cancelled after {turns % 60} turns"


async def test_a_redis_that_hangs_is_away_too(valkey, eventually):
    log, metrics = KvEventLog(7), WorkerMetrics(model="m", worker="w-0")
    async with publishing(valkey.url, log, metrics=metrics):
        await eventually(lambda: metrics.redis_up._value.get() == 1, "published")
        with valkey.paused():
            log.append(change([1]))
            await eventually(lambda: metrics.redis_up._value.get() == 0, "the hang is noticed")
        await eventually(believes(valkey, [1]), "healed")


async def test_a_wiped_redis_is_noticed_without_a_broken_connection(valkey, client, eventually):
    log = KvEventLog(7)
    async with publishing(valkey.url, log):
        log.append(change([1, 2]))
        await eventually(believes(valkey, [1, 2]), "published")
        client.flushall()
        await eventually(believes(valkey, [1, 2]), "healed")
        client.delete(KEYS.events("w-0"))  # only the stream
        await eventually(believes(valkey, [1, 2]), "healed")


async def test_a_new_epoch_voids_what_a_former_process_said(valkey, eventually):
    old = KvEventLog(7)
    old.append(change([1, 2]))
    publisher = make_publisher(valkey.url, old)
    task = asyncio.create_task(publisher.run())
    await eventually(believes(valkey, [1, 2]), "published")
    task.cancel()  # no `forget`: the process was killed
    with contextlib.suppress(asyncio.CancelledError):
        await task
    assert read(valkey).blocks == {block(1), block(2)}
    async with publishing(valkey.url, KvEventLog(8)):
        await eventually(lambda: read(valkey).epoch == 8, "the new epoch")
        assert (read(valkey).blocks, read(valkey).broken) == (set(), False)


async def test_falling_behind_costs_a_snapshot_and_is_counted(valkey, eventually):
    log, metrics = KvEventLog(7, capacity=4), WorkerMetrics(model="m", worker="w-0")
    async with publishing(valkey.url, log, metrics=metrics):
        await eventually(believes(valkey, []), "published")
        for n in range(100):  # at once: the publisher has no turn in between
            log.append(change([n]))
        await eventually(believes(valkey, range(100)), "all are there")
        await eventually(lambda: metrics.events_dropped._value.get() == 99, "the dropped ones are counted")


async def test_no_redis_at_all_costs_nothing(free_port):
    log = KvEventLog(7)
    async with publishing(f"redis://127.0.0.1:{free_port()}/0", log):
        for n in range(100):
            log.append(change([n]))
            await asyncio.sleep(0)
    assert log.seq == 100


async def test_the_whole_way_from_the_engine(make_rig, valkey, eventually):
    async with make_rig(num_blocks=8) as rig, publishing(valkey.url, rig.events):
        for i in range(5):
            await rig.generate([i] * 60, f"r{i}", max_tokens=20)
        known = set(rig.engine._thread.scheduler.pool.known_ids())
        await eventually(lambda: read(valkey).blocks == known and not read(valkey).broken, "Redis knows the cache")
        assert known
