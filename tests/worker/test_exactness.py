"""The promise of exactness, with a real model under the real scheduler: equal tokens, however they were computed."""

import pytest
from proposing import Proposing
from tokenizers import Tokenizer

from argosy_api.blocks import root_id
from argosy_api.params import SamplingParams
from argosy_worker.core.blocks import BlockPool
from argosy_worker.core.request import Request
from argosy_worker.core.scheduler import Scheduler, SchedulerConfig
from argosy_worker.models import load_model

BLOCK = 16
NEW = 10
MORE = (
    {},
    {"repetition_penalty": 1.3},
    {"frequency_penalty": 0.8, "presence_penalty": 0.5, "min_p": 0.02},
    {"logit_bias": ((28, 3.0), (260, -100.0)), "typical_p": 0.9},
    {"bad_words_ids": ((28,), (260, 253)), "repetition_penalty": 0.8},
)
"""What shapes the distribution, of every fifth job."""
TEXTS = (
    "The ship left the harbour before dawn, and nobody on the quay waved. The captain had asked for silence. ",
    "def merge(left, right):\n    result = []\n    while left and right:\n        ",
    "<|im_start|>user\nName three rivers of Europe.<|im_end|>\n<|im_start|>assistant\n",
    "In 1994 the committee met 12 times, voted 34,567 motions down, and adopted none: ",
)


@pytest.fixture(scope="module")
def model(smollm_path):
    return load_model(smollm_path, compute="auto", device="cpu", threads=2)


class Line:
    """A scheduler over the real model, without threads and sockets."""

    def __init__(self, model, *, budget, blocks, drafter=None):
        self.model = model
        self.pool = BlockPool(blocks)
        self.scheduler = Scheduler(SchedulerConfig(max_batch_tokens=budget, max_running=16), self.pool, drafter)
        self.runner = model.make_runner(blocks, BLOCK)
        self.preempted = 0

    def answers(self, jobs):
        """Output tokens of all jobs, submitted together."""
        requests = [
            Request(
                request_id=f"r{i}",
                prompt=prompt,
                params=params,
                root=root_id(self.model.facts.fingerprint),
                block_size=BLOCK,
                arrival=0.0,
                max_model_len=1024,
            )
            for i, (prompt, params) in enumerate(jobs)
        ]
        for request in requests:
            self.scheduler.add(request)
        while self.scheduler.has_work:
            step = self.scheduler.schedule(0.0)
            self.preempted += step.preempted
            for progress in self.scheduler.update(step, self.runner.launch(step.batch).result()):
                assert progress.error == ""
        self.cached = sum(request.cached_tokens for request in requests)
        assert self.pool.used == 0
        return [request.tokens[len(request.prompt) :] for request in requests]


@pytest.fixture(scope="module")
def jobs(model):
    """Prompts of many lengths, some with a common beginning; half are sampled with a seed."""
    tokenizer = Tokenizer.from_buffer(model.facts.tokenizer_json)
    made = []
    for i in range(16):
        ids = tokenizer.encode(TEXTS[i % 4] * (1 + i // 4)).ids[: 23 + 5 * i]
        sampled = i % 2 == 1
        params = SamplingParams(
            max_tokens=NEW + i % 3,
            temperature=0.9 if sampled else 0.0,
            top_p=0.9 if sampled else 1.0,
            top_k=50 if sampled else 0,
            seed=1000 + i if sampled else None,
            ignore_eos=True,
            **MORE[i % 5],
        )
        made.append((ids, params))
    return made


@pytest.fixture(scope="module")
def alone(model, jobs):
    """What each job answers when there is nothing else, the cache is cold, and the prompt is computed as a whole."""
    answers = []
    for job in jobs:
        answers += Line(model, budget=1024, blocks=32).answers([job])
    return answers


@pytest.mark.parametrize("budget", [16, 64, 1024])
def test_sixteen_at_once_are_as_each_alone_cold_and_warm(model, jobs, alone, budget):
    line = Line(model, budget=budget, blocks=256)
    assert line.answers(jobs) == alone
    assert line.answers(jobs) == alone
    assert line.cached > 0


def test_preempted_requests_answer_the_same(model, jobs, alone):
    line = Line(model, budget=64, blocks=16)
    assert line.answers(jobs) == alone
    assert line.preempted > 0


def test_drafts_right_or_wrong_do_not_change_the_answers(model, jobs, alone):
    drafted = []

    def propose(request, most):
        number = int(request.request_id[1:])
        draft = alone[number][request.generated :][: (number + request.generated) % 4]
        if draft and request.generated % 3 == 0:
            draft[-1] += 1  # wrong
        drafted.append(len(draft[:most]))
        return draft[:most]

    assert Line(model, budget=64, blocks=256, drafter=Proposing(propose)).answers(jobs) == alone
    assert sum(drafted) > 50
