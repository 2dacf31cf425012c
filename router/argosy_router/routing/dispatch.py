"""From a request and what is known of the workers to a decision: candidates for the policy, and the books."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from argosy_api.errors import UnavailableError
from argosy_api.membership import RoutingPolicy
from argosy_api.order import RESOURCE_DEFAULTS
from argosy_router.clock import now
from argosy_router.fleet.deployment import DeploymentState
from argosy_router.fleet.peer import Peer
from argosy_router.metrics import Metrics
from argosy_router.routing import policy, roles, sources, trial
from argosy_router.routing.books import Entry
from argosy_router.routing.job import Job
from argosy_router.routing.policy import Considered
from argosy_router.routing.predictions import Predictions, Promise
from argosy_router.routing.trial import Clocked
from argosy_router.text.models import ServedModel


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """Where a job goes, and why. `cached` is the predicted number of cached prompt tokens."""

    worker: str
    cached: int
    policy: str
    reason: str
    cost_s: float
    source: str = ""
    """The worker from which blocks are to be fetched; then `cached` counts them."""
    candidates: int = 0
    """How many workers could have had it."""
    considered: Sequence[Considered] = ()
    """The cheapest of them, the best first, where they were priced."""

    def describe(self) -> str:
        """For the `x-argosy-decision` header."""
        source = f"; source={self.source}" if self.source else ""
        return f"{self.policy}:{self.reason}; cost={self.cost_s:.4f}s{source}"

    def headers(self, *, reasons: bool) -> list[tuple[str, str]]:
        """What a client is told. `reasons` tell what other clients' requests left in the caches: for operators only."""
        if not reasons:
            return [("x-argosy-worker", self.worker)]
        return [
            ("x-argosy-worker", self.worker),
            ("x-argosy-cached-tokens-predicted", str(self.cached)),
            ("x-argosy-decision", self.describe()),
        ]


@dataclass(slots=True, kw_only=True)
class Assignment:
    """A decision, and its account with the worker: what it waits for, carries along and will hold. Close it."""

    decision: Decision
    worker: Peer
    source: str
    """Address of the worker from which it is to fetch blocks; empty: of none."""
    entry: Entry
    predictions: Predictions
    promise: Promise | None
    clock: Callable[[], float]
    clocked: Clocked | None = None
    """While there is a canary."""

    def accepted(self, number: int) -> None:
        """The worker has taken the request, as its submission with this number."""
        self.worker.books.accepted(self.entry, number)

    def tokens(self, count: int) -> None:
        """`count` tokens came."""
        self.worker.books.tokens(self.entry, count, self.clock())
        if self.clocked is not None:
            self.clocked.came(count)
        if self.promise is not None:
            self.predictions.computed(self.promise, self.clock())
            self.promise = None

    def reported(self) -> None:
        """What it waits for is in the worker's own report by now, under a number that nobody here knows."""
        self.worker.books.close(self.entry, self.clock())

    def failed(self) -> None:
        """By the worker's fault."""
        if self.clocked is not None:
            self.clocked.failed()

    def close(self) -> None:
        """The request ended, in whatever way. May be called twice."""
        if self.clocked is not None:
            self.clocked.ended()
        self.worker.books.close(self.entry, self.clock())
        if self.promise is not None:
            self.predictions.withdraw(self.promise)
            self.promise = None


def _nothing() -> None: ...


class Dispatcher:
    """Picks workers. One for the router."""

    def __init__(self, metrics: Metrics, *, rng: random.Random | None = None, clock: Callable[[], float] = now) -> None:
        self._metrics = metrics
        self._clock = clock
        self._rng = rng or random.Random()

    def assign(
        self,
        job: Job,
        excluded: frozenset[str] = frozenset(),
        *,
        computed_by: Peer | None = None,
        alike: ServedModel | None = None,
        abandon: Callable[[], object] = _nothing,
        for_another: bool = False,
    ) -> Assignment:
        """Picks a worker, opens its books and predicts its new blocks. No I/O.

        `computed_by` has just computed the prompt for whoever will generate. `alike`: only for workers that give the
        same answer as that one, and that are well. `abandon` is called when the worker is found to hang.
        `for_another`: it is only asked where the job should go; who sends it counts it.

        Raises:
            UnavailableError: there is no worker (besides `excluded` ones).

        """
        state, time = job.deployment, self._clock()
        able = state.candidates(time, excluded, wanted=job.longest, alike=alike, adapter=job.adapter)
        workers = roles.for_answers(able)
        if not workers:
            raise UnavailableError(no_worker(state, tried=len(excluded)))
        if state.spec.canary is not None:
            workers = trial.side(state.spec.canary, job.key, workers, again=bool(excluded))
        candidates, fresh = self._candidates(job, workers, time)
        if computed_by is None:
            others = [w for w in state.workers.values() if w.healthy(time) and w.worker_id not in excluded]
            candidates = sources.cheaper(
                state, candidates, [*workers, *others], prompt=len(job.tokens), ids=_matched_ids(job), time=time
            )
        else:
            candidates = sources.given(state, candidates, workers, prompt=len(job.tokens), source=computed_by)
        return self._assign(job, workers, candidates, indexed=fresh, abandon=abandon, counts=not for_another)

    def assign_prompt(self, job: Job, *, abandon: Callable[[], object]) -> Assignment | None:
        """Picks a prefill worker for the prompt, where there are some and it is worth the way. No I/O."""
        state = job.deployment
        if not state.splits:
            return None
        if job.params.prompt_logprobs is not None:  # whose rows the worker that answers must compute itself
            return None
        time = self._clock()
        found = state.candidates(time, frozenset(), wanted=job.longest, adapter=job.adapter)
        workers = roles.for_prompts(found)
        if not workers:
            return None
        generators, _ = self._candidates(job, roles.for_answers(found), time)
        if not roles.needs_prefill(len(job.tokens), ((c.cached, c.rate) for c in generators)):
            return None
        candidates, fresh = self._candidates(job, workers, time)
        candidates = sources.cheaper(state, candidates, found, prompt=len(job.tokens), ids=_matched_ids(job), time=time)
        return self._assign(job, workers, candidates, indexed=fresh, abandon=abandon)

    def _assign(
        self,
        job: Job,
        workers: Sequence[Peer],  # of the candidates, in their order
        candidates: list[policy.Candidate],
        *,
        indexed: bool,
        abandon: Callable[[], object],
        counts: bool = True,
    ) -> Assignment:
        state, time = job.deployment, self._clock()
        choice, name = self._choose(job, candidates, indexed=indexed)
        place = next(i for i, c in enumerate(candidates) if c.worker == choice.worker)
        worker, fetch = workers[place], candidates[place].fetch
        cached = choice.cached if fetch is None else fetch.tokens
        decision = Decision(
            worker=choice.worker,
            cached=cached,
            policy=name,
            reason=choice.reason,
            cost_s=choice.cost_s,
            source="" if fetch is None else fetch.source,
            candidates=len(candidates),
            considered=choice.considered,
        )
        if not len(worker.books):
            worker.heard_at = time
        known = choice.cached // state.card.facts.block_size if state.card is not None else 0
        promise = state.predictions.add(state.index.bit(choice.worker), job.block_ids[known:])
        prompt = len(job.tokens)
        entry = worker.books.open(
            uncached=max(1, prompt - cached), prompt=prompt, now=time, priority=job.priority, abandon=abandon
        )
        if counts:
            state.demand.prompt(max(1, prompt - cached), time)
            self._metrics.decisions.labels(state.name, name, choice.reason).inc()
            self._metrics.predicted.labels(state.name).inc(cached)
        return Assignment(
            decision=decision,
            worker=worker,
            source="" if fetch is None else state.workers[fetch.source].spec.address,
            entry=entry,
            predictions=state.predictions,
            promise=promise,
            clock=self._clock,
            clocked=Clocked.of(state.trial, worker.revision, self._clock) if state.trial and counts else None,
        )

    def others(self, job: Job, excluded: frozenset[str], alike: ServedModel | None = None) -> bool:
        """Whether a healthy worker besides `excluded` could take the job, or go on with the answer of `alike`."""
        time = self._clock()
        found = job.deployment.candidates(time, excluded, wanted=job.longest, alike=alike, adapter=job.adapter)
        return any(w.healthy(time) for w in found)

    def _choose(self, job: Job, candidates: list[policy.Candidate], *, indexed: bool) -> tuple[policy.Choice, str]:
        state, prompt = job.deployment, len(job.tokens)
        if (picked := policy.named(candidates, prompt, job.pick.worker)) is not None:
            return picked, "picker"
        if state.spec.policy is RoutingPolicy.ROUND_ROBIN:
            state.turn += 1
            return policy.round_robin(candidates, state.turn), "roundRobin"
        if state.spec.policy is RoutingPolicy.PREFIX_HASH or not indexed:
            key = policy.prefix_key(job.block_ids, job.tokens)
            ring = state.ring(state.workers)
            name = "prefixHash" if state.spec.policy is RoutingPolicy.PREFIX_HASH else "kvAware/indexStale"
            return policy.prefix_hash(candidates, prompt, key, ring), name
        return policy.kv_aware(candidates, prompt, rng=self._rng), "kvAware"

    @staticmethod
    def _candidates(job: Job, peers: Sequence[Peer], time: float) -> tuple[list[policy.Candidate], bool]:
        """What is known of the workers, and whether the index counts for any of them."""
        state = job.deployment
        state.predictions.expire(time)
        ids = _matched_ids(job)
        matched = state.index.match(ids, state.predictions)
        stale = {w.worker_id for w in peers if not w.index_counts(time)}
        if stale:  # what they hold is not known; what they were just sent is
            sent = state.index.promised(ids, state.predictions)
            matched |= {worker: sent.get(worker, 0) for worker in stale}
        card = state.card
        size = card.facts.block_size if card is not None else 1
        most = (len(job.tokens) - 1) // size  # the last token is always computed: its logits are wanted
        loads = [w.fresh_load(time) for w in peers]
        rates = policy.fill_rates([load.prefill_tokens_per_second if load else 0.0 for load in loads])
        made = []
        for worker, load, rate in zip(peers, loads, rates, strict=True):
            discipline = worker.facts.discipline if worker.facts is not None else RESOURCE_DEFAULTS
            total = load.total_blocks if load else 0
            made.append(
                policy.Candidate(
                    worker=worker.worker_id,
                    cached=min(matched.get(worker.worker_id, 0), most) * size,
                    queue=worker.books.line(rate, discipline, time),
                    rate=rate,
                    priority=job.priority,
                    decode=worker.books.decoding(time),
                    capacity=total * size,
                    used=max(0.0, load.used_blocks - worker.books.released / size) / total if load and total else 0.0,
                    held_blocks=state.index.held(worker.worker_id),
                )
            )
        return made, len(stale) < len(peers)


def _matched_ids(job: Job) -> Sequence[bytes]:
    """The blocks that count as cached: a worker computes every row of a prompt whose log-probabilities are wanted."""
    return job.block_ids if job.params.prompt_logprobs is None else ()


def no_worker(state: DeploymentState, *, tried: int) -> str:
    """Why nobody can take a request, in words for the client (no addresses)."""
    name = state.name
    if tried:
        return f"no worker of {name!r} could take the request ({tried} tried); try again"
    if state.spec.message:
        return f"{name!r} has no ready worker: {state.spec.message}"
    if not state.workers:
        return f"{name!r} has no ready worker"
    return f"{name!r} has no ready worker yet: {len(state.workers)} starting or leaving"
