"""Several tokens of one step become one chunk; a stop string within them ends the answer there."""

import pytest

from argosy_api import metric_names as names
from argosy_api.blocks import root_id
from argosy_api.params import SamplingParams
from argosy_worker import sim
from argosy_worker.core.batch import TokenLogprob
from argosy_worker.core.request import Finish, Request
from argosy_worker.core.scheduler import Advance
from argosy_worker.engine.detokenize import vocabulary
from argosy_worker.engine.metrics import WorkerMetrics
from argosy_worker.engine.reply import Reply
from argosy_worker.engine.stream import Stream


@pytest.fixture
def make_reply():
    def make(**params):
        request = Request(
            request_id="r",
            prompt=list(b"say: "),
            params=SamplingParams(**params),
            root=root_id("sim"),
            block_size=4,
            arrival=0.0,
            max_model_len=100,
        )
        metrics = WorkerMetrics(model="m", worker="w")
        return Reply(request, Stream("r", 1, number=1), vocabulary(sim.tokenizer_json()), metrics), request, metrics

    return make


def advance(reply, request, text, finish=None, now=1.0):
    tokens = list(text)
    request.tokens += tokens
    scores = [TokenLogprob(token, -1.0) for token in tokens]
    return reply.advance(Advance(request, tokens, scores, finish), now)


def test_all_tokens_of_a_step_in_one_chunk(make_reply):
    reply, request, metrics = make_reply(logprobs=0)
    first, second = advance(reply, request, b"a"), advance(reply, request, b"bcd", now=4.0)
    assert (first.index, first.tokens, first.text) == (0, list(b"a"), "a")
    assert (second.index, second.tokens, second.text, second.finish) == (1, list(b"bcd"), "bcd", None)
    assert [score.token for score in second.logprobs] == list(b"bcd")
    labels = {"model": "m", "worker": "w"}
    assert metrics.registry.get_sample_value(names.WORKER_ITL_SECONDS + "_count", labels) == 3
    assert metrics.registry.get_sample_value(names.WORKER_ITL_SECONDS + "_sum", labels) == 3.0


def test_a_stop_string_cuts_the_tokens_behind_it(make_reply):
    reply, request, _ = make_reply(stop=["cd"], logprobs=0)
    advance(reply, request, b"a")
    chunk = advance(reply, request, b"bcdefg", Finish.LENGTH)
    assert (chunk.text, chunk.tokens, len(chunk.logprobs)) == ("b", list(b"bcd"), 3)
    assert (chunk.finish, chunk.stop_reason) == (Finish.STOP, "cd")
    assert chunk.usage.completion_tokens == 4


def test_a_stop_token_at_the_end_has_no_text(make_reply):
    reply, request, _ = make_reply(stop_token_ids=(ord("d"),))
    chunk = advance(reply, request, b"abcd", Finish.STOP)
    assert (chunk.text, chunk.tokens, chunk.finish) == ("abc", list(b"abcd"), Finish.STOP)


def test_the_reason_to_end_is_about_the_last_token(make_reply):
    reply, request, _ = make_reply()
    chunk = advance(reply, request, b"ab", Finish.LENGTH)
    assert (chunk.text, chunk.finish, chunk.usage.completion_tokens) == ("ab", Finish.LENGTH, 2)
