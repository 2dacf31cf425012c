"""Priorities, deadlines, shares of a step: who is served when, and that nobody is left behind."""

import random
from collections import Counter

import pytest

from argosy_api.blocks import root_id
from argosy_api.order import PRIORITY_S, Discipline, Order
from argosy_api.params import SamplingParams
from argosy_worker import sim
from argosy_worker.core.batching import Batching, Forming
from argosy_worker.core.blocks import BlockPool
from argosy_worker.core.request import Request
from argosy_worker.core.scheduler import Scheduler, SchedulerConfig
from argosy_worker.core.shares import Deadlines, shares

SIZE = 4
RATE = 100.0
HISTORIES = 2000


class World:
    def __init__(self, blocks=100, **config):
        self.pool = BlockPool(blocks)
        self.scheduler = Scheduler(SchedulerConfig(**config), self.pool)
        self.scheduler.prefill_rate = RATE
        self.runner = sim.SimRunner(sim.SimSpec(decode_ms=0, prefill_tps=0, check=1), blocks, SIZE)
        self.now = 0.0
        self.step_seen = None

    def add(self, name, prompt, *, max_tokens=4, **more):
        prompt = [(i * 7 + len(name)) % 256 for i in range(prompt)] if isinstance(prompt, int) else prompt
        request = Request(
            request_id=name,
            prompt=prompt,
            params=SamplingParams(max_tokens=max_tokens, temperature=0),
            root=root_id("sim", salt=name),
            block_size=SIZE,
            arrival=self.now,
            max_model_len=1000,
            **more,
        )
        self.scheduler.add(request)
        return request

    def step(self):
        self.step_seen = step = self.scheduler.schedule(self.now)
        self.scheduler.update(step, self.runner.launch(step.batch).result())
        self.pool.check([r.table for r in self.scheduler.running.values()])
        return {s.request_id: len(s.tokens) for s in step.batch.slices}

    def finish(self, *requests):
        while self.scheduler.has_work:
            self.step()
        for request in requests:
            output = request.tokens[len(request.prompt) :]
            assert output == sim.oracle(request.prompt, request.params.max_tokens, request.params)


# --- priority


def test_a_larger_priority_goes_first_and_waiting_makes_up_for_it():
    for order, ageing in ((Order.LEAST_WORK, 0.25), (Order.LEAST_WORK, 0.0), (Order.FCFS, 0.25)):
        for waited, first in ((1.0, "new"), (100.0, "old")):
            if ageing == 0 and first == "old":
                continue  # nothing is made up for: as the resource asks
            world = World(max_batch_tokens=8, order=order, ageing=ageing)
            world.add("old", 20)
            world.now = waited
            world.add("new", 20, priority=1)
            assert list(world.step()) == [first]


def test_priority_orders_the_prompts_under_way_too():
    world = World(max_batch_tokens=8)
    world.add("plain", 30)
    assert world.step() == {"plain": 8}
    world.add("urgent", 30, priority=2)
    assert world.step() == {"urgent": 8}
    world.add("background", 1, priority=-1)
    assert [list(world.step()) for _ in range(3)] == [["urgent"], ["urgent"], ["urgent", "plain"]]


def test_the_least_important_gives_way_and_each_time_it_counts_for_more():
    world = World(6, max_batch_tokens=100)
    large = world.add("large", 12, max_tokens=9, priority=-1)
    small = world.add("small", 7, max_tokens=12)
    assert set(world.step()) == {"large", "small"}
    while not large.preemptions:
        world.step()
    assert small.preemptions == 0, "though it had less to lose"
    world.finish(small, large)


def test_nobody_is_preempted_for_ever_by_more_important_ones():
    """A stream of important requests, each of which takes all the blocks that are left: the other one ends all the same."""
    world = World(10, max_batch_tokens=64, ageing=0.25)
    meek = world.add("meek", 12, max_tokens=20, priority=-1)
    victims = Counter()
    for turn in range(2000):
        world.now += 1.0
        if turn % 3 == 0 and len(world.scheduler.line) < 3:
            world.add(f"r{turn}", 10, max_tokens=14, priority=1)
        world.step()
        victims["meek"] = meek.preemptions
        if meek.ended:
            break
    assert meek.ended
    assert len(meek.tokens) == 32
    assert meek.preemptions <= 4, "of equal standing after two levels"


def test_a_preempted_request_is_computed_again_from_its_cached_blocks():
    world = World(6, max_batch_tokens=100)
    small = world.add("small", 7, max_tokens=12)
    large = world.add("large", 12, max_tokens=9)
    while not small.preemptions:
        world.step()
    known = len(small.tokens)
    while "small" not in world.step():
        pass
    (piece,) = [s for s in world.step_seen.batch.slices if s.request_id == "small"]
    assert piece.start > 0, "of its blocks some were still there; one had to be given up"
    assert len(piece.tokens) == known - piece.start
    world.finish(small, large)


@pytest.mark.parametrize(("priority", "first"), [(0, "small"), (2, "new")])
@pytest.mark.parametrize("order", list(Order))
def test_a_preempted_request_goes_before_those_of_its_priority_and_after_larger_ones(order, priority, first):
    world = World(6, max_batch_tokens=100, order=order)
    small = world.add("small", 7, max_tokens=12)
    large = world.add("large", 12, max_tokens=9)
    while not small.preemptions:
        world.now += 0.01
        world.step()
    new = world.add("new", 4, max_tokens=8, priority=priority)
    assert world.scheduler.line.first()[0].request_id == first
    world.finish(small, large, new)


@pytest.mark.parametrize("mode", [Batching.STATIC, Batching.DYNAMIC])
def test_a_batch_goes_on_with_its_preempted_requests_whoever_waits(mode):
    world = World(6, max_batch_tokens=100, forming=Forming(mode=mode, size=2, wait_s=0.0))
    small = world.add("small", 7, max_tokens=12)
    large = world.add("large", 12, max_tokens=9)
    while not small.preemptions:
        world.step()
    new = world.add("new", 4, max_tokens=8, priority=9)
    assert world.scheduler.line.first()[0] is small
    world.finish(small, large, new)


# --- deadlines


def test_who_is_too_late_costs_no_step():
    world = World(300, max_batch_tokens=8)
    world.add("busy", 100)
    world.step()
    late, patient = world.add("late", 1000 - 8, deadline=5.0), world.add("patient", 40, deadline=50.0)
    world.now = 5.0
    assert world.scheduler.expired(world.now) == [late]
    assert late.ended
    assert late.computed == 0
    served = Counter()
    while world.scheduler.has_work:
        served.update(world.step())
    assert "late" not in served
    assert world.scheduler.expired(1e9) == []
    assert len(patient.tokens) == 44
    assert world.pool.used == 0


def test_who_becomes_too_late_while_running_gives_its_blocks_back():
    world = World(max_batch_tokens=8)
    running = world.add("r", 30, deadline=2.0)
    world.step()
    assert world.pool.used > 0
    assert world.scheduler.expired(1.99) == []
    assert world.scheduler.expired(2.0) == [running]
    assert (world.pool.used, world.scheduler.has_work) == (0, False)


def test_ended_requests_are_not_kept_for_their_deadlines():
    deadlines, world = Deadlines(), World()
    for i in range(5000):
        request = world.add(f"r{i}", 4, deadline=1e6 + i)
        deadlines.add(request)
        world.scheduler.remove(request.request_id)
    assert len(deadlines._heap) < 200
    assert deadlines.passed(2e6) == []


# --- shares


def test_one_prompt_has_its_share_while_others_can_use_the_rest():
    world = World(max_batch_tokens=16, max_prompt_share=0.5, order=Order.FCFS)
    world.add("long", 100)
    assert world.step() == {"long": 16}, "nobody else could use it"
    world.now = 1.0
    world.add("short", 3, max_tokens=1)
    assert world.step() == {"long": 13, "short": 3}, "nor the five that are left"
    for name in "ab":
        world.add(name, 30)
    assert world.step() == {"long": 8, "a": 8}
    world.finish()


def test_shares_give_everything_away_and_nobody_more_than_the_rest_leaves():
    for seed in range(500):
        draw = random.Random(seed)
        world = World(1000)
        prompts = [world.add(f"r{i}", draw.randint(1, 40)) for i in range(draw.randint(1, 8))]
        budget, share = draw.randint(0, 60), draw.choice([0.05, 0.3, 0.5, 1.0])
        given = shares(((r, r.remaining) for r in prompts), budget, share)
        counts = {r.request_id: count for r, count in given}
        wanted = sum(r.remaining for r in prompts)
        assert sum(counts.values()) == min(budget, wanted)
        assert all(0 < count <= r.remaining for r, count in given)
        assert [r for r, _ in given] == prompts[: len(given)]
        over = [r for r, count in given if count > max(1, int(budget * share))]
        if over:  # somebody has more than his share: so all others have all that they want
            first = given.index(next((r, c) for r, c in given if r is over[0]))
            assert len(given) == len(prompts)
            assert all(count == r.remaining for r, count in given[:first])


def test_a_smaller_step_leaves_nobody_out():
    """Who generates has his token, and prompts have something, however small the step is to be."""
    world = World(max_batch_tokens=64, max_running=32, least_prompt_tokens=4)
    for i in range(20):
        world.add(f"r{i}", 2, max_tokens=50)
    world.step()
    world.scheduler.step_tokens = 8
    world.add("long", 30, max_tokens=50)
    seen = world.step()
    assert len(seen) == 21
    assert sum(seen.values()) == 20 + 4
    world.scheduler.step_tokens = 30
    assert sum(world.step().values()) == 30


# --- all together


class History:
    """Random requests with priorities and deadlines under a step budget that changes, beside a crowd that never ends."""

    def __init__(self, seed):
        draw = self.random = random.Random(seed)
        self.ageing = draw.choice([0.1, 0.25, 2.0])
        self.order = draw.choice(list(Order))
        self.world = World(
            draw.randint(8, 30),
            max_batch_tokens=draw.choice([4, 16, 64]),
            max_running=draw.randint(1, 4),
            max_prompt_share=draw.choice([0.2, 0.5, 1.0]),
            least_prompt_tokens=draw.choice([1, 4]),
            order=self.order,
            ageing=self.ageing,
        )
        self.longest = min(60, (self.world.pool.total - 3) * SIZE)
        self.live = {}
        self.ended = []
        self.seen = Counter()

    def add(self, name):
        draw = self.random
        request = self.world.add(
            name,
            [draw.randrange(3) for _ in range(draw.randint(1, self.longest))],
            max_tokens=draw.randint(1, 8),
            priority=draw.choice([0, 0, 0, -2, -1, 1, 2]),
            deadline=self.world.now + draw.uniform(1, 60) if draw.random() < 0.2 else float("inf"),
        )
        self.live[name] = request

    def step(self):
        world, draw = self.world, self.random
        world.now += draw.uniform(0, 2)
        if draw.random() < 0.3:
            world.scheduler.step_tokens = draw.randint(1, 64)
        for request in world.scheduler.expired(world.now):
            assert request.deadline <= world.now
            del self.live[request.request_id]
            self.seen["expired"] += 1
        assert all(r.deadline > world.now for r in self.live.values())
        waiting = [r for r in self.live.values() if r.request_id in world.scheduler.line]
        before = set(world.scheduler.running)
        outcome = world.step() if world.scheduler.has_work else {}
        assert sum(outcome.values()) <= world.scheduler.config.max_batch_tokens
        if world.step_seen is not None and outcome:
            self.seen["preempted"] += world.step_seen.preempted
            admitted = [r for r in waiting if r.request_id in outcome and r.request_id not in before]
            still = [r for r in waiting if r.request_id in world.scheduler.line]
            for a in admitted:
                self.seen["preempted ones admitted before others"] += bool(a.preemptions and still)
                for b in still:
                    self.not_overtaken(b, a)
        for name, request in list(self.live.items()):
            if request.ended:
                self.ended.append(self.live.pop(name))

    def not_overtaken(self, waits, goes):
        """Only who came less than a bounded time later may go first: who was preempted, too."""
        discipline = Discipline(self.order, self.ageing)
        work = self.longest / RATE
        most = (work * (self.order is Order.LEAST_WORK) + PRIORITY_S * (goes.priority - waits.priority)) / (
            1.0 if self.order is Order.FCFS else self.ageing
        )
        assert goes.arrival - waits.arrival <= most + 1e-9
        self.seen["overtaken"] += goes.arrival > waits.arrival
        if goes.priority == waits.priority and self.order is Order.FCFS:
            assert goes.arrival <= waits.arrival
        assert (
            discipline.key(0.0, goes.arrival, goes.priority)
            <= discipline.key(work, waits.arrival, waits.priority) + 1e-9
        )

    def run(self):
        for number in range(self.random.randint(10, 30)):
            if len(self.live) < 12 and self.random.random() < 0.6:
                self.add(f"r{number}")
            self.step()
        for _ in range(20_000):
            if not self.live:
                break
            self.step()
        assert not self.live, "a request does not end"
        assert self.world.pool.used == 0
        for request in self.ended:
            output = request.tokens[len(request.prompt) :]
            assert output == sim.oracle(request.prompt, request.params.max_tokens, request.params)
        self.seen["ended"] += len(self.ended)


@pytest.mark.parametrize("part", range(2))
def test_random_histories(part):
    """Budget kept, deadlines kept, every request ends with the oracle's tokens, and nobody is overtaken for ever."""
    seen = Counter()
    for seed in range(part, HISTORIES, 2):
        history = History(seed)
        try:
            history.run()
        except BaseException as error:
            error.add_note(f"history with seed {seed}")
            raise
        seen += history.seen
    assert all(seen[what] > 100 for what in ("expired", "preempted", "overtaken", "ended")), seen
    assert seen["preempted ones admitted before others"] > 20, seen
