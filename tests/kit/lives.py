"""The engine's thread driven turn by turn, without a thread: what requests are answered, whatever computes their steps."""

from dataclasses import dataclass, field, replace

from argosy_api.blocks import root_id
from argosy_api.errors import ArgosyError
from argosy_api.params import SamplingParams
from argosy_worker import sim
from argosy_worker.core.config import SchedulerConfig
from argosy_worker.core.request import Request
from argosy_worker.engine.config import EngineConfig
from argosy_worker.engine.detokenize import TextVocabulary
from argosy_worker.engine.metrics import WorkerMetrics
from argosy_worker.engine.stream import Piece, Stream
from argosy_worker.engine.thread import EngineThread

METRICS = WorkerMetrics(model="test", worker="w")
TEXTS = TextVocabulary(sim.tokenizer_json())
GREEDY = SamplingParams(temperature=0, max_tokens=20)
_MOST_TURNS = 20_000


@dataclass
class Asked:
    """A request, the turn in which it comes, and that in which it is aborted."""

    prompt: list[int]
    params: SamplingParams = GREEDY
    comes: int = 0
    aborted: int | None = None
    grammar: object = None
    priority: int = 0


@dataclass
class Answer:
    piece: Piece = field(default_factory=lambda: Piece(index=0))
    error: ArgosyError | None = None

    @property
    def tokens(self):
        return self.piece.tokens

    @property
    def whole(self):
        """All that a client sees, usage of the cache aside."""
        p = self.piece
        return (
            p.tokens,
            p.text,
            p.logprobs,
            p.prompt_logprobs,
            p.finish,
            p.stop_reason,
            self.error and str(self.error),
        )


class Life:
    """An engine over a runner, and the answers so far."""

    def __init__(self, runner, *, num_blocks=64, block_size=4, host_blocks=0, max_model_len=256, eos=(),
                 drafter=None, trace=None, **scheduler):  # fmt: skip
        self.config = EngineConfig(
            num_blocks=num_blocks, block_size=block_size, host_blocks=host_blocks, max_model_len=max_model_len,
            scheduler=SchedulerConfig(**scheduler),
        )  # fmt: skip
        self.eos, self.answers, self.known, self.turns = frozenset(eos), {}, set(), 0
        self.streams = {}
        self.thread = EngineThread(
            runner=runner, config=self.config, vocabulary=TEXTS, metrics=METRICS, deliver=self._deliver, trace=trace
        )
        self.pool = self.thread.scheduler.pool
        if drafter is not None:
            self.thread.scheduler._drafter = drafter

    def begin(self, name, asked):
        request = Request(
            request_id=name, prompt=asked.prompt, params=asked.params, root=root_id("sim"),
            block_size=self.config.block_size, arrival=float(self.turns), max_model_len=self.config.max_model_len,
            eos_token_ids=self.eos, grammar=asked.grammar, priority=asked.priority,
        )  # fmt: skip
        self.streams[name] = Stream(name, 1, number=1)
        self.answers[name] = Answer()
        self.thread.ask(lambda: self.thread.begin(request, self.streams[name]))

    def turn(self):
        self.turns += 1
        self.thread._turn()
        scheduler = self.thread.scheduler
        self.pool.check([request.table for request in scheduler.running.values()])

    def run(self, asked):
        """Answers by number."""
        assert self.turns == 0
        for _ in range(_MOST_TURNS):
            for number, one in enumerate(asked):
                if one.comes == self.turns:
                    self.begin(str(number), one)
                if one.aborted == self.turns and str(number) in self.streams:
                    self.thread.ask(lambda stream=self.streams[str(number)]: self.thread.abort(stream))
            self.thread.ask(lambda: None)  # who has nothing to do does not wait
            self.turn()
            if not self.thread._replies and self.turns > max(one.comes for one in asked):
                break
        else:
            raise AssertionError("a request does not end")
        while self.thread._flights.out:
            self.turn()
        assert self.pool.used == 0
        assert self.known == set(self.pool.known_ids()), "what followers of the events believe"
        return [self.answers[str(number)] for number in range(len(asked))]

    def _deliver(self, outbox, change):
        assert self.known.isdisjoint(change.stored)
        self.known = (self.known - set(change.removed)) | set(change.stored)
        for stream, item in outbox:
            answer = self.answers[stream.request_id]
            if isinstance(item, ArgosyError):
                answer.error = item
            else:
                assert item.index == len(answer.tokens)
                answer.piece.join(replace(item, tokens=list(item.tokens)))
                answer.piece.prompt_logprobs = answer.piece.prompt_logprobs or item.prompt_logprobs
