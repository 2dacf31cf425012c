"""A scheduler with a speculator over any model, without threads and sockets."""

from dataclasses import astuple, dataclass, field

import pytest
from proposing import Everything

from argosy_api.blocks import root_id
from argosy_worker import sim
from argosy_worker.core.blocks import BlockPool, blocks_of_window
from argosy_worker.core.request import Request
from argosy_worker.core.scheduler import Scheduler, SchedulerConfig
from argosy_worker.speculation.config import Method, SpeculationConfig
from argosy_worker.speculation.draft_model import DraftModel
from argosy_worker.speculation.speculator import Counts, Speculator

BLOCK = 16


@dataclass
class Answered:
    tokens: list[list[int]]
    logprobs: list[list]
    counts: Counts
    steps: int
    pool: BlockPool
    requests: list[Request] = field(default_factory=list)


def draft_model(model, blocks, *, target, block=BLOCK):
    """`model` as a draft model."""
    runner = model.make_runner(blocks, block)
    return DraftModel(runner, facts=model.facts, target=target.facts, num_blocks=blocks, block_size=block)


class Line:
    """All that is tried unless a policy says else; what it has learnt stays from one call to the next."""

    def __init__(self, model, *, method=Method.OFF, draft=None, most=8, blocks=128, policy=Everything, **config):
        self.model = model
        self.pool = BlockPool(blocks, window_blocks=blocks_of_window(model.facts.window, BLOCK))
        self.runner = model.make_runner(blocks, BLOCK)
        draft = draft_model(draft, blocks, target=model) if draft is not None else None
        self.speculator = Speculator(
            SpeculationConfig(method=method, max_draft=most), model=draft, policy=policy() if policy else None
        )
        self.scheduler = Scheduler(SchedulerConfig(**config), self.pool, self.speculator)

    def answers(self, jobs, *, salt="", eos=frozenset()):
        requests = [
            Request(
                request_id=f"r{i}",
                prompt=prompt,
                params=params,
                root=root_id(self.model.facts.fingerprint, salt=salt),
                block_size=BLOCK,
                arrival=0.0,
                max_model_len=2048,
                eos_token_ids=eos,
            )
            for i, (prompt, params) in enumerate(jobs)
        ]
        for request in requests:
            self.scheduler.add(request)
        logprobs = {request: [] for request in requests}
        steps, total = 0, Counts()
        while self.scheduler.has_work:
            step = self.scheduler.schedule(0.0)
            outputs = self.runner.launch(step.batch).result()
            drafted = sum(piece.draft for piece in step.batch.slices)
            seconds = 0.01 + 0.001 * drafted + sum(astuple(self.speculator._spent))
            counts = self.speculator.learn(step, outputs, seconds)
            total = Counts(*(a + b for a, b in zip(total, counts, strict=True)))
            steps += 1
            for progress in self.scheduler.update(step, outputs):
                assert progress.error == ""
                logprobs[progress.request] += progress.logprobs
        assert self.pool.used == 0
        self.pool.check([])
        tokens = [request.tokens[len(request.prompt) :] for request in requests]
        return Answered(tokens, [logprobs[r] for r in requests], total, steps, self.pool, requests)


@pytest.fixture(scope="session")
def make_line():
    return Line


@pytest.fixture(scope="session")
def simulated():
    """`simulated(**options)`: a simulated model that takes no time and checks its block tables."""

    def make(**options):
        return sim.SimModel(sim.SimSpec(**{"decode_ms": 0, "prefill_tps": 0, "check": 1, **options}))

    return make
