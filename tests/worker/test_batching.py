"""The three ways to form batches: when a batch begins, who is in it, and that it changes no token."""

from math import inf

import pytest

from argosy_api.blocks import root_id
from argosy_api.params import SamplingParams
from argosy_api.resource import EngineSpec
from argosy_worker import sim
from argosy_worker.core.batching import Batching, Forming
from argosy_worker.core.blocks import BlockPool
from argosy_worker.core.request import Request
from argosy_worker.core.scheduler import Scheduler, SchedulerConfig
from argosy_worker.serve.startup import forming

SIZE = 4


class World:
    """A scheduler in a time of its own."""

    def __init__(self, mode, *, size=3, wait_s=2.0, blocks=100, **config):
        self.pool = BlockPool(blocks)
        self.scheduler = Scheduler(
            SchedulerConfig(forming=Forming(mode=Batching(mode), size=size, wait_s=wait_s), **config), self.pool
        )
        self.runner = sim.SimRunner(sim.SimSpec(decode_ms=0, prefill_tps=0, check=1), blocks, SIZE)
        self.requests = {}

    def add(self, name, arrival, *, tokens=5, max_tokens=3):
        self.requests[name] = request = Request(
            request_id=name,
            prompt=[ord(name[0]), *range(tokens - 1)],
            params=SamplingParams(max_tokens=max_tokens, temperature=0),
            root=root_id("sim"),
            block_size=SIZE,
            arrival=arrival,
            max_model_len=1000,
        )
        self.scheduler.add(request)

    def step(self, now):
        """One step; who was in it."""
        step = self.scheduler.schedule(now)
        self.scheduler.update(step, self.runner.launch(step.batch).result())
        return "".join(sorted(s.request_id for s in step.batch.slices))

    def finish(self, now=1e9):
        while self.scheduler.has_work:
            self.step(now)
        for request in self.requests.values():
            output = request.tokens[len(request.prompt) :]
            assert output == sim.oracle(request.prompt, request.params.max_tokens, request.params)
        assert self.pool.used == 0


@pytest.mark.parametrize(
    ("mode", "waiting", "expected"),
    [
        ("continuous", 1, -inf), ("continuous", 9, -inf),
        ("dynamic", 1, 12.0), ("dynamic", 2, 12.0), ("dynamic", 3, -inf), ("dynamic", 4, -inf),
        ("static", 1, 13.0), ("static", 2, 13.0), ("static", 3, -inf), ("static", 4, -inf),
    ],
)  # fmt: skip
def test_when_a_batch_begins(mode, waiting, expected):
    assert Forming(mode=Batching(mode), size=3, wait_s=2.0).begins_at(waiting, oldest=10.0, newest=11.0) == expected


def test_continuous_takes_everybody_at_once_beside_those_who_run():
    world = World("continuous")
    world.add("a", 0.0)
    assert world.scheduler.due == -inf
    assert world.step(0.0) == "a"
    world.add("b", 0.1)
    assert world.step(0.1) == "ab"
    world.finish()
    assert world.scheduler.due == inf


def test_dynamic_waits_for_a_time_and_runs_a_batch_to_its_end():
    world = World("dynamic")
    world.add("a", 0.0, max_tokens=2)
    world.add("b", 1.5, max_tokens=4)
    assert world.scheduler.due == 2.0
    assert world.step(1.9) == ""
    assert world.step(2.0) == "ab"
    for name in "cde":
        world.add(name, 2.1)  # a full batch, but one is under way
    assert [world.step(2.2) for _ in range(3)] == ["ab", "b", "b"]
    assert world.scheduler.due == -inf
    assert world.step(2.3) == "cde"
    world.finish()


def test_static_waits_for_its_size():
    world = World("static")
    world.add("a", 0.0)
    world.add("b", 1.5)
    assert world.scheduler.due == 3.5
    world.add("c", 3.4)
    assert world.step(3.4) == "abc"
    world.finish()


def test_the_last_few_of_a_static_batch_are_answered_once_nobody_has_come_for_the_wait():
    world = World("static")
    world.add("a", 0.0)
    world.add("b", 1.5)
    assert world.step(3.4) == ""
    assert world.step(3.5) == "ab"
    world.finish()


@pytest.mark.parametrize("mode", ["dynamic", "static"])
def test_a_batch_holds_no_more_than_its_size_and_its_members_may_begin_in_several_steps(mode):
    world = World(mode, max_batch_tokens=8)
    for i, name in enumerate("abcde"):
        world.add(name, i / 10, tokens=6, max_tokens=3)
    assert [world.step(1.0) for _ in range(5)] == ["ab", "abc", "abc", "bc", "c"]
    assert world.step(1.0) == ""  # two are left, and wait for a third
    world.finish()


def test_members_that_end_within_a_step_leave_the_batch_to_the_others():
    """Nobody runs between two steps of a batch of which each member needs but one."""
    world = World("static", max_batch_tokens=8)
    for name in "abc":
        world.add(name, 0.0, tokens=8, max_tokens=1)
    assert [world.step(0.0) for _ in range(3)] == ["a", "b", "c"]
    world.add("d", 0.0)
    assert world.scheduler.due == 2.0  # no place of the former batch is left for it
    world.finish()


def test_a_place_of_a_request_that_was_aborted_before_it_began_is_nobodys():
    world = World("static", max_batch_tokens=8)
    for name in "abc":
        world.add(name, 0.0, tokens=8, max_tokens=1)
    assert world.step(0.0) == "a"
    world.scheduler.remove("b")
    world.scheduler.remove("c")
    world.add("d", 5.0)
    assert world.scheduler.due == 7.0
    assert world.step(7.0) == "d"


@pytest.mark.parametrize("mode", ["dynamic", "static"])
def test_a_preempted_member_comes_back_into_its_batch(mode):
    world = World(mode, size=2, blocks=4, max_batch_tokens=100)
    world.add("a", 0.0, tokens=5, max_tokens=8)
    world.add("b", 0.0, tokens=5, max_tokens=8)
    seen = []
    while world.scheduler.has_work:
        seen.append(world.step(0.0))
    assert sum(request.preemptions for request in world.requests.values()) > 0
    assert "" not in seen
    world.finish()


def test_defaults_of_size_and_wait():
    assert forming(EngineSpec()).mode is Batching.CONTINUOUS
    assert forming(EngineSpec(batching="static")) == Forming(mode=Batching.STATIC, size=8, wait_s=0.1)
    assert forming(EngineSpec(batching="static", max_running=4)).size == 4
    given = EngineSpec(batching="dynamic", batch_size=2, batch_wait_seconds=0.0)
    assert forming(given) == Forming(mode=Batching.DYNAMIC, size=2, wait_s=0.0)
