"""Decisions of the scheduler, one by one."""

import pytest

from argosy_api.blocks import root_id
from argosy_api.errors import InvalidArgumentError, OverloadedError
from argosy_api.order import Order
from argosy_api.params import SamplingParams
from argosy_worker import sim
from argosy_worker.core.blocks import BlockPool, blocks_of_window
from argosy_worker.core.request import Finish, Request
from argosy_worker.core.scheduler import Scheduler, SchedulerConfig

SIZE = 4


class World:
    def __init__(self, blocks=100, *, caching=True, window=0, **config):
        self.pool = BlockPool(blocks, caching=caching, window_blocks=blocks_of_window(window, SIZE))
        self.scheduler = Scheduler(SchedulerConfig(**config), self.pool)
        self.runner = sim.SimRunner(sim.SimSpec(decode_ms=0, prefill_tps=0, check=1, window=window), blocks, SIZE)
        self.now = 0.0

    def add(self, name, length, *, first=0, max_tokens=50, arrival=0.0, **params):
        request = Request(
            request_id=name,
            prompt=[(first + i) % 256 for i in range(length)],
            params=SamplingParams(max_tokens=max_tokens, temperature=0, **params),
            root=root_id("sim"),
            block_size=SIZE,
            arrival=arrival,
            max_model_len=1000,
        )
        self.scheduler.add(request)
        return request

    def step(self):
        """One step; how many tokens of whom."""
        step = self.scheduler.schedule(self.now)
        self.scheduler.update(step, self.runner.launch(step.batch).result())
        return {s.request_id: len(s.tokens) for s in step.batch.slices}


def test_who_generates_comes_first_and_the_rest_of_the_budget_is_the_prompts():
    world = World(max_batch_tokens=10)
    world.add("a", 3)
    assert world.step() == {"a": 3}
    world.add("b", 25)
    assert [world.step() for _ in range(4)] == [{"a": 1, "b": 9}, {"a": 1, "b": 9}, {"a": 1, "b": 7}, {"a": 1, "b": 1}]


def test_least_work_first_and_one_line_for_running_and_waiting_prompts():
    world = World(max_batch_tokens=8, ageing=0.0)
    world.add("long", 30)
    assert world.step() == {"long": 8}
    world.add("short", 10, first=100)
    world.add("tiny", 2, first=200)
    assert world.step() == {"tiny": 2, "short": 6}
    assert world.step() == {"tiny": 1, "short": 4, "long": 3}


def test_cached_work_is_no_work():
    world = World(max_batch_tokens=16, ageing=0.0)
    first = world.add("first", 40, max_tokens=1)
    while world.scheduler.has_work:
        world.step()
    assert first.cached_tokens == 0
    world.add("new", 12, first=100, max_tokens=1)
    again = world.add("again", 40, max_tokens=1)
    assert world.step() == {"again": 4, "new": 12}
    assert again.cached_tokens == 36


def test_waiting_outweighs_work_in_time():
    for waited, expected in ((1.0, {"new": 8}), (100.0, {"old": 8})):
        world = World(max_batch_tokens=8, ageing=0.25)
        world.scheduler.prefill_rate = 10.0
        world.add("old", 80)  # 7 seconds of work more than `new`: worth 28 seconds of waiting
        world.now = waited
        world.add("new", 10, first=100, arrival=waited)
        assert world.step() == expected


def test_first_come_first_served():
    world = World(max_batch_tokens=8, order=Order.FCFS)
    world.add("long", 20, arrival=1.0)
    world.add("short", 2, first=100, arrival=2.0)
    world.add("first", 2, first=200, arrival=0.5)
    assert world.step() == {"first": 2, "long": 6}


def test_only_as_many_run_as_may():
    world = World(max_running=2)
    for i in range(4):
        world.add(f"r{i}", 4, first=50 * i, max_tokens=2, arrival=float(i))
    assert set(world.step()) == {"r0", "r1"}
    world.step()
    assert set(world.step()) == {"r2", "r3"}


def test_a_prompt_is_admitted_only_when_all_of_it_fits_and_nobody_overtakes_it():
    world = World(8, order=Order.FCFS, max_batch_tokens=100)
    world.add("a", 18, max_tokens=3)  # 5 of 8 blocks
    assert world.step() == {"a": 18}
    world.add("large", 16, first=100, max_tokens=2, arrival=1.0)
    world.add("small", 4, first=200, max_tokens=2, arrival=2.0)
    assert world.step() == {"a": 1}
    assert world.step() == {"a": 1}
    assert world.step() == {"large": 16, "small": 4}


def finish_all(world, *requests):
    while world.scheduler.has_work:
        world.step()
    for request in requests:
        output = request.tokens[len(request.prompt) :]
        assert output == sim.oracle(request.prompt, request.params.max_tokens, request.params)


def test_the_victim_is_who_loses_least_and_comes_back_first():
    world = World(6, max_batch_tokens=100, caching=False)
    small = world.add("small", 7, max_tokens=12)
    large = world.add("large", 12, first=100, max_tokens=9)
    assert world.step() == {"small": 7, "large": 12}  # 2 and 3 of 6 blocks
    assert world.step() == {"small": 1, "large": 1}  # `large` takes the last one
    assert world.step() == {"large": 1}  # and `small`, who needs one now, has less to lose
    assert (small.preemptions, large.preemptions) == (1, 0)
    world.add("fresh", 1, first=200, max_tokens=1)
    assert [place.uncached_tokens for place in world.scheduler.line.head(9)] == [len(small.tokens), 1]
    finish_all(world, small, large)


def test_who_needs_a_block_pauses_when_all_its_own_are_cached():
    """At a block's end nothing of it is lost, so it waits itself, and computes one token when there is room again."""
    world = World(6, max_batch_tokens=100)
    pausing = world.add("pausing", 7, max_tokens=9)
    other = world.add("other", 13, first=100, max_tokens=3)
    assert world.step() == {"pausing": 7, "other": 13}
    assert world.step() == {"pausing": 1, "other": 1}
    assert world.step() == {"other": 1}
    assert (pausing.preemptions, other.preemptions) == (1, 0)
    assert world.step() == {"pausing": 1}
    finish_all(world, pausing, other)


def test_nobody_is_admitted_in_a_step_that_preempts():
    world = World(6, max_batch_tokens=100, caching=False)
    world.add("a", 7, max_tokens=12)
    world.add("b", 12, first=100, max_tokens=9)
    world.step()
    world.step()
    world.add("c", 1, first=200, max_tokens=1)
    assert world.step() == {"b": 1}  # preempts `a`, which frees room for `c`
    assert world.pool.free >= 1


def test_prompt_logprobs_need_every_row_once():
    world = World(max_batch_tokens=7)
    world.add("warm", 20, max_tokens=1)
    while world.scheduler.has_work:
        world.step()
    request = world.add("rows", 20, max_tokens=1, prompt_logprobs=0)
    while world.scheduler.has_work:
        world.step()
    assert request.cached_tokens == 0
    assert [row.token for row in request.prompt_logprobs] == list(request.prompt[1:])


@pytest.mark.parametrize(
    ("length", "max_tokens", "field", "number"),
    [(40, 1, None, None), (36, 5, None, None), (41, 1, "prompt", "holds 40"), (36, 6, "max_tokens", "at most 5")],
)
def test_what_can_never_fit_is_refused(length, max_tokens, field, number):
    world = World(10)
    if field is None:
        world.add("a", length, max_tokens=max_tokens)
        while world.scheduler.has_work:
            world.step()
        return
    with pytest.raises(InvalidArgumentError, match=number) as caught:
        world.add("a", length, max_tokens=max_tokens)
    assert caught.value.field == field


def test_ids_are_unique_and_the_number_is_bounded():
    world = World(max_running=1, max_waiting=1)
    world.add("a", 1)
    with pytest.raises(InvalidArgumentError) as caught:
        world.add("a", 1)
    assert caught.value.field == "request_id"
    world.step()
    world.add("b", 1)
    with pytest.raises(OverloadedError):
        world.add("c", 1)


def test_reasons_to_end_in_their_order():
    request = World().add("a", 2, max_tokens=3, stop_token_ids=(50,))
    request.eos_token_ids = frozenset({9})
    for token, expected in ((1, None), (9, (Finish.STOP, "")), (7, (Finish.LENGTH, ""))):
        request.accept([token])
        assert request.finish_after_last_token() == expected
    request.tokens[-1] = 50  # at the last token a stop token is still the reason
    assert request.finish_after_last_token() == (Finish.STOP, "50")


@pytest.mark.parametrize(("ignore_eos", "ends"), [(False, {50, 9}), (True, {50})])
def test_what_would_end_a_request_is_barred_for_its_min_tokens(ignore_eos, ends):
    request = World().add("a", 2, max_tokens=9, min_tokens=3, stop_token_ids=(50,), ignore_eos=ignore_eos)
    request.eos_token_ids = frozenset({9})
    assert request.next_slice(1).barred_rows == 0  # a part of the prompt samples nothing
    prompt = request.next_slice(1)
    assert (set(prompt.barred), set(prompt.barred_at(0))) == (ends, ends)
    ahead = request.next_slice(1)  # its first token is awaited: the second one is sampled
    assert (ahead.barred_rows, set(ahead.barred_at(0))) == (2, ends)
    for piece in (prompt, ahead):
        request.landed(piece)
        request.accept([1])
    drafted = request.next_slice(1, [3, 4])
    assert [set(drafted.barred_at(row)) for row in drafted.sample_rows] == [ends, set(), set()]


@pytest.mark.parametrize("blocks", [8, 100])
def test_with_a_window_a_prompt_has_the_blocks_of_the_window_and_of_a_step(blocks):
    """A window of 10 positions reaches over 4 blocks of 4, a step of 16 rows over 5: so many are enough for any length."""
    world = World(blocks, window=10, max_batch_tokens=16)
    request = world.add("a", 400, max_tokens=30)
    most = 0
    while not request.ended:
        assert sum(world.step().values()) in (16, 1)
        most = max(most, world.pool.used)
        assert world.pool.used <= 4 or request.computed < 400
    assert most <= 8
    assert request.tokens[400:] == sim.oracle(request.prompt, 30, request.params)


def test_with_a_window_long_prompts_run_side_by_side_where_all_of_one_would_not_fit():
    world = World(24, window=10, max_batch_tokens=16)
    requests = [world.add(f"r{i}", 200, first=i, max_tokens=5) for i in range(3)]
    for _ in range(3):
        world.step()
    assert len(world.scheduler.running) == 1, "one prompt has all of a step"
    while world.scheduler.has_work:
        world.step()
    assert not any(r.preemptions for r in requests)
    world = World(24, window=10, max_batch_tokens=16, max_prompt_share=0.3)
    requests = [world.add(f"r{i}", 200, first=i, max_tokens=5) for i in range(3)]
    world.step()
    assert len(world.scheduler.running) == 3
    while world.scheduler.has_work:
        world.step()
    for r in requests:
        assert (r.preemptions, r.tokens[200:]) == (0, sim.oracle(r.prompt, 5, r.params))


def test_who_waits_for_blocks_that_others_share_goes_on_in_the_end():
    """Two prompts begin alike. What the first has passed the second still reads, so it makes no room for the first."""
    world = World(9, window=10, max_batch_tokens=8, max_prompt_share=0.5, order=Order.FCFS)
    first = world.add("a", 60, max_tokens=3)
    for _ in range(3):
        world.step()
    second = world.add("b", 60, max_tokens=3)
    while world.scheduler.has_work:
        assert world.step()
        world.pool.check([r.table for r in world.scheduler.running.values()])
    for r in (first, second):
        assert r.tokens[60:] == sim.oracle(r.prompt, 3, r.params)


def test_where_nobody_has_a_block_for_another_row_one_gives_way():
    """It was not met in random histories; blocks that others share might lead to it, so here they are taken away."""
    world = World(24, window=10, max_batch_tokens=8, max_prompt_share=0.5)
    requests = [world.add(f"r{i}", 60, first=i, max_tokens=3) for i in range(2)]
    for _ in range(3):
        world.step()
    for request in requests:
        used = -(-request.computed // SIZE)
        world.pool.release(request.table[used:])
        request.table = request.table[:used]
        assert (request.remaining > 0, request.ready) == (True, 0)
    taken = world.pool.allocate(world.pool.available)
    assert world.step()
    assert sorted(r.preemptions for r in requests) == [0, 1]
    world.pool.release(taken)
    while world.scheduler.has_work:
        assert world.step()
    for r in requests:
        assert r.tokens[60:] == sim.oracle(r.prompt, 3, r.params)


@pytest.mark.parametrize(("window", "blocks", "fits"), [(10, 4, True), (10, 3, False), (13, 4, True), (14, 4, False)])
def test_a_prompt_that_is_larger_than_the_cache_fits_where_the_window_does(window, blocks, fits):
    world = World(blocks, window=window, max_batch_tokens=16)
    if not fits:
        with pytest.raises(InvalidArgumentError, match=f"the KV cache of this worker holds {blocks * SIZE}"):
            world.add("a", 50, max_tokens=3)
        return
    request = world.add("a", 50, max_tokens=30)
    while not request.ended:
        world.step()
    assert request.tokens[50:] == sim.oracle(request.prompt, 30, request.params)


def test_a_window_hits_where_the_beginning_is_lost():
    world = World(blocks=16, window=10, max_batch_tokens=64)
    world.add("a", 40, max_tokens=1)
    world.step()
    world.add("b", 24, first=100, max_tokens=20)  # takes the 6 free blocks, and the oldest cached ones
    while world.scheduler.has_work:
        world.step()
    request = world.add("c", 41, max_tokens=3)
    assert not all(map(world.pool.knows, request.ids[:7]))
    assert world.step() == {"c": 1}
    assert request.cached_tokens == 40
    assert request.table[:7] == (0,) * 7
    while world.scheduler.has_work:
        world.step()
    assert request.tokens[41:] == sim.oracle(request.prompt, 3, request.params)
