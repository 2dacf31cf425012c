"""The index's feed: from workers, from Redis, and back and forth between them; and routing by it."""

import asyncio
import json
from collections import Counter
from types import SimpleNamespace

import pytest
import pytest_asyncio
import redis.asyncio as redis
from access_kit import Access
from router_kit import FakeWorker, RedisPublisher, encode
from waiting import eventually

from argosy_api import limits, redis_acl
from argosy_api.keys import BATCH_FIELD, TENANTS, Keys
from argosy_api.membership import RoutingPolicy
from argosy_api.v1 import worker_pb2 as pb
from argosy_router.clock import now
from argosy_router.fleet.index_feed import IndexFeed
from argosy_router.fleet.index_source import parse_lease, parse_load
from argosy_router.fleet.redis_link import CALL_S
from argosy_router.routing.index import SLICE, KvIndex, Outcome
from argosy_router.routing.predictions import Predictions

PREFIX = "a common beginning of several blocks, " * 4
KEYS = Keys("default", "m")


def cached(body: bytes) -> int:
    return json.loads(body)["usage"]["prompt_tokens_details"]["cached_tokens"]


async def ask(rig, tail: str = ""):
    response, body = await rig.post("/v1/completions", {"model": "m", "prompt": PREFIX + tail, "max_tokens": 2})
    assert response.status == 200
    return response, body


async def prefix_routing_works(rig, prompt_tail: str) -> str:
    """The second request goes where the first was, predicted and found cached."""
    first, _ = await ask(rig, prompt_tail)
    await rig.until_indexed()
    second, body = await ask(rig, prompt_tail)
    assert second.headers["x-argosy-worker"] == first.headers["x-argosy-worker"]
    assert second.headers["x-argosy-decision"].startswith("kvAware:")
    expected = (len(encode(PREFIX + prompt_tail)) - 1) // 16 * 16
    assert int(second.headers["x-argosy-cached-tokens-predicted"]) == expected
    assert cached(body) == expected
    return first.headers["x-argosy-worker"]


async def test_prefix_routing_without_redis(rig):
    """Subscribed to the workers directly."""
    await rig.until_indexed()
    await prefix_routing_works(rig, "one")


async def test_what_a_worker_has_in_host_memory_counts_too(make_rig):
    """It knows more blocks than its device has; one that told of more than it can have would not be listened to."""
    rig = await make_rig()
    holder = FakeWorker(worker_id="w0", total_blocks=40, host_blocks=200)
    holder.emit(stored=[bytes([n]) * 16 for n in range(240)])
    await rig.add(holder)
    await rig.until_indexed()
    assert rig.state.index.held("w0") == 240


async def test_events_before_the_router_count(make_rig):
    """What a worker holds when the router starts comes with its snapshot."""
    rig = await make_rig()
    holder = FakeWorker(worker_id="w1")
    holder.emit(stored=holder.ids(encode(PREFIX)))
    await rig.add(FakeWorker(worker_id="w0"), holder)
    await rig.until_indexed()
    response, body = await ask(rig)
    assert response.headers["x-argosy-worker"] == "w1"
    assert cached(body) > 0


async def test_others_have_their_turn_while_a_large_snapshot_is_taken():
    index = KvIndex()
    index.join("w", 10 * SLICE)
    state = SimpleNamespace(index=index, name="m", spec=SimpleNamespace(namespace="default", name="m"))
    feed = IndexFeed(state, None, None)
    stored = [i.to_bytes(16, "big") for i in range(10 * SLICE)]
    batch = pb.KvEventBatch(epoch=1, seq=1, snapshot=True, stored=stored)
    taking = asyncio.create_task(feed._apply("w", batch))
    turns = 0
    while not taking.done():
        turns += 1
        await asyncio.sleep(0)
    assert taking.result() is Outcome.APPLIED
    assert turns >= 10


async def test_siblings_of_a_burst_stay_together(rig):
    """Before any event came back, a burst with one new prefix goes to one worker; but for one that comes late, by which
    time that worker may be slower than computing it all. (Without foresight three of six go to each.)
    """
    await rig.until_indexed()
    for worker in rig.workers:
        worker.rate = 100_000.0
        worker.script.step_s = 0.005
    answers = await asyncio.gather(*(ask(rig, f"{i}") for i in range(6)))
    ((_, together),) = Counter(response.headers["x-argosy-worker"] for response, _ in answers).most_common(1)
    assert together >= 5


async def test_what_was_sent_to_a_worker_counts_before_its_events_come(make_rig):
    """One of two workers is followed already: the prompt that the other was just sent is no less there for that."""
    rig = await make_rig()
    workers = [Untold(worker_id="w0"), Untold(worker_id="w1")]
    await rig.add(*workers)
    rig.state.predictions = Predictions(lag_s=60)
    first, _ = await ask(rig)
    assert first.headers["x-argosy-decision"].startswith("kvAware/indexStale:")
    holder = first.headers["x-argosy-worker"]
    next(w for w in workers if w.worker_id != holder).told.set()
    await eventually(lambda: any(w.index_counts(now()) for w in rig.state.workers.values()), what="one is followed")
    assert not rig.state.workers[holder].index_counts(now())
    second, body = await ask(rig)
    assert second.headers["x-argosy-worker"] == holder
    assert second.headers["x-argosy-decision"].startswith("kvAware:prefix")
    assert cached(body) == int(second.headers["x-argosy-cached-tokens-predicted"]) > 0


async def test_a_late_report_of_a_finished_request_does_not_send_the_next_one_away(rig):
    """The only request that there was, in a report that is read after its end."""
    await rig.until_indexed()
    first, body = await ask(rig)
    usage = json.loads(body)["usage"]
    holder = first.headers["x-argosy-worker"]
    peer = rig.state.workers[holder]
    blocks = usage["total_tokens"] // peer.facts.block_size
    late = pb.Load(
        epoch=peer.facts.epoch, sequence=2**40, accepted=2**40, running=1, total_blocks=blocks, used_blocks=blocks,
        decode_tokens=usage["total_tokens"], uncached_tokens=usage["prompt_tokens"],
        queue=[pb.QueuedWork(uncached_tokens=usage["prompt_tokens"])],
    )  # fmt: skip
    peer.take_load(late, now())
    assert peer.load == late
    second, _ = await ask(rig)
    assert second.headers["x-argosy-worker"] == holder


class Untold(FakeWorker):
    """Its events come when they are told to."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.told = asyncio.Event()

    async def SubscribeKvEvents(self, request, context):
        await self.told.wait()
        async for batch in super().SubscribeKvEvents(request, context):
            yield batch


async def test_salted_prompts_share_nothing(rig):
    """Another salt, another identity of the same text."""
    await rig.until_indexed()
    await ask(rig)
    await rig.until_indexed()
    request = {"model": "m", "prompt": PREFIX, "max_tokens": 1, "cache_salt": "tenant"}
    response, body = await rig.post("/v1/completions", request)
    assert response.headers["x-argosy-cached-tokens-predicted"] == "0"
    assert cached(body) == 0


async def test_removed_blocks_are_not_counted_on(rig):
    """Evicted is evicted."""
    await rig.until_indexed()
    await ask(rig)
    await rig.until_indexed()
    holder = next(w for w in rig.workers if w.cached)
    holder.emit(removed=sorted(holder.cached))
    await rig.until_indexed()
    rig.state.predictions.forget(rig.state.index.bit(holder.worker_id))
    response, _ = await ask(rig)
    assert response.headers["x-argosy-cached-tokens-predicted"] == "0"


async def test_a_worker_restarted_in_place(rig):
    """Same id, same address, new process: nothing of before counts."""
    await rig.until_indexed()
    name = await prefix_routing_works(rig, "x")
    worker = next(w for w in rig.workers if w.worker_id == name)
    port = worker.port
    await worker.stop()
    worker.epoch, worker.seq, worker.cached, worker.ring = 2, 0, set(), []
    await worker.start(port)
    await eventually(lambda: rig.state.index.position(name)[:2] == (2, 0))
    await rig.until_ready(2)
    assert rig.state.index.held(name) == 0


@pytest.mark.parametrize(
    ("policy", "reason"),
    [(RoutingPolicy.ROUND_ROBIN, "roundRobin:turn"), (RoutingPolicy.PREFIX_HASH, "prefixHash:hash")],
)
async def test_baselines(make_rig, policy, reason):
    """The resource's policy is followed."""
    rig = await make_rig(policy=policy)
    await rig.add(FakeWorker(worker_id="w0"), FakeWorker(worker_id="w1"))
    seen = []
    for _ in range(4):
        response, _ = await ask(rig)
        assert response.headers["x-argosy-decision"].startswith(reason)
        seen.append(response.headers["x-argosy-worker"])
    assert len(set(seen)) == (2 if policy is RoutingPolicy.ROUND_ROBIN else 1)


# --- with Redis


class RedisRig:
    def __init__(self, rig, valkey, client, publishers):
        self.rig, self.valkey, self.client, self.publishers = rig, valkey, client, publishers

    def on_stream(self) -> bool:
        """Whether every worker's events come from Redis (no subscription is open)."""
        return all(not w.subscribers for w in self.rig.workers)

    async def settled(self) -> None:
        await eventually(self.on_stream, what="events come through Redis")
        await self.rig.until_indexed()


@pytest_asyncio.fixture
async def redis_rig(make_rig, valkey):
    rig = await make_rig(redis_url=valkey.url)
    client = redis.Redis.from_url(valkey.url, socket_connect_timeout=0.5, socket_timeout=0.5)
    workers = [FakeWorker(worker_id="w0"), FakeWorker(worker_id="w1")]
    publishers = [RedisPublisher(client, w) for w in workers]
    await rig.add(*workers)
    made = RedisRig(rig, valkey, client, publishers)
    await made.settled()
    yield made
    for publisher in publishers:
        await publisher.stop()
    await client.aclose()


async def test_prefix_routing_through_redis(redis_rig):
    """Events come with the streams; no subscription is open."""
    await prefix_routing_works(redis_rig.rig, "redis")
    assert redis_rig.on_stream()


async def test_the_routers_user_may_do_all_that_a_router_does(make_rig, valkey, tmp_path):
    admin = redis.Redis.from_url(valkey.url)
    await admin.execute_command("ACL SETUSER", redis_acl.ROUTER, *redis_acl.router_rules("pw"))
    url = f"redis://{redis_acl.ROUTER}:pw@127.0.0.1:{valkey.port}/0"
    rig = await make_rig(redis_url=url, **Access(tmp_path).settings)
    worker = FakeWorker(worker_id="w0")
    publisher = RedisPublisher(admin, worker)
    await rig.add(worker)
    made = RedisRig(rig, valkey, admin, [publisher])
    await made.settled()
    worker.emit(stored=worker.ids(encode(PREFIX)))
    await rig.until_indexed()
    assert made.on_stream()
    await eventually(lambda: admin.hlen(TENANTS), what="what tenants use is told")
    await rig.router._usage.leave()
    assert await admin.acl_log() == []
    used = {name.removeprefix("cmdstat_") for name in await admin.info("commandstats")}
    granted = {rule[1:] for rule in redis_acl.router_rules("pw") if rule.startswith("+")}
    assert granted - used <= {"ping", "select"}, "a right that no router needs"
    async with redis.Redis.from_url(url) as router:
        for key in (KEYS.load("w0"), "argosy:1:tenants2"):
            with pytest.raises(redis.ResponseError, match=r"(?i)no permissions|noperm"):
                await router.hset(key, "x", "y")
    await publisher.stop()
    await admin.aclose()


@pytest.mark.parametrize("where", ["load", "stream", "many entries"])
async def test_more_than_any_worker_writes_is_not_read(redis_rig, monkeypatch, caplog, where):
    """Neither memory nor the connections of others are spent on it, and requests go on by the workers' own word."""
    monkeypatch.setattr(limits, "MAX_REDIS_REPLY", 1 << 20)
    rig, worker = redis_rig.rig, redis_rig.rig.workers[0]
    huge = b"x" * (3 << 20)
    if where == "load":
        key = KEYS.load("w0")
        await redis_rig.publishers[0].stop()
        await redis_rig.client.set(key, huge)
    elif where == "stream":
        await redis_rig.client.xadd(KEYS.events("w0"), {BATCH_FIELD: huge})
    else:
        pipe = redis_rig.client.pipeline()
        for _ in range(200):
            pipe.xadd(KEYS.events("w0"), {b"other": huge[: 16 << 10]})
        await pipe.execute()
    await eventually(lambda: "more than 1048576 bytes" in caplog.text, what="it is said")
    await eventually(lambda: all(w.subscribers for w in rig.workers), what="workers are asked")
    worker.emit(stored=worker.ids(encode(PREFIX)))
    await rig.until_indexed()
    await prefix_routing_works(rig, "nonetheless")
    assert rig.router.metrics.redis_up._value.get() == 1  # Redis itself is not away


async def test_a_gap_is_repaired(redis_rig):
    """A batch that never reached Redis is noticed by the next number, and repaired from the worker."""
    rig = redis_rig.rig
    worker = rig.workers[0]
    worker.emit(stored=worker.ids(list(range(64))), lose=True)
    worker.emit(stored=worker.ids(list(range(100, 164))))
    await rig.until_indexed()
    assert worker.subscriptions >= 2
    await redis_rig.settled()
    await prefix_routing_works(rig, "after the gap")


async def test_trimmed_and_deleted_streams_heal(redis_rig):
    """A stream cut at its beginning, or gone: the numbers tell."""
    rig = redis_rig.rig
    worker = rig.workers[1]
    await redis_rig.client.flushall()
    worker.emit(stored=worker.ids(list(range(32))))
    await rig.until_indexed()
    await redis_rig.settled()
    await prefix_routing_works(rig, "after the wipe")


async def test_redis_dies_and_returns(redis_rig):
    """No request fails; prefix routing goes on without it, and through it within 5 s of its return."""
    rig = redis_rig.rig
    failed = []

    async def load() -> None:
        for i in range(10_000):
            response, _ = await rig.post("/v1/completions", {"model": "m", "prompt": f"{i} " * 20, "max_tokens": 2})
            if response.status != 200:
                failed.append(response.status)

    loading = asyncio.create_task(load())
    await ask(rig, "before")
    redis_rig.valkey.kill()
    await eventually(lambda: all(w.subscribers for w in rig.workers), what="direct subscriptions")
    loading.cancel()
    await asyncio.gather(loading, return_exceptions=True)
    await prefix_routing_works(rig, "during")
    redis_rig.valkey.start()
    await eventually(redis_rig.on_stream, what="back on the streams")
    await prefix_routing_works(rig, "after")
    assert failed == []


async def test_lost_lease_means_asking_the_worker(redis_rig):
    """A worker that cannot reach Redis is subscribed to directly, and still routed by its prefix."""
    rig, worker = redis_rig.rig, redis_rig.rig.workers[0]
    await redis_rig.publishers[0].stop()
    await redis_rig.client.delete(KEYS.lease("w0"))
    await eventually(lambda: worker.subscribers)
    worker.emit(stored=worker.ids(encode(PREFIX + "only here")))
    await rig.until_indexed()
    response, body = await ask(rig, "only here")
    assert response.headers["x-argosy-worker"] == "w0"
    assert cached(body) > 0


def test_numbers_and_reports_of_any_length_are_refused():
    """More digits than Python reads; and a load that would take long to parse."""
    assert [parse_lease(raw) for raw in (None, b"", b"x", b"9" * 5000)] == [None] * 4
    assert parse_lease(b"17") == 17
    load = pb.Load(queue=[pb.QueuedWork(uncached_tokens=1, waited_seconds=1)] * limits.MAX_REPORTED)
    assert parse_load(load.SerializeToString()) == load
    load.queue.extend(list(load.queue) * 30)
    assert [parse_load(raw) for raw in (load.SerializeToString(), b"\xff")] == [None, None]


async def test_hostile_values_in_redis_do_no_harm(redis_rig):
    """Garbage in the stream, the lease and the load; numbers from the far future: the worker's own word counts."""
    rig, client, worker = redis_rig.rig, redis_rig.client, redis_rig.rig.workers[0]
    far = pb.KvEventBatch(epoch=2**63, seq=5, snapshot=True, stored=[b"x" * 16])
    await client.xadd(KEYS.events("w0"), {BATCH_FIELD: b""})  # a batch of epoch 0: stale
    for value in (far.SerializeToString(), b"\xff\xff"):
        reads = worker.subscriptions
        await client.xadd(KEYS.events("w0"), {BATCH_FIELD: value})
        await eventually(lambda: worker.subscriptions > reads, what="the worker is asked")  # noqa: B023
        worker.emit(stored=worker.ids([worker.seq + 1] * 32))
        await redis_rig.settled()
    await client.xadd(KEYS.events("w0"), {b"other": b"field"})
    await client.set(KEYS.lease("w1"), b"99999999999999999999", ex=1)
    await client.set(
        KEYS.load("w1"), pb.Load(epoch=1, prefill_tokens_per_second=float("nan")).SerializeToString(), ex=1
    )
    worker.emit(stored=worker.ids(list(range(32))))
    await redis_rig.settled()
    await prefix_routing_works(rig, "unharmed")


async def test_workers_come_and_go(redis_rig):
    """A new worker is indexed, one that left is forgotten."""
    rig = redis_rig.rig
    third = FakeWorker(worker_id="w2")
    publisher = RedisPublisher(redis_rig.client, third)
    try:
        third.emit(stored=third.ids(encode(PREFIX + "third")))
        await rig.add(third)
        await rig.until_indexed()
        response, _ = await ask(rig, "third")
        assert response.headers["x-argosy-worker"] == "w2"
        rig.workers.remove(third)
        rig.announce()
        await eventually(lambda: "w2" not in rig.state.workers)
        assert rig.state.index.bit("w2") == 0
        await rig.until_indexed()
        response, _ = await ask(rig, "third")
        assert response.headers["x-argosy-worker"] != "w2"
    finally:
        await publisher.stop()
        await third.stop()


async def test_redis_that_hangs_delays_nobody(make_rig, free_port):
    """A port that accepts and never answers: requests are served at once, by direct subscription."""
    server = await asyncio.start_server(lambda _r, _w: asyncio.Event().wait(), "127.0.0.1", free_port())
    port = server.sockets[0].getsockname()[1]
    loop, took = asyncio.get_running_loop(), []
    for url in (None, f"redis://127.0.0.1:{port}/0"):
        rig = await make_rig(redis_url=url)
        await rig.add(FakeWorker(worker_id="w0"), FakeWorker(worker_id="w1"))
        await rig.until_indexed()
        started = loop.time()
        for i in range(20):
            await ask(rig, f"{i}")
        took.append((loop.time() - started) / 20)
    assert took[1] < 3 * took[0] + CALL_S / 2  # whoever waited for Redis would take CALL_S longer
    server.close()
