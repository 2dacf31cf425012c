"""The replay of `routing.py` on a virtual clock, in one process and seconds: the product's own scheduler, block pool,
index, books and policy, with workers that take exactly their nominal time.

Two kinds of router:

    product   what it knows comes as in a cluster: KV events and answers after LAG_S, a load report each REPORT_S
    exact     the same policy, told at each decision what every worker really holds, computes and has in its line

The difference between the two is what late news costs; the difference between `product` and the real replay is what
the machine, the network and the processes cost.
"""

import heapq
import itertools
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from heapq import merge
from typing import cast

from argosy_api import blocks
from argosy_api.membership import Deployment, RoutingPolicy
from argosy_api.membership import Worker as Member
from argosy_api.order import Discipline, Order
from argosy_api.params import SamplingParams
from argosy_api.v1 import worker_pb2 as pb
from argosy_router.fleet.deployment import DeploymentState
from argosy_router.fleet.peer import Peer
from argosy_router.metrics import Metrics
from argosy_router.routing import policy
from argosy_router.routing.dispatch import Assignment, Dispatcher
from argosy_router.routing.job import Job
from argosy_router.routing.line import Line, Waiting
from argosy_router.text.model_text import ModelText
from argosy_router.text.models import ModelCard, ServedModel
from argosy_worker.core.batch import StepOutput
from argosy_worker.core.blocks import BlockPool
from argosy_worker.core.request import Request
from argosy_worker.core.scheduler import Scheduler, SchedulerConfig, Step
from argosy_worker.engine.report import view_of

LAG_S = 0.004
"""From a worker to the router or back."""
REPORT_S = 1.0
REPORT_LAG_S = 0.125
"""Until the router has looked at Redis."""
ROOT = blocks.root_id("00" * 16)
PARAMS = SamplingParams(max_tokens=1, temperature=0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One replay. Rates in tokens per second."""

    workers: int = 8
    rate: float = 625.0
    block_size: int = 8
    blocks: int = 2500
    step: int = 32
    order: str = "leastWork"
    ageing: float = 0.25


@dataclass(frozen=True, slots=True)
class Ask:
    """One request of a trace: when (seconds), and the prompt."""

    at: float
    tokens: list[int]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one request got: seconds to its first token, and prompt tokens found cached."""

    ttft: float
    cached: int
    prompt: int
    worker: str
    at: float
    """When it was to be sent."""


class Simulated:
    """One worker: the real scheduler and pool, steps of exactly tokens / rate seconds."""

    def __init__(self, name: str, setting: Setting) -> None:
        self.name, self.setting = name, setting
        config = SchedulerConfig(
            max_batch_tokens=setting.step,
            max_running=setting.step,
            order=Order(setting.order),
            ageing=setting.ageing,
        )
        self.scheduler = Scheduler(config, BlockPool(setting.blocks))
        self.scheduler.prefill_rate = setting.rate
        self.step: Step | None = None
        self.step_ends = 0.0
        self.accepted = self.sequence = self.events = 0
        self.busy = 0.0
        self.computed = 0
        self.pending: Counter[bytes] = Counter()

    def load(self, now: float) -> pb.Load:
        """The report, by the worker's own code."""
        self.sequence += 1
        view = view_of(self.scheduler, accepted=self.accepted, prefill_rate=self.setting.rate)
        return view.to_proto(
            worker_id=self.name, epoch=1, sequence=self.sequence, accepted=self.accepted, now=now, unseen=(), age=0.0,
            draining=False,
        )  # fmt: skip

    def line(self, now: float) -> Line:
        """What waits here."""
        places = merge(self.scheduler.prefilling(), self.scheduler.line.head(len(self.scheduler.line)))
        waiting = (Waiting(place.uncached_tokens, now - place.arrival, 1, place.priority) for place in places)
        setting = self.setting
        return Line.of(waiting, setting.rate, Discipline(Order(setting.order), setting.ageing), now)


@dataclass
class World:
    """The virtual clock and everything on it."""

    setting: Setting
    now: float = 0.0
    events: list[tuple[float, int, Callable[[], None]]] = field(default_factory=list)
    counter: "itertools.count[int]" = field(default_factory=itertools.count)

    def at(self, time: float, action: Callable[[], None]) -> None:
        heapq.heappush(self.events, (time, next(self.counter), action))

    def run(self) -> None:
        while self.events:
            self.now, _, action = heapq.heappop(self.events)
            action()


class Replay:
    """One run. `exact`: the router is told the truth."""

    def __init__(self, setting: Setting, *, exact: bool, policy_name: str = "kvAware", seed: int = 0) -> None:
        self.world = World(setting)
        self.exact = exact
        self.rng = random.Random(seed)
        self.workers = {f"w{i}": Simulated(f"w{i}", setting) for i in range(setting.workers)}
        self.outcomes: list[Outcome] = []
        self.open: dict[str, tuple[Ask, Assignment | None]] = {}
        self.left = 0
        self.dispatcher = Dispatcher(Metrics(), rng=self.rng, clock=lambda: self.world.now)
        self.state = self._deployment(setting, RoutingPolicy(policy_name))

    def _deployment(self, setting: Setting, chosen: RoutingPolicy) -> DeploymentState:
        facts = ServedModel(
            worker_id="", epoch=1, fingerprint="00" * 16, block_hash_version=blocks.VERSION,
            block_size=setting.block_size, total_blocks=setting.blocks, max_model_len=1 << 20, vocab_size=1 << 20,
            architecture="sim", quantization="", compute="", revision="",
            discipline=Discipline(Order(setting.order), setting.ageing), tokenizer_key="",
        )  # fmt: skip
        state = DeploymentState(Deployment(namespace="d", name="m", served_name="m", policy=chosen))
        # a replay has token ids already
        state.card = ModelCard(facts=facts, text=cast("ModelText", None))
        for name in self.workers:
            peer = state.workers[name] = Peer(Member(worker_id=name, address="127.0.0.1:1"))
            peer.take_facts(facts)
            peer.covered, peer.index_heard_at = True, float("inf")
            state.index.join(name, setting.blocks + 64)
            state.index.apply(name, pb.KvEventBatch(epoch=1, snapshot=True))
        return state

    def run(self, asks: Sequence[Ask]) -> list[Outcome]:
        """All requests, to their first tokens."""
        self.left = len(asks)
        for ask, number in zip(asks, itertools.count()):
            self.world.at(ask.at, lambda ask=ask, number=number: self._arrive(ask, f"r{number}"))  # type: ignore[misc]
        for i, worker in enumerate(self.workers.values()):
            self.world.at(REPORT_S * i / len(self.workers), lambda worker=worker: self._report(worker))  # type: ignore[misc]
        self.world.run()
        return self.outcomes

    # --- the router

    def _arrive(self, ask: Ask, name: str) -> None:
        ids = blocks.block_ids(ROOT, ask.tokens, self.world.setting.block_size)
        if self.exact:
            worker = self._choose_exactly(ask, ids)
            self.open[name] = ask, None
            worker.pending.update(ids)
            self._submit(worker, name, ask)
            return
        job = Job(deployment=self.state, request_id=name, tokens=ask.tokens, block_ids=ids, params=PARAMS)
        made = self.dispatcher.assign(job)
        self.open[name] = ask, made
        worker = self.workers[made.decision.worker]
        self.world.at(self.world.now + LAG_S, lambda: self._submit(worker, name, ask))

    def _choose_exactly(self, ask: Ask, ids: Sequence[bytes]) -> Simulated:
        setting, now = self.world.setting, self.world.now
        most = (len(ask.tokens) - 1) // setting.block_size
        candidates = []
        for worker in self.workers.values():
            pool = worker.scheduler.pool
            held = itertools.takewhile(lambda i: pool.knows(i) or worker.pending[i] > 0, ids)  # noqa: B023
            candidates.append(
                policy.Candidate(
                    worker=worker.name, cached=min(sum(1 for _ in held), most) * setting.block_size,
                    queue=worker.line(now), rate=setting.rate, capacity=setting.blocks * setting.block_size,
                    held_blocks=pool.cached,
                )
            )  # fmt: skip
        return self.workers[policy.kv_aware(candidates, len(ask.tokens), rng=self.rng).worker]

    def _report(self, worker: Simulated) -> None:
        if not self.left:
            return
        now = self.world.now
        load, lag = worker.load(now), self.rng.uniform(0.0, 2 * REPORT_LAG_S)
        peer = self.state.workers[worker.name]
        self.world.at(now + lag, lambda: peer.take_load(load, now + lag, age=REPORT_LAG_S))
        self.world.at(now + REPORT_S, lambda: self._report(worker))

    # --- a worker

    def _submit(self, worker: Simulated, name: str, ask: Ask) -> None:
        worker.accepted += 1
        worker.scheduler.add(
            Request(
                request_id=name, prompt=ask.tokens, params=PARAMS, root=ROOT, arrival=self.world.now,
                block_size=self.world.setting.block_size, max_model_len=1 << 20,
            )
        )  # fmt: skip
        made, number = self.open[name][1], worker.accepted
        if made is not None:
            self.world.at(self.world.now + LAG_S, lambda: made.accepted(number))
        if worker.step is None:
            self._begin(worker)

    def _begin(self, worker: Simulated) -> None:
        if not worker.scheduler.has_work:
            worker.step = None
            return
        worker.step = worker.scheduler.schedule(self.world.now)
        seconds = worker.step.batch.num_tokens / worker.setting.rate
        worker.busy += seconds
        worker.computed += worker.step.batch.num_tokens
        self.world.at(self.world.now + seconds, lambda: self._end(worker))

    def _end(self, worker: Simulated) -> None:
        step = worker.step
        if step is None:
            raise RuntimeError("a step ended that was not begun")
        outputs = [StepOutput(tokens=(1,)) if piece.sample_rows else StepOutput() for piece in step.batch.slices]
        for progress in worker.scheduler.update(step, outputs):
            if progress.finish is not None:
                self._first_token(worker, progress.request)
        change = worker.scheduler.pool.take_change()
        if change and not self.exact:
            worker.events += 1
            batch = pb.KvEventBatch(epoch=1, seq=worker.events, stored=change.stored, removed=change.removed)
            self.world.at(self.world.now + LAG_S, lambda: self._learn(worker.name, batch))
        self._begin(worker)

    def _learn(self, name: str, batch: pb.KvEventBatch) -> None:
        self.state.index.apply(name, batch)

    def _first_token(self, worker: Simulated, request: Request) -> None:
        ask, made = self.open.pop(request.request_id)
        lag = 0.0 if made is None else LAG_S
        self.outcomes.append(
            Outcome(self.world.now + lag - ask.at, request.cached_tokens, len(ask.tokens), worker.name, ask.at)
        )
        self.left -= 1
        worker.pending.subtract(request.ids)
        if made is not None:

            def told() -> None:
                made.tokens(1)
                made.close()

            self.world.at(self.world.now + lag, told)
