"""What tenants may use: on average, at once, and how routers share the counting."""

import asyncio
import json

import pytest
import redis.asyncio as redis
from hypothesis import given
from hypothesis import strategies as st
from waiting import eventually

from argosy_api.access import TenantLimits
from argosy_api.errors import OverloadedError
from argosy_api.keys import TENANTS
from argosy_router.clock import now
from argosy_router.tenants.bucket import BURST_S, Bucket
from argosy_router.tenants.quotas import Quotas
from argosy_router.tenants.shared import MOST, SharedUsage, parse
from argosy_router.tenants.tenant import Tenant


def tenant(name="a", **limits):
    return Tenant(name, TenantLimits(**limits))


@given(st.lists(st.tuples(st.floats(0, 2), st.integers(1, 500)), max_size=200), st.floats(0.5, 100))
def test_what_is_used_keeps_to_the_rate(history, rate):
    """Whatever is asked for: the burst, what flows in, and one request of debt."""
    bucket, time, used, largest = Bucket(rate, 0.0), 0.0, 0, 0
    for pause, size in history:
        time += pause
        if bucket.wait(time) == 0:
            bucket.take(size, time)
            used, largest = used + size, max(largest, size)
        assert used <= max(1.0, rate * BURST_S) + rate * time + largest + 1e-6


@given(st.integers(1, 100_000), st.floats(0.1, 1000))
def test_the_time_that_is_told_is_right(size, rate):
    bucket = Bucket(rate, 0.0)
    bucket.take(size, 0.0)
    wait = bucket.wait(0.0)
    assert bucket.wait(wait * 0.9) >= wait * 0.0999
    assert bucket.wait(wait + 1e-6 * (1 + wait)) == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize("limit", ["tokens_per_minute", "requests_per_minute"])
def test_a_minute_of_asking_all_the_time_gets_what_the_limit_says(limit):
    quotas, who, done = Quotas(), tenant(**{limit: 6000.0}), 0
    size = 37 if limit == "tokens_per_minute" else 1
    for step in range(int(90 / 0.005)):
        time = 0.005 * step
        try:
            quotas.begin(who, 1, time)
        except OverloadedError:
            continue
        quotas.used(who, size if limit == "tokens_per_minute" else 0, time)
        quotas.end(who, 1)
        done += size if time >= 30 else 0  # the burst is gone by then
    assert done == pytest.approx(6000, rel=0.05)


def test_answers_at_once():
    quotas, who = Quotas(), tenant(concurrency=3)
    quotas.begin(who, 2, 0.0)
    with pytest.raises(OverloadedError):
        quotas.begin(who, 2, 0.0)
    quotas.begin(who, 1, 0.0)
    quotas.end(who, 2)
    quotas.begin(who, 2, 0.0)
    quotas.begin(tenant("b", concurrency=3), 8, 0.0)  # more than he may ever have: alone it goes


def test_the_others_use_counts():
    quotas, who = Quotas(), tenant(tokens_per_minute=600.0, concurrency=4)
    quotas.begin(who, 1, 0.0)
    quotas.heard("a", requests=1, tokens=300, running=3, now=0.0)
    with pytest.raises(OverloadedError, match="4 answers"):
        quotas.begin(who, 1, 0.0)
    quotas.heard("a", requests=0, tokens=0, running=0, now=0.0)
    with pytest.raises(OverloadedError, match="tokens per minute") as caught:
        quotas.begin(who, 1, 0.0)
    assert caught.value.retry_after_s == pytest.approx(20.1)


def test_tenants_without_end_are_forgotten(monkeypatch):
    from argosy_api import limits

    monkeypatch.setattr(limits, "MAX_TENANTS", 10)
    quotas = Quotas()
    quotas.begin(tenant("busy"), 1, 0.0)
    for i in range(100):
        quotas.begin(tenant(f"t{i}"), 1, 0.0)
        quotas.end(tenant(f"t{i}"), 1)
    assert len(quotas.usage()) == 10
    assert quotas.usage()["busy"].running == 1


# --- through Redis


@pytest.mark.parametrize(
    "text", [b"", b"{", b"[]", b"[1]", b"[1, []]", b'[1, {"a": 1}]', b'[1, {"a": [1, 2]}]', b'[1, {"a": [-1, 2, 3]}]',
             b'["x", {}]', json.dumps([1, {"a": [MOST, 0, 0]}]).encode()],
)  # fmt: skip
def test_what_no_router_says_is_passed_over(text):
    assert parse(text) is None


async def test_two_routers_count_together_and_each_takes_its_part_alone(valkey_factory):
    server = valkey_factory().start()
    clients = [redis.Redis(port=server.port) for _ in range(2)]
    routers = [Quotas() for _ in clients]
    shared = [SharedUsage(q, c) for q, c in zip(routers, clients, strict=True)]
    tasks = [asyncio.create_task(s.run()) for s in shared]
    who = tenant(tokens_per_minute=600.0, concurrency=10)
    try:
        for quotas in routers:
            quotas.begin(who, 1, now())
        await eventually(lambda: all(len(s._others) == 1 for s in shared), what="they know each other")
        routers[0].used(who, 6000, now())

        def refused() -> bool:
            try:
                routers[1].begin(who, 1, now())
            except OverloadedError:
                return True
            routers[1].end(who, 1)
            return False

        await eventually(refused, what="the other one knows what was used")
        assert routers[1].share == 1.0
        server.kill()
        for s in shared:
            s._heard_at = float("-inf")  # for a long time by now
        await eventually(lambda: [q.share for q in routers] == [0.5, 0.5], what="each gives out its part")
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for client in clients:
            await client.aclose()


async def test_hostile_values_change_nothing(valkey_factory):
    server = valkey_factory().start()
    async with redis.Redis(port=server.port) as client:
        quotas = Quotas()
        shared = SharedUsage(quotas, client)
        quotas.begin(tenant(), 1, now())
        await client.hset(TENANTS, "x", b"\xff\xfe")
        await client.hset(TENANTS, "y", json.dumps([1, {"a": [5, 5, -5]}]))
        shared._take(await shared._exchange(client), now())
        assert not shared._others
        await client.set(TENANTS + "x", "1")
        await shared.leave()
        assert shared._name.encode() not in await client.hgetall(TENANTS)
