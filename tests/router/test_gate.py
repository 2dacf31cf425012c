"""The line in front of workers: who goes on, who waits, who is refused; and what a client is told of it."""

import asyncio
import contextlib
import json

import grpc
import pytest
from access_kit import Access, bearer
from router_kit import FakeWorker, Script
from waiting import eventually

from argosy_api.access import TenantLimits
from argosy_api.errors import DeadlineError, OverloadedError, UnavailableError
from argosy_api.v1 import worker_pb2 as pb
from argosy_router.tenants import turns as module
from argosy_router.tenants.pace import FEW, LEAST_S, STALL_S, Pace
from argosy_router.tenants.tenant import Tenant
from argosy_router.tenants.turns import AT_ONCE, LEAST_AT_ONCE, Strength, Turns


@pytest.fixture
def clock(monkeypatch):
    class Clock:
        time = 1000.0

    made = Clock()
    monkeypatch.setattr(module, "now", lambda: made.time)
    return made


class Workers:
    """What a line is told of its workers."""

    def __init__(self, workers=1, rate=0.0, kv_tokens=100_000) -> None:
        self.now = Strength(workers, rate, kv_tokens)

    def __call__(self) -> Strength:
        return self.now


def tenant(name="a", **limits) -> Tenant:
    return Tenant(name, TenantLimits(**limits))


class Line:
    """Turns, and requests that take them."""

    def __init__(self, workers, *, fair=True, longest_s=300.0) -> None:
        self.turns = Turns(workers, fair=lambda: fair, longest_s=longest_s)
        self.taken: list = []
        self.tasks: list[asyncio.Task] = []

    async def come(self, who: Tenant, *, tokens=100, priority=0, deadline=None, passes=False) -> asyncio.Task:
        async def take():
            turn = await self.turns.take(who, tokens=tokens, priority=priority, deadline=deadline, passes=passes)
            self.taken.append(turn)
            return turn

        task = asyncio.create_task(take())
        self.tasks.append(task)
        for _ in range(4):
            await asyncio.sleep(0)
        return task

    async def settle(self) -> None:
        for _ in range(4):
            await asyncio.sleep(0)

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


async def test_workers_are_kept_busy_and_no_more():
    async with Line(Workers(workers=2)) as line:
        for _ in range(100):
            await line.come(tenant())
        assert (len(line.taken), len(line.turns)) == (2 * AT_ONCE, 100 - 2 * AT_ONCE)
        line.turns.first_token(line.taken[0], 0)
        line.turns.end(line.taken[1])
        await line.settle()
        assert len(line.taken) == 2 * AT_ONCE + 2


async def test_long_prompts_fill_a_worker_sooner():
    async with Line(Workers(rate=1000.0)) as line:
        for _ in range(10):
            await line.come(tenant(), tokens=5000)
        assert len(line.taken) == LEAST_AT_ONCE


async def test_turns_go_round_between_tenants_not_by_who_came_first():
    async with Line(Workers(rate=100.0)) as line:
        for name in ["a"] * 20 + ["b"] * 10:
            await line.come(tenant(name), tokens=100)
        for _ in range(18):
            line.turns.end(line.taken[-1])
            await line.settle()
        served = [turn.tenant.name for turn in line.taken[2:]]
        assert abs(served.count("a") - served.count("b")) <= 2


async def test_a_tenants_part_of_the_cache():
    async with Line(Workers(workers=4, kv_tokens=1000)) as line:
        half = tenant("a", kv_share=0.5)
        for _ in range(3):
            await line.come(half, tokens=250)
        await line.come(tenant("b"), tokens=250)
        assert [turn.tenant.name for turn in line.taken] == ["a", "a", "b"]
        line.turns.tokens(line.taken[0], 10)
        line.turns.end(line.taken[1])
        await line.settle()
        assert len(line.taken) == 3  # 260 and 250 are more than the half
        line.turns.end(line.taken[0])
        await line.settle()
        assert [turn.tenant.name for turn in line.taken] == ["a", "a", "b", "a"]


async def test_one_tenant_alone_has_no_line_where_nobody_is_asked_for_credentials():
    async with Line(Workers(), fair=False) as line:
        for _ in range(100):
            await line.come(tenant())
        assert (len(line.taken), len(line.turns)) == (100, 0)


async def test_who_goes_on_with_an_answer_does_not_wait():
    async with Line(Workers()) as line:
        for _ in range(AT_ONCE + 3):
            await line.come(tenant())
        await line.come(tenant("b"), passes=True)
        assert line.taken[-1].tenant.name == "b"


async def test_with_no_worker_nobody_waits_for_nothing():
    workers = Workers()
    async with Line(workers) as line:
        for _ in range(AT_ONCE + 3):
            await line.come(tenant())
        workers.now = Strength(0, 0.0, 0)
        await asyncio.wait_for(asyncio.gather(*line.tasks), 30)
        assert len(line.turns) == 0


async def test_who_goes_away_leaves_the_line_and_gives_back_his_turn():
    async with Line(Workers()) as line:
        for _ in range(AT_ONCE + 2):
            await line.come(tenant())
        line.tasks[-1].cancel()
        line.tasks[-2].cancel()
        line.turns.end(line.taken[0])  # his turn comes in the moment in which he goes
        await asyncio.wait(line.tasks[-2:])
        assert len(line.turns) == 0
        for turn in line.taken:
            line.turns.end(turn)
            line.turns.end(turn)
        assert (line.turns._given, line.turns._given_tokens, line.turns._held) == (0, 0, {})


async def test_a_deadline_in_the_line():
    from argosy_router.clock import now

    async with Line(Workers()) as line:
        for _ in range(AT_ONCE):
            await line.come(tenant())
        waits = await line.come(tenant(), deadline=now() + 0.05)
        with pytest.raises(DeadlineError):
            await waits
        waits = await line.come(tenant())
        line.turns.close("shutting down")
        with pytest.raises(UnavailableError):
            await waits


async def contended(line, clock, *, per_second, seconds) -> None:
    """So many first tokens a second, while more is wanted."""
    for _ in range(int(per_second * seconds)):
        clock.time += 1 / per_second
        line.turns.first_token(next(t for t in line.taken if not t.begun), 0)
        await line.settle()
        await line.come(tenant())


async def test_who_could_not_begin_in_time_is_refused_at_once(clock):
    async with Line(Workers(), longest_s=5.0) as line:
        for _ in range(AT_ONCE + 20):
            await line.come(tenant())
        line.turns.check(tenant(), 0, 1, None)  # nothing is known of the pace yet
        await contended(line, clock, per_second=10, seconds=4)
        assert line.turns.predicted_wait(tenant(), 0) == pytest.approx(2.5, abs=0.2)
        line.turns.check(tenant(), 0, 1, clock.time + 10)
        with pytest.raises(OverloadedError) as caught:
            line.turns.check(tenant(), 0, 1, clock.time + 2)
        assert caught.value.retry_after_s == pytest.approx(2.5, abs=0.2)
        with pytest.raises(OverloadedError) as caught:
            line.turns.check(tenant(), 0, 30, None)
        assert caught.value.retry_after_s == pytest.approx(0.4, abs=0.2)
        # who has asked for nothing has a short way, and so has who is more important
        assert line.turns.predicted_wait(tenant("b"), 0) == pytest.approx(0.6, abs=0.1)
        assert line.turns.predicted_wait(tenant(), 1) == pytest.approx(0.5, abs=0.1)


def test_pace_is_what_came_while_more_was_wanted():
    pace = Pace()
    for i in range(100):
        pace.began(0.1 * i)
    assert pace.rate(10.0) is None
    pace.contended(yes=True, now=10.0)
    for i in range(40):
        pace.began(10.0 + 0.05 * i)
    assert pace.rate(10.0 + LEAST_S / 2) is None
    assert pace.rate(12.0) == pytest.approx(20)
    assert pace.rate(15.0) == pytest.approx(8)
    pace.contended(yes=False, now=15.0)
    assert pace.rate(16.0) is None


def test_a_stall_is_not_taken_for_the_pace_at_once():
    """As when a worker dies: for some seconds nothing begins, and then it goes on."""
    pace = Pace()
    pace.contended(yes=True, now=0.0)
    assert pace.rate(6.0) is None, "nothing has begun since more is wanted than can be taken"
    for i in range(80):
        pace.began(10.0 + 0.1 * i)
    assert pace.rate(18.0) == pytest.approx(10, rel=0.03)
    assert pace.rate(24.0) == pytest.approx(FEW / 6.5, rel=0.03)
    assert pace.rate(78.0) == pytest.approx(FEW / 60.5, rel=0.03)


def test_who_begins_nothing_for_long_is_slow():
    pace = Pace()
    pace.contended(yes=True, now=0.0)
    pace.began(1.0)
    assert pace.rate(STALL_S - 1) is None
    assert pace.rate(2 * STALL_S) == pytest.approx(1 / (2 * STALL_S))


# --- the whole router


@pytest.fixture
def access(tmp_path):
    return Access(tmp_path, tenants={"small": {"concurrency": 1}, "slow": {"tokensPerMinute": 60}})


def body(**more):
    return {"model": "m", "prompt": "hello", "max_tokens": 3, **more}


async def test_what_a_tenant_may_have_is_told_in_both_protocols(make_rig, access):
    rig = await make_rig(**access.settings)
    script = Script(hang_accepted=True)
    await rig.add(FakeWorker(worker_id="w0", script=script))
    small, slow = access.key("small"), access.key("slow")
    await eventually(lambda: len(rig.router.service.identity.keys) == 2, what="the keys are known")
    first = asyncio.create_task(rig.post("/v1/completions", json=body(), headers=bearer(small)))
    await eventually(lambda: rig.workers[0].requests, what="the first is on its way")
    answer, raw = await rig.post("/v1/completions", json=body(), headers=bearer(small))
    assert (answer.status, json.loads(raw)["error"]["type"]) == (429, "rate_limit_error")
    assert answer.headers["retry-after"] == "1"
    script.release.set()
    assert (await first)[0].status == 200
    assert (await rig.post("/v1/completions", json=body(), headers=bearer(small)))[0].status == 200
    assert (await rig.post("/v1/completions", json=body(prompt="x" * 400), headers=bearer(slow)))[0].status == 200
    async with grpc.aio.insecure_channel(f"127.0.0.1:{rig.router.grpc_port}") as channel:
        generate = channel.unary_stream(
            "/argosy.v1.Inference/Generate", request_serializer=pb.InferenceRequest.SerializeToString
        )
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await generate(pb.InferenceRequest(model="m", text="x"), metadata=tuple(bearer(slow).items())).read()
    error = caught.value
    assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    told = {key: int(value) for key, value in error.trailing_metadata()}
    assert told["retry-after-ms"] == told["grpc-retry-pushback-ms"]
    assert 380_000 <= told["retry-after-ms"] <= 395_000
    async with rig.http.get(f"http://127.0.0.1:{rig.router.metrics_port}/metrics") as answer:
        text = await answer.text()
    assert 'argosy_router_shed_requests_total{model="m",why="quota"} 2.0' in text
    assert 'argosy_router_tenant_tokens_total{kind="generated",tenant="small"} 6.0' in text
    assert 'argosy_router_tenant_requests_total{code="OK",tenant="slow"} 1.0' in text


async def test_tenants_take_turns_at_a_worker(make_rig, access):
    """One that asks ten times as much does not have the other one wait behind all of it."""
    rig = await make_rig(**access.settings)
    script = Script(hang_accepted=True)
    await rig.add(FakeWorker(worker_id="w0", script=script))
    many, few = access.key("many"), access.key("few")
    await eventually(lambda: len(rig.router.service.identity.keys) == 2, what="the keys are known")

    async def ask(key: str, name: str) -> str:
        answer, _ = await rig.post("/v1/completions", json=body(), headers=bearer(key))
        assert answer.status == 200
        order.append(name)
        return name

    order: list[str] = []
    tasks = [asyncio.create_task(ask(many, "many")) for _ in range(70)]
    await eventually(lambda: rig.router.service.gate.waiting(rig.state) == 70 - AT_ONCE, what="the rest waits")
    tasks += [asyncio.create_task(ask(few, "few")) for _ in range(10)]
    await eventually(lambda: rig.router.service.gate.waiting(rig.state) == 80 - AT_ONCE, what="all wait")
    script.release.set()
    script.hang_accepted = False
    await asyncio.gather(*tasks)
    assert order.index("few") < 2 * AT_ONCE
    assert max(i for i, name in enumerate(order) if name == "few") < 2 * AT_ONCE + 2 * 10
    assert rig.router.service.gate.waiting(rig.state) == 0


async def test_who_waits_is_sent_elsewhere_when_the_router_ends(make_rig, access):
    rig = await make_rig(**access.settings, drain_seconds=0.2)
    await rig.add(FakeWorker(worker_id="w0", script=Script(hang_accepted=True)))
    key = access.key("many")
    await eventually(lambda: len(rig.router.service.identity.keys) == 1, what="the key is known")
    tasks = [asyncio.create_task(rig.post("/v1/completions", json=body(), headers=bearer(key))) for _ in range(20)]
    await eventually(lambda: rig.router.service.gate.waiting(rig.state) == 20 - AT_ONCE, what="some wait")
    draining = asyncio.create_task(rig.router.drain())
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    assert {task.result()[0].status for task in done} == {503}
    await draining
    for task in tasks:
        task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.gather(*tasks, return_exceptions=True)
