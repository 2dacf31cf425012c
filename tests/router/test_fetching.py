"""Whom a worker asks for the blocks that it lacks: the decision, and what reaches the worker."""

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from waiting import eventually

from argosy_api.membership import RoutingPolicy
from argosy_api.v1 import worker_pb2 as pb
from argosy_router.routing import policy
from argosy_router.routing.fetching import LEAST_GAIN_S, MARGIN, SETUP_S, Fetch, Holder, fetch_for

KB = 1000.0


def holder(worker, cached, *, layout="x", rate=1000.0, transfer=10e6, inflight=0.0):
    return Holder(worker=worker, layout=layout, cached=cached, rate=rate, transfer=transfer, inflight=inflight)


def test_a_long_prefix_is_fetched_from_who_has_most_of_it():
    """4000 tokens of 1 KB at 10 MB/s against 1000 tokens/s."""
    lacks, some, most = holder("a", 0), holder("b", 1000), holder("c", 4000)
    for worker, missing in ((lacks, 4000), (some, 3000)):
        found = fetch_for(worker, [lacks, some, most], KB)
        assert found is not None
        assert (found.source, found.tokens) == ("c", 4000)
        assert found.seconds == pytest.approx(SETUP_S + MARGIN * missing * KB / 10e6)
    assert fetch_for(most, [lacks, some, most], KB) is None


def test_of_equal_holders_the_idle_one_is_asked():
    found = fetch_for(holder("a", 0), [holder("b", 4000, inflight=500), holder("c", 4000)], KB)
    assert found is not None
    assert found.source == "c"


@pytest.mark.parametrize(
    ("lacks", "has", "size"),
    [
        (holder("a", 0), holder("b", 40), KB),  # computed in 40 ms
        (holder("a", 0, transfer=1e6), holder("b", 4000), KB),  # 6 s of transfer
        (holder("a", 0, rate=1e6), holder("b", 4000), KB),  # computed in 4 ms
        (holder("a", 0), holder("b", 4000, layout="y"), KB),
        (holder("a", 0, layout=""), holder("b", 4000, layout=""), KB),
        (holder("a", 4000), holder("b", 4000), KB),
        (holder("a", 0), holder("b", 4000), 0.0),
    ],
    ids=["short", "slow network", "fast engine", "another layout", "no exchange", "has it", "size unknown"],
)
def test_what_does_not_pay_is_computed(lacks, has, size):
    assert fetch_for(lacks, [lacks, has], size) is None


@given(
    st.lists(
        st.tuples(
            st.integers(0, 5000),
            st.sampled_from(["", "x", "y"]),
            st.floats(1, 1e5),
            st.floats(0, 1e10),
            st.floats(0, 1e4),
        ),
        min_size=1,
        max_size=6,
    ),
    st.floats(0, 1e6),
)
def test_a_fetch_always_saves_time_by_the_formula(drawn, size):
    workers = [
        Holder(worker=str(i), cached=c, layout=x, rate=r, transfer=t, inflight=q)
        for i, (c, x, r, t, q) in enumerate(drawn)
    ]
    for mine in workers:
        found = fetch_for(mine, workers, size)
        if found is None:
            continue
        source = workers[int(found.source)]
        assert source is not mine
        assert source.layout == mine.layout != ""
        assert source.cached == found.tokens > mine.cached
        assert (found.tokens - mine.cached) / mine.rate - found.seconds >= LEAST_GAIN_S


def test_a_fetch_counts_in_the_cost():
    plain = policy.Candidate(worker="a", rate=1000.0)
    fetching = policy.Candidate(worker="a", rate=1000.0, fetch=Fetch(source="b", tokens=3900, seconds=0.5))
    assert policy.cost(plain, 4000) == 4.0
    assert policy.cost(fetching, 4000) == 0.6


async def _with_prefix(make_rig, fake_worker, *, chosen=None, layouts=("x", "x"), **more):
    """Two workers, of which w0 holds a long prefix and has a long queue."""
    rig = await make_rig(policy=chosen)
    workers = [fake_worker(worker_id=f"w{i}", kv_layout=layouts[i], kv_block_bytes=16_000, **more) for i in range(2)]
    await rig.add(*workers)
    prompt = [random.Random(1).randrange(256) for _ in range(3000)]
    workers[0].emit(stored=workers[0].ids(prompt))
    workers[0].queue = [pb.QueuedWork(uncached_tokens=20_000, waited_seconds=1000.0)]
    await rig.until_indexed()
    await eventually(lambda: _queued(rig, "w0"), "the queue is known")
    return rig, workers, prompt


def _queued(rig, worker):
    load = rig.state.workers[worker].load
    return load is not None and load.uncached_tokens > 0


async def ask(rig, prompt, **more):
    response, _ = await rig.post("/v1/completions", {"model": "m", "prompt": prompt, "max_tokens": 2, **more})
    assert response.status == 200
    return response.headers


async def test_the_idle_worker_is_told_whom_to_ask(make_rig, fake_worker):
    rig, (busy, idle), prompt = await _with_prefix(make_rig, fake_worker)
    headers = await ask(rig, prompt)
    assert [r.kv_source for r in idle.requests] == [f"127.0.0.1:{busy.port}"]
    assert headers["x-argosy-worker"] == "w1"
    assert headers["x-argosy-cached-tokens-predicted"] == str(2999 // 16 * 16)
    assert headers["x-argosy-decision"].endswith("source=w0")
    await ask(rig, [5, *prompt])  # nobody has this
    assert [r.kv_source for r in idle.requests[1:] + busy.requests] == [""]
    assert rig.idle()


@pytest.mark.parametrize("chosen", [RoutingPolicy.ROUND_ROBIN, RoutingPolicy.PREFIX_HASH])
async def test_whatever_the_policy(make_rig, fake_worker, chosen):
    rig, (busy, idle), prompt = await _with_prefix(make_rig, fake_worker, chosen=chosen)
    for i in range(6):
        await ask(rig, [*prompt, i])
    asked = {r.kv_source for r in idle.requests[:1]}
    assert asked <= {f"127.0.0.1:{busy.port}"}
    assert all(r.kv_source == "" for r in busy.requests)


async def test_workers_that_cannot_exchange_are_not_asked_to(make_rig, fake_worker):
    for layouts in (("x", "y"), ("", "")):
        rig, (_, idle), prompt = await _with_prefix(make_rig, fake_worker, layouts=layouts)
        await ask(rig, prompt)
        assert all(r.kv_source == "" for r in idle.requests)


async def test_a_resource_may_forbid_it(make_rig, fake_worker):
    rig, (_, idle), prompt = await _with_prefix(make_rig, fake_worker)
    rig.state.spec = replace(rig.state.spec, fetch_blocks=False)
    headers = await ask(rig, prompt)
    assert [r.kv_source for r in idle.requests] == [""]
    assert "source" not in headers["x-argosy-decision"]


async def test_a_worker_that_measured_slow_transfers_computes(make_rig, fake_worker):
    rig, (_, idle), prompt = await _with_prefix(make_rig, fake_worker, transfer=1e5)
    await ask(rig, prompt)
    assert [r.kv_source for r in idle.requests] == [""]
