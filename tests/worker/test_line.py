"""The line: its order is exact where that can be had, and its work does not grow with its length."""

import random

import pytest

from argosy_api.blocks import root_id
from argosy_api.order import Discipline, Order
from argosy_api.params import SamplingParams
from argosy_worker import sim
from argosy_worker.core.blocks import BlockPool
from argosy_worker.core.line import LOOKS, Line
from argosy_worker.core.request import Request
from argosy_worker.core.scheduler import Scheduler, SchedulerConfig
from argosy_worker.engine.report import view_of

SIZE = 4


def request(name, prompt, arrival=0.0):
    return Request(
        request_id=name,
        prompt=prompt,
        params=SamplingParams(temperature=0, max_tokens=4),
        root=root_id("sim"),
        block_size=SIZE,
        arrival=arrival,
        max_model_len=100_000,
    )


class Counting(BlockPool):
    """Counts what is looked up."""

    lookups = 0

    def knows(self, block_id):
        self.lookups += 1
        return super().knows(block_id)

    def match(self, ids, most):
        self.lookups += 1
        return super().match(ids, most)


def hold(pool, ids):
    """Put blocks with these ids into the cache."""
    blocks = pool.allocate(len(ids))
    for block, block_id in zip(blocks, ids, strict=True):
        pool.store(block, block_id)
    pool.release(blocks)


def in_order(line):
    order = []
    while (found := line.first()) is not None:
        order.append(found[0].request_id)
        line.remove(found[0].request_id)
    return order


@pytest.mark.parametrize("order", list(Order))
def test_a_short_line_is_in_exact_order_whatever_the_cache_gained_and_lost(order):
    for seed in range(60):
        draw = random.Random(seed)
        pool = BlockPool(30)
        line = Line(pool, discipline=Discipline(order, draw.choice([0.0, 0.25, 3.0])), rate=1000.0)
        stem = [draw.randrange(256) for _ in range(80)]
        requests = [
            request(f"r{i}", [*stem[: draw.randrange(80)], *range(draw.randrange(1, 40))], arrival=draw.random())
            for i in range(LOOKS)
        ]
        for one in requests:
            line.add(one)
        for _ in range(10):
            one = draw.choice(requests)
            hold(pool, [i for i in one.ids[: draw.randrange(9)] if not pool.knows(i)])
            for block_id in one.ids:
                if pool.knows(block_id):
                    line.stored(block_id)
            rate = draw.choice([10.0, 1000.0])
            line.refresh(rate)

            def rank(one, rate=rate, line=line, pool=pool):
                hit = len(pool.match(one.ids, one.usable_blocks))
                return line.rank(one, len(one.prompt) - hit * SIZE)

            places = line.head(99)
            assert [place.rank for place in places] == sorted(map(rank, requests))
            assert line.uncached_tokens == sum(place.uncached_tokens for place in places)
            assert len(line) == len(requests)
        assert len(in_order(line)) == len(requests)
        assert (len(line), line.uncached_tokens, line._missing, line._names) == (0, 0, {}, {})


def test_who_misses_what_was_just_stored_comes_up_at_once_even_in_a_long_line():
    pool = BlockPool(100)
    line = Line(pool, discipline=Discipline(Order.LEAST_WORK, 0.0), rate=1000.0)
    for i in range(1000):
        line.add(request(f"r{i}", [i % 256, i // 256] * 20))
    lucky = request("lucky", [7] * 44)
    line.add(lucky)
    assert line.first()[0] is not lucky
    hold(pool, lucky.ids)
    for block_id in lucky.ids:
        line.stored(block_id)
    line.refresh(1000.0)
    assert line.first()[0] is lucky


def test_who_lost_his_blocks_is_not_taken_for_the_first():
    pool = BlockPool(8)
    line = Line(pool, discipline=Discipline(Order.LEAST_WORK, 0.0), rate=1000.0)
    cached, short = request("cached", list(range(33))), request("short", [200] * 12)
    hold(pool, cached.ids)
    line.add(cached)
    for i in range(3 * LOOKS):
        line.add(request(f"r{i}", [i, 1] * 30))
    line.add(short)
    assert line.first()[0] is cached
    pool.release(pool.allocate(8))  # all are forgotten
    assert line.first()[0] is short


def test_nobody_is_left_behind_when_many_miss_one_block():
    """More wait for a block than are looked at in a step: all are looked at in the end."""
    pool = BlockPool(20)
    line = Line(pool, discipline=Discipline(Order.LEAST_WORK, 0.0), rate=1000.0)
    stem = [9] * 40
    for i in range(10 * LOOKS):
        line.add(request(f"r{i}", [*stem, i]))
    hold(pool, request("x", stem).ids)
    line.stored(request("x", stem).ids[0])
    for _ in range(10):
        line.refresh(1000.0)
    assert line.uncached_tokens == 10 * LOOKS


def steps_with(waiting):
    """Lookups and rank comparisons of ten steps with so many waiting, whose prompts are long and partly cached."""
    comparisons = 0

    class Rank(float):
        __slots__ = ()

        def __lt__(self, other):
            nonlocal comparisons
            comparisons += 1
            return float(self) < float(other)

        def __eq__(self, other):
            nonlocal comparisons
            comparisons += 1
            return float(self) == float(other)

        __hash__ = float.__hash__

    pool = Counting(4000)
    scheduler = Scheduler(SchedulerConfig(max_batch_tokens=64, max_running=8, max_waiting=100_000), pool)
    plain = scheduler.line.rank
    scheduler.line.rank = lambda *a, **b: (plain(*a, **b)[0], Rank(plain(*a, **b)[1]), plain(*a, **b)[2])
    runner = sim.SimRunner(sim.SimSpec(decode_ms=0, prefill_tps=0), 4000, SIZE)
    stem = [i % 256 for i in range(400)]
    for i in range(waiting):
        scheduler.add(request(f"r{i}", [*stem, i % 256, i // 256], arrival=i / 1000))

    def step(now):
        made = scheduler.schedule(now)
        scheduler.update(made, runner.launch(made.batch).result())
        view_of(scheduler, accepted=0, prefill_rate=0.0)

    for i in range(3):
        step(float(i))
    pool.lookups = comparisons = 0
    for i in range(10):
        step(3.0 + i)
    return pool.lookups, comparisons


def test_the_work_of_a_step_does_not_grow_with_the_line():
    (few_lookups, few), (many_lookups, many) = steps_with(100), steps_with(3200)
    assert many_lookups <= 1.5 * few_lookups
    assert many <= 4 * few  # of a line 32 times as long: bisections have 5 more halvings
    assert few_lookups < 10 * 20 * 2 * LOOKS
