"""Random histories of the scheduler and the block pool, with the simulated model as the oracle of what comes out."""

import random
from collections import Counter, deque
from dataclasses import replace

import pytest
from proposing import Everything, Proposing

from argosy_api.blocks import block_ids, root_id
from argosy_api.errors import InvalidArgumentError, OverloadedError
from argosy_api.order import Order
from argosy_api.params import SamplingParams
from argosy_worker import sim
from argosy_worker.core.batch import PLACEHOLDER, SequenceSlice, StepBatch, StepOutput
from argosy_worker.core.batching import Batching, Forming
from argosy_worker.core.blocks import NULL_BLOCK, BlockPool, blocks_of_window
from argosy_worker.core.exchange import Exchange
from argosy_worker.core.request import Finish, Request
from argosy_worker.core.scheduler import Scheduler, SchedulerConfig
from argosy_worker.speculation.config import Method, SpeculationConfig
from argosy_worker.speculation.draft_model import DraftModel
from argosy_worker.speculation.speculator import Speculator

HISTORIES = 2000
SALTS = ("", "tenant")
RULES = (
    {},
    {},
    {"repetition_penalty": 1.1},
    {"presence_penalty": 0.5},
    {"allowed_token_ids": tuple(range(40, 60))},
    {"bad_words_ids": tuple((a, b) for a in range(70, 75) for b in range(40, 60)), "frequency_penalty": 0.1},
)
"""Parameters whose effect depends on the history of each row."""


class Late:
    """Computes a launched step only when its result is asked for, as late as an accelerator might."""

    def __init__(self, real):
        self.real = real
        self.sampled = {}  # by the step before

    def launch(self, batch):
        return _Later(self, batch)

    def compute(self, batch):
        slices = [
            # 0 where the request has ended: nobody looks at what comes of it
            replace(s, tokens=[self.sampled.get(s.request_id, 0) if t == PLACEHOLDER else t for t in s.tokens])
            for s in batch.slices
        ]
        outputs = self.real.launch(StepBatch(slices, batch.moves)).result()
        self.sampled = {s.request_id: o.tokens[-1] for s, o in zip(slices, outputs, strict=True) if o.tokens}
        return outputs


class _Later:
    def __init__(self, runner, batch):
        self.runner, self.batch = runner, batch

    def result(self):
        return self.runner.compute(self.batch)


class History:
    """One random life of a scheduler; every step is checked."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        draw = self.random
        self.size = draw.choice([1, 2, 4, 16])
        self.total = draw.randint(2, 24)
        self.max_model_len = draw.choice([self.total * self.size, 40, 200])
        self.config = SchedulerConfig(
            max_batch_tokens=draw.choice([1, 3, 8, 16, 64]),
            max_running=draw.randint(1, 8),
            max_waiting=draw.choice([0, 3, 50]),
            order=draw.choice(list(Order)),
            ageing=draw.choice([0.0, 0.25, 10.0]),
            forming=Forming(
                mode=draw.choice([Batching.CONTINUOUS, *Batching]), size=draw.randint(1, 9), wait_s=draw.choice([0, 3])
            ),
        )
        self.window = draw.choice([0, 0, draw.randint(2, 3 * self.size + 2)])
        spec = sim.SimSpec(decode_ms=0, prefill_tps=0, check=1, eos_every=draw.choice([0, 7]), window=self.window)
        self.eos_every = spec.eos_every
        host = draw.choice([0, draw.randint(1, 2 * self.total), 1000])
        cache = sim.SimRunner(spec, self.total, self.size, host)
        self.store = cache.store
        self.runner = Late(cache)
        self.kept = blocks_of_window(self.window, self.size)
        self.pool = BlockPool(self.total, caching=draw.random() < 0.8, window_blocks=self.kept, host_blocks=host)
        self.contents: dict[bytes, bytes] = {}  # of each block that was ever known
        self.drafts = draw.random() < 0.5
        self.speculator = None
        self.overlap = draw.random() < 0.5
        self.drafter = Proposing(self.propose, lambda n: draw.randint(0, n) if draw.random() < 0.2 else n)
        if self.drafts and draw.random() < 0.4:  # a draft model, and what it learns from the outputs
            model = sim.SimModel(replace(spec, accept=draw.choice([0.0, 0.5, 1.0])))
            draft = DraftModel(
                model.make_runner(self.total, self.size),
                facts=model.facts,
                target=model.facts,
                num_blocks=self.total,
                block_size=self.size,
            )
            config = SpeculationConfig(method=Method.AUTO, max_draft=draw.randint(1, 8))
            policy = draw.choice([Everything(), None])
            self.speculator = Speculator(config, model=draft, policy=policy)
        self.scheduler = Scheduler(self.config, self.pool, self.speculator or self.drafter)
        self.exchange = Exchange(self.pool, cache.store, self.scheduler.line.stored)
        self.elsewhere = sim.SimRunner(spec, 8, self.size)  # another worker, which can compute any of it
        self.out = deque()
        self.answers: dict[str, list[int]] = {}
        self.live: dict[str, Request] = {}
        self.known: set[bytes] = set()  # what a follower of the events believes
        self.seen: Counter[str] = Counter()
        self.outputs: list[tuple[Request, Finish | None]] = []
        self.now = 0.0
        stem = [draw.randrange(256) for _ in range(self.max_model_len)]
        self.stems = [stem, stem[: len(stem) // 2] + [7] * len(stem), [draw.randrange(256) for _ in stem]]

    def propose(self, request: Request, most: int) -> list[int]:
        """Of what really comes next a random part, with a random wrong token in it or behind it."""
        if not self.drafts:
            return []
        if request.request_id not in self.answers:
            self.answers[request.request_id] = sim.oracle(
                request.prompt, request.params.max_tokens, request.params, eos_every=self.eos_every
            )
        draft = self.answers[request.request_id][request.generated :][: self.random.randint(0, 6)]
        if draft and self.random.random() < 0.7:
            draft[self.random.randrange(len(draft))] = 255
        return [*draft, 255][: min(most, self.random.randint(0, 7))]

    def add(self, number: int) -> None:
        draw = self.random
        length = draw.randint(1, max(1, min(self.max_model_len - 1, self.total * self.size + 3)))
        if self.window and draw.random() < 0.3:  # with a window a prompt may be longer than the cache
            length = draw.randint(1, self.max_model_len - 1)
        sampled = draw.random() < 0.5
        most = draw.randint(1, 30)
        params = SamplingParams(
            max_tokens=most,
            min_tokens=draw.choice([0, 0, draw.randint(0, most)]),
            temperature=1.0 if sampled else 0.0,
            seed=draw.randrange(100) if sampled else None,
            ignore_eos=draw.random() < 0.3,
            prompt_logprobs=0 if draw.random() < 0.15 else None,
            stop_token_ids=(draw.randrange(32, 127),) if draw.random() < 0.2 else (),
            **draw.choice(RULES),
        )
        request = Request(
            request_id=f"r{number}",
            prompt=draw.choice(self.stems)[:length],
            params=params,
            root=root_id("sim", salt=draw.choice(SALTS)),
            block_size=self.size,
            arrival=self.now,
            max_model_len=self.max_model_len,
            eos_token_ids=frozenset({sim.IM_END}),
        )
        try:
            self.scheduler.add(request)
        except InvalidArgumentError as error:
            assert request.most_blocks > self.total
            assert self.kept is None or self.kept >= self.total
            self.seen[f"refused {error.field}"] += 1
        except OverloadedError:
            assert len(self.live) == self.config.max_requests
            self.seen["overloaded"] += 1
        else:
            self.live[request.request_id] = request
            self.seen["longer than the cache"] += length > self.total * self.size

    def transfer(self) -> None:
        """Some leading blocks of a prompt come from another worker, or go there. The thread copies between steps."""
        if self.out:
            return
        draw = self.random
        prompt, root = draw.choice(self.stems), root_id("sim", salt=draw.choice(SALTS))
        ids = block_ids(root, prompt, self.size)[: draw.randint(1, 8)]
        lacking = self.exchange.lacking(ids)
        if draw.random() < 0.3:
            for i, block_id in enumerate(ids):
                if self.pool.knows(block_id):
                    assert self.exchange.read(block_id) == self.content(prompt, i)
                    self.seen["exported"] += 1
                    self.seen["exported from the host"] += self.pool.find(block_id) is None
                else:
                    assert self.exchange.read(block_id) is None
        else:
            assert set(lacking) == {i for i in ids[-self.kept if self.kept else 0 :] if not self.pool.knows(i)}
            for block_id in lacking:
                before = self.pool.used
                if not self.exchange.write(block_id, self.content(prompt, ids.index(block_id))):
                    assert self.exchange.room() == 0
                    break
                assert self.pool.used == before
                self.seen["imported"] += 1
        self.verify()

    def content(self, prompt, index: int) -> bytes:
        """What the other worker's cache holds in the block of so many tokens of a prompt."""
        end = (index + 1) * self.size
        table = list(range(1, index + 2))
        piece = SequenceSlice(
            request_id="", tokens=prompt[:end], start=0, table=table, sample_rows=range(0), params=SamplingParams()
        )
        self.elsewhere.launch(StepBatch([piece])).result()
        return self.elsewhere.store.export(index + 1)

    def abort(self) -> None:
        request = self.live.pop(self.random.choice(list(self.live)))
        assert self.scheduler.remove(request.request_id) is request
        assert self.scheduler.remove(request.request_id) is None
        self.outputs.append((request, None))
        self.seen["aborted"] += 1

    def step(self) -> None:
        """Schedule a step, or take in the oldest that is out: one by one, or with a second one scheduled meanwhile."""
        if self.out and (len(self.out) > self.overlap or self.random.random() < 0.3):
            self.collect()
            return
        if not self.scheduler.has_work:
            assert not self.live
            return
        self.now += self.random.random()
        if not self.out and self.scheduler.due > self.now:
            self.seen["gathering"] += 1
            self.now = self.scheduler.due
        admitted_before = {r.request_id for r in self.live.values() if r.admitted_at is not None}
        step = self.scheduler.schedule(self.now)
        assert step.batch.num_tokens + bool(self.out) > 0
        assert step.batch.num_tokens <= self.config.max_batch_tokens
        assert len(self.scheduler.running) <= self.config.max_running
        for request in step.requests:
            if request.request_id not in admitted_before and request.passed:
                lost = not all(map(self.pool.knows, request.ids[: request.passed]))
                self.seen["hit behind lost blocks"] += lost
        if self.out and step.requests:
            self.seen["overlapped"] += 1
        if step.preempted:
            self.seen["preempted"] += step.preempted
            self.seen["preempted with a host"] += self.pool.host.total > 0
            assert all(r.request_id in admitted_before for r in step.requests), "admitted in a step that preempted"
        self.out.append((step, self.runner.launch(step.batch)))
        self.verify()

    def collect(self) -> None:
        step, pending = self.out.popleft()
        outputs = pending.result()
        failing = self.random.random() < 0.05  # some slices fail: their requests end, and nothing else
        if failing:
            outputs = [StepOutput(error="fault") if self.random.random() < 0.5 else output for output in outputs]
        for request, life, piece in zip(step.requests, step.lives, step.batch.slices, strict=True):
            if request.ended or life != request.preemptions:
                self.seen["void"] += 1
            self.seen["drafted"] += piece.draft
        if self.speculator is not None:
            self.seen["by a draft model"] += self.speculator.learn(step, outputs, self.random.random()).accepted
        before = {r.request_id: len(r.tokens) for r in self.live.values()}
        for progress in self.scheduler.update(step, outputs):
            request = progress.request
            assert failing or progress.error == ""
            self.seen["failed"] += progress.finish is Finish.ERROR
            assert list(progress.tokens) == request.tokens[before[request.request_id] :]
            self.seen["several tokens"] += len(progress.tokens) > 1
            if progress.finish is not None:
                self.live.pop(request.request_id)
                self.outputs.append((request, progress.finish))
                self.seen[progress.finish] += 1
        self.verify()
        if not self.out and self.random.random() < 0.3:
            self.verify_contents()

    def verify(self) -> None:
        pool = self.pool
        assert pool.free + pool.cached + pool.used == pool.total
        assert pool.host.free + pool.host.cached == pool.host.total
        pool.check([r.table for r in self.live.values()])
        change = pool.take_change()
        assert not set(change.stored) & set(change.removed)
        assert self.known.isdisjoint(change.stored)
        assert self.known.issuperset(change.removed)
        self.known = (self.known - set(change.removed)) | set(change.stored)
        assert self.known == set(pool.known_ids())
        for request in self.live.values():
            assert request.computed <= len(request.tokens)
            assert len(request.table) >= -(-request.scheduled // self.size)
            assert len(request.table) <= max(request.most_blocks, request.blocks_wanted)
            assert request.passed == request.table.count(NULL_BLOCK)
            if self.kept is not None:
                assert request.passed == max(0, request.computed // self.size - self.kept)
                self.seen["passed"] += request.passed
                self.seen["admitted in part"] += bool(request.table) and len(request.table) < request.blocks_wanted
            if not self.out:
                assert (request.in_flight, request.awaited, request.drafted) == (0, 0, False)

    def verify_contents(self) -> None:
        """Each known block holds what it held when it was computed, in either tier, wherever it has been meanwhile."""
        self.store.move(self.pool.host.take_moves())  # of blocks taken since the last step
        for block_id in self.pool.known_ids():
            block, slot = self.pool.find(block_id), self.pool.host.find(block_id)
            held = [] if block is None else [self.store.export(block)]
            held += [] if slot is None else [self.store.export_host(slot)]
            assert {self.contents.setdefault(block_id, held[0])} == set(held)

    def run(self) -> None:
        for number in range(self.random.randint(5, 40)):
            action = self.random.random()
            if action < 0.45:
                self.add(number)
            elif action < 0.55 and self.live:
                self.abort()
            elif action < 0.62:
                self.transfer()
            else:
                for _ in range(self.random.randint(1, 6)):
                    self.step()
        # Every request ends: each step computes something, and preemptions are bounded by new tokens.
        limit = sum(r.most_blocks * self.size * (1 + r.params.max_tokens) for r in self.live.values()) * 10
        for _ in range(limit):
            if not self.live:
                break
            self.step()
        assert not self.live, "a request does not end"
        while self.out:
            self.collect()
        assert not self.scheduler.has_work
        assert self.pool.used == 0
        self.seen["evicted to the host"] += self.pool.host.evicted
        self.seen["restored"] += self.pool.host.restored
        assert not self.drafter.requests, "an ended request is remembered"
        if self.speculator is not None:
            kept = (self.speculator._guesses, self.speculator._tried, self.speculator._model._seen)
            assert kept == ({}, {}, {}), "an ended request is remembered"
        self.check_outputs()

    def check_outputs(self) -> None:
        for request, finish in self.outputs:
            output = request.tokens[len(request.prompt) :]
            assert output == sim.oracle(request.prompt, len(output), request.params, eos_every=self.eos_every)
            self.seen["cached"] += request.cached_tokens
            if finish is Finish.LENGTH:
                room = self.max_model_len - len(request.prompt)
                assert len(output) == min(request.params.max_tokens, room)
            elif finish is Finish.STOP:
                enders = set(request.params.stop_token_ids)
                if not request.params.ignore_eos:
                    enders.add(sim.IM_END)
                assert output[-1] in enders
                assert enders.isdisjoint(output[:-1])
                assert len(output) > request.params.min_tokens
                self.seen["min_tokens"] += request.params.min_tokens > 0
            if finish not in (None, Finish.ERROR) and request.params.prompt_logprobs is not None:
                assert [row.token for row in request.prompt_logprobs] == list(request.prompt[1:])
            if self.pool.caching is False:
                assert request.cached_tokens == 0


@pytest.mark.parametrize("part", range(4))
def test_random_histories(part):
    """Accounts balance after each step, the budget holds, every request ends, and its tokens are the oracle's."""
    seen: Counter[str] = Counter()
    for seed in range(part, HISTORIES, 4):
        history = History(seed)
        try:
            history.run()
        except BaseException as error:
            error.add_note(f"history with seed {seed}")
            raise
        seen += history.seen
    # the histories did reach what they are about
    for what in (
        "preempted",
        "cached",
        "aborted",
        "refused prompt",
        "refused max_tokens",
        "overloaded",
        "failed",
        "overlapped",
        "void",
        "drafted",
        "by a draft model",
        "several tokens",
        "min_tokens",
        "gathering",
        "passed",
        "admitted in part",
        "longer than the cache",
        "hit behind lost blocks",
        "imported",
        "exported",
        "exported from the host",
        "evicted to the host",
        "restored",
        "preempted with a host",
        Finish.STOP,
        Finish.LENGTH,
    ):
        assert seen[what] > 0, f"no history had: {what}"


def test_the_ids_told_are_those_of_the_tokens():
    """A stored id is the chained hash of the request's computed blocks, so a router can compute it too."""
    pool, size = BlockPool(8), 4
    scheduler = Scheduler(SchedulerConfig(max_batch_tokens=5), pool)
    root = root_id("sim")
    request = Request(
        request_id="a",
        prompt=list(range(9)),
        params=SamplingParams(max_tokens=8, temperature=0),
        root=root,
        block_size=size,
        arrival=0.0,
        max_model_len=100,
    )
    runner = sim.SimRunner(sim.SimSpec(decode_ms=0, prefill_tps=0), 8, size)
    scheduler.add(request)
    stored: list[bytes] = []
    while scheduler.has_work:
        step = scheduler.schedule(0.0)
        computed_before = request.computed
        scheduler.update(step, runner.launch(step.batch).result())
        change = pool.take_change()
        stored += change.stored
        assert len(stored) == request.computed // size
        assert request.computed == computed_before + step.batch.num_tokens
    assert stored == block_ids(root, request.tokens[:-1], size)
