"""The promise of exactness as one table: the same 32 requests, computed in every way there is, give the same answers.

Each request is computed alone first: cold cache, its prompt as a whole, nothing else in the engine. Then all of them in
each of the `WAYS`, by the simulated and by a real model. What came of them is compared by `==`: tokens of greedy and of
sampled requests, with penalties, biases and constraints, with eight adapters and without, and log-probabilities. A new
way to compute is a new line of the table.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial

import adapters
import pytest
from proposing import Everything, Proposing
from tokenizers import Tokenizer

from argosy_api.blocks import root_id
from argosy_api.params import SamplingParams
from argosy_api.structured import compile as grammars
from argosy_api.structured.constraint import Kind, make
from argosy_worker import sim
from argosy_worker.core.batching import Batching, Forming
from argosy_worker.core.blocks import BlockPool
from argosy_worker.core.exchange import Exchange
from argosy_worker.core.request import Request
from argosy_worker.core.scheduler import Scheduler, SchedulerConfig
from argosy_worker.grammar.answer import AnswerGrammar
from argosy_worker.models import load_model
from argosy_worker.models.peft import read_adapter
from argosy_worker.models.weights import shape_of
from argosy_worker.speculation.config import Method, SpeculationConfig
from argosy_worker.speculation.draft_model import DraftModel
from argosy_worker.speculation.speculator import Speculator

BLOCK = 16
BLOCKS = 192
NEW = 7
MORE = (
    {},
    {"repetition_penalty": 1.3},
    {"frequency_penalty": 0.8, "presence_penalty": 0.5, "min_p": 0.02},
    {"logit_bias": ((28, 3.0), (260, -100.0)), "typical_p": 0.9},
    {"bad_words_ids": ((28,), (260, 253)), "repetition_penalty": 0.8},
)
"""What shapes the distribution, of every fifth job."""
CONSTRAINTS = (
    make(Kind.REGEX, "([A-Z]?[a-z]{2,12}[,.]? ){40}", field=""),
    make(Kind.JSON_SCHEMA, {"type": "array", "items": {"type": "integer", "maximum": 9999}, "minItems": 40}, field=""),
    make(
        Kind.JSON_SCHEMA,
        {"type": "object", "properties": {"x": {"type": "string", "minLength": 90}}, "required": ["x"]},
        field="",
    ),
)
"""What every third job's answer keeps to; none of them ends so soon."""
TEXTS = (
    "The ship left the harbour before dawn, and nobody on the quay waved. The captain had asked for silence. ",
    "def merge(left, right):\n    result = []\n    while left and right:\n        ",
    "<|im_start|>user\nName three rivers of Europe.<|im_end|>\n<|im_start|>assistant\n",
    "In 1994 the committee met 12 times, voted 34,567 motions down, and adopted none: ",
)


# --- the ways


@dataclass(frozen=True, kw_only=True)
class Way:
    """How the requests are computed; `proof` says by what is seen that they were."""

    budget: int = 1024
    """Tokens of a step: longer prompts are cut into chunks of it."""
    blocks: int = BLOCKS
    forming: Forming = field(default_factory=Forming)
    times: int = 1
    """So often one after the other in the same engine: from the second time on with a warm cache."""
    every: int = 1
    """Of the real model only every so many jobs, where a way is slow."""
    drafter: Callable[["World"], object] = lambda world: None
    host: int = 0
    """Evicted blocks that host memory has room for."""
    resumed: bool = False
    """Each goes on with what another attempt has generated: nothing, or a part of the answer."""
    imported: bool = False
    """From the cache of another engine that has computed them."""
    proof: Callable[["Line"], bool] = lambda line: True


def looked_up(most, world):
    return Speculator(SpeculationConfig(method=Method.NGRAM, max_draft=most), policy=Everything())


def drafted(most, world):
    """By a model of its own: the same one, on blocks of its own; it is always right."""
    model = DraftModel(
        world.model.make_runner(BLOCKS, BLOCK),
        facts=world.model.facts,
        target=world.model.facts,
        num_blocks=BLOCKS,
        block_size=BLOCK,
    )
    config = SpeculationConfig(method=Method.DRAFT, max_draft=most)
    return Speculator(config, model=model, policy=Everything())


def right_and_wrong(world):
    """What comes next, of a length that changes, with a wrong token at its end in every third step."""

    def propose(request, most):
        number = int(request.request_id[1:])
        draft = world.alone[number][0][request.generated :][: (number + request.generated) % 4]
        if draft and request.generated % 3 == 0:
            draft[-1] += 1
        return draft[:most]

    return Proposing(propose)


def forming(mode, size):
    return Forming(mode=mode, size=size, wait_s=1.0)


WAYS = {
    "a batch of 32": Way(proof=lambda line: line.most_at_once == line.count),
    "with a warm cache": Way(times=2, proof=lambda line: line.cached > 100),
    "prompts in chunks of 1": Way(budget=1, every=8),
    "prompts in chunks of 7": Way(budget=7, every=4),
    "prompts in chunks of 16": Way(budget=16),
    "prompts in chunks of 64": Way(budget=64),
    "preempted": Way(blocks=14, budget=64, proof=lambda line: line.preempted > 3),
    "dynamic batches": Way(forming=forming(Batching.DYNAMIC, 5), proof=lambda line: line.most_at_once == 5),
    "static batches": Way(forming=forming(Batching.STATIC, 7), budget=64, proof=lambda line: line.most_at_once == 7),
    "right and wrong drafts": Way(budget=64, drafter=right_and_wrong, proof=lambda line: line.tried > 50),
    "looked-up drafts": Way(times=2, every=2, drafter=partial(looked_up, 4), proof=lambda line: line.right > 20),
    # the draft model has no adapters: it is right for those who have none
    "drafts of a model": Way(budget=128, every=2, drafter=partial(drafted, 3), proof=lambda line: line.right > 5),
    "drafts in little memory": Way(
        blocks=14, drafter=partial(looked_up, 8), times=2, proof=lambda line: line.tried > 0
    ),
    "blocks from host memory": Way(
        blocks=5, host=BLOCKS, budget=64, times=2, every=2, proof=lambda line: line.pool.host.restored > 3
    ),
    "drafts on blocks from host memory": Way(
        blocks=5, host=30, drafter=right_and_wrong, times=2, every=2, proof=lambda line: line.pool.host.restored > 3
    ),
    "resumed": Way(resumed=True, budget=64, proof=lambda line: line.most_at_once > 8),
    "resumed, preempted": Way(resumed=True, blocks=8, budget=64, proof=lambda line: line.preempted > 1),
    "resumed with drafts": Way(resumed=True, drafter=right_and_wrong, proof=lambda line: line.tried > 20),
    "imported blocks": Way(imported=True, proof=lambda line: line.cached > 100),
}


@pytest.mark.parametrize("way", WAYS)
def test_every_way_to_compute_gives_the_same_answers(world, way):
    chosen = WAYS[way]
    numbers = range(0, len(world.jobs), chosen.every if world.slow else 1)
    line = Line(world, chosen)
    if chosen.imported:
        line.take_over(world.computed())
    for _ in range(chosen.times):
        answers = line.answers(numbers)
        assert answers == [world.alone[number] for number in numbers]
    assert chosen.proof(line), "the requests were not computed in this way"


# --- how they are computed


class Line:
    """Scheduler, blocks and a model, without threads and sockets, in the engine's manner."""

    def __init__(self, world, way):
        self.world = world
        self.resumed = way.resumed
        self.pool = BlockPool(way.blocks, host_blocks=way.host)
        self.drafter = way.drafter(world)
        config = SchedulerConfig(max_batch_tokens=way.budget, max_running=32, forming=way.forming)
        self.scheduler = Scheduler(config, self.pool, self.drafter)
        self.runner = world.model.make_runner(way.blocks, BLOCK, host_blocks=way.host)
        self.exchange = Exchange(self.pool, self.runner.store, self.scheduler.line.stored)
        self.preempted = self.tried = self.right = self.most_at_once = self.count = self.cached = 0

    def answers(self, numbers):
        """(tokens, log-probabilities) of all jobs, submitted together."""
        requests = [self.request(number) for number in numbers]
        logprobs = {request: self.given(number)[1] for number, request in zip(numbers, requests, strict=True)}
        for request in requests:
            self.scheduler.add(request)
        while self.scheduler.has_work:
            now = self.scheduler.due if not self.scheduler.running else 0.0
            step = self.scheduler.schedule(max(0.0, now))
            self.preempted += step.preempted
            self.most_at_once = max(self.most_at_once, len(self.scheduler.running))
            outputs = self.runner.launch(step.batch).result()
            if isinstance(self.drafter, Speculator):
                self.drafter.learn(step, outputs, 0.01)
            for piece, output in zip(step.batch.slices, outputs, strict=True):
                self.tried += piece.draft
                self.right += len(output.tokens) - 1 if piece.draft else 0
            for progress in self.scheduler.update(step, outputs):
                assert progress.error == ""
                logprobs[progress.request] += progress.logprobs
        assert self.pool.used == 0
        self.pool.check([])
        self.count, self.cached = len(requests), sum(request.cached_tokens for request in requests)
        return [(request.tokens[len(request.prompt) :], logprobs[request]) for request in requests]

    def request(self, number):
        prompt, params = self.world.jobs[number]
        adapter = self.world.adapters[number % len(self.world.adapters)]
        return Request(
            request_id=f"r{number}",
            prompt=prompt,
            params=params,
            root=root_id(self.world.model.facts.fingerprint, adapter="" if adapter is None else adapter.digest),
            adapter=adapter,
            block_size=BLOCK,
            arrival=0.0,
            max_model_len=1024,
            resumed=self.given(number)[0],
            grammar=self.world.grammar(number),
        )

    def given(self, number):
        """Tokens and log-probabilities that another attempt has delivered."""
        if not self.resumed:
            return [], []
        tokens, logprobs = self.world.alone[number]
        count = number % NEW
        return tokens[:count], logprobs[:count]

    def take_over(self, other):
        """Have the blocks that another engine knows."""
        for block_id in other.pool.known_ids():
            assert self.exchange.write(block_id, other.exchange.read(block_id))


@dataclass
class World:
    """A model, what is asked of it, and what each request is answered alone."""

    model: object
    jobs: list
    slow: bool
    adapters: list
    """Of each job the next one, and again from the beginning; None: it has none."""
    alone: list = field(default_factory=list)
    compiled: list = field(init=False)

    def __post_init__(self):
        facts = self.model.facts
        vocabulary = grammars.vocabulary(facts.tokenizer_json, facts.vocab_size, facts.eos_token_ids)
        self.compiled = [grammars.matcher(vocabulary, constraint) for constraint in CONSTRAINTS]

    def grammar(self, number):
        """Of its own for each request, out of what all share."""
        if number % 3:
            return None
        kept = self.compiled[number // 3 % len(CONSTRAINTS)]
        return AnswerGrammar(kept, kept.deep_copy, self.model.facts.eos_token_ids)

    def answer_each_alone(self):
        for number in range(len(self.jobs)):
            self.alone += Line(self, Way(blocks=8)).answers([number])

    def computed(self):
        """An engine that has answered all of them."""
        line = Line(self, Way())
        line.answers(range(len(self.jobs)))
        return line


def jobs_of(tokenizer):
    """32 prompts of many lengths, some with a common beginning; half are sampled with a seed."""
    made = []
    for i in range(32):
        ids = tokenizer.encode(TEXTS[i % 4] * 2).ids[: 11 + i]
        sampled = i % 2 == 1
        params = SamplingParams(
            max_tokens=NEW + i % 3,
            temperature=0.9 if sampled else 0.0,
            top_p=0.9 if sampled else 1.0,
            top_k=50 if sampled else 0,
            seed=1000 + i if sampled else None,
            ignore_eos=True,
            logprobs=2 if i % 4 in (0, 3) else None,
            prompt_logprobs=0 if i == 9 else None,
            **MORE[i % 5],
        )
        made.append((ids, params))
    return made


def random_adapters(config, folder):
    """Eight, of other linears and ranks each."""
    shapes = {}
    for layer in range(config.layers):
        for role, part in zip("qkvo", ("q_proj", "k_proj", "v_proj", "o_proj"), strict=True):
            shapes[f"model.layers.{layer}.self_attn.{part}"] = shape_of(config, f"layers.{layer}.{role}")
        for role in ("gate", "up", "down"):
            shapes[f"model.layers.{layer}.mlp.{role}_proj"] = shape_of(config, f"layers.{layer}.{role}")
    for i in range(8):
        targets = adapters.LINEARS[i - 1 :] if i else adapters.LINEARS
        chosen = {module: shape for module, shape in shapes.items() if module.endswith(targets)}
        tensors = adapters.tensors_of(chosen, i, rank=2 + i, size=0.5)
        yield read_adapter(adapters.write(folder / str(i), tensors, targets=targets, rank=2 + i, alpha=2), config)


@pytest.fixture(scope="module", params=["sim", "SmolLM2"])
def world(request, tmp_path_factory):
    if request.param == "sim":
        model = sim.SimModel(sim.SimSpec(decode_ms=0, prefill_tps=0, check=1))
        made = [sim.SimAdapter(f"{i}") for i in range(8)]
    else:
        model = load_model(request.getfixturevalue("smollm_path"), compute="auto", device="cpu", threads=2)
        made = list(random_adapters(model.config, tmp_path_factory.mktemp("adapters")))
    jobs = jobs_of(Tokenizer.from_buffer(model.facts.tokenizer_json))
    world = World(model, jobs, slow=request.param != "sim", adapters=[None, *made])
    world.answer_each_alone()
    return world


def test_the_answers_are_worth_a_comparison(world):
    """They differ among each other, from those without what shapes the distribution, and from those without adapters."""
    assert len({tuple(tokens) for tokens, _ in world.alone}) > 20
    plain = Line(replace(world, adapters=[None]), Way()).answers(range(1, 9))
    assert sum(answer[0] != world.alone[n][0] for n, answer in enumerate(plain, 1)) >= 5
    if world.slow:  # of all this the simulated model knows the seed alone
        usual = SamplingParams()
        plain = [
            (ids, replace(p, **{name: getattr(usual, name) for name in MORE[i % 5]}))
            for i, (ids, p) in enumerate(world.jobs)
        ]
        answers = Line(replace(world, jobs=plain), Way()).answers(range(1, 32, 3))
        differ = [answers[n][0] != world.alone[i][0] for n, i in enumerate(range(1, 32, 3)) if MORE[i % 5]]
        assert sum(differ) > 2
