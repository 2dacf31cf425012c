"""The draft model: what it guesses, what it has computed, where it cannot help."""

from dataclasses import replace

import pytest
from computes_beside import Beside

from argosy_api.errors import ModelUnsupportedError
from argosy_api.params import SamplingParams
from argosy_worker import sim
from argosy_worker.core.batch import Finished, StepOutput
from argosy_worker.models.open_model import parse_tokenizer
from argosy_worker.speculation.config import Method
from argosy_worker.speculation.vocabulary import check_vocabulary


def jobs(count=6, **params):
    params = {"max_tokens": 24, "temperature": 0.0, **params}
    return [(list(range(i, i + 20 + 13 * i)), SamplingParams(seed=i, **params)) for i in range(count)]


def plain(made):
    return [sim.oracle(prompt, params.max_tokens, params) for prompt, params in made]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_same_model_is_always_right(make_line, simulated, temperature):
    """It draws with the request's own settings and numbers: at any temperature a step gives all that may be drafted."""
    made = jobs(temperature=temperature)
    line = make_line(simulated(), method=Method.DRAFT, draft=simulated(), most=5)
    answered = line.answers(made)
    assert answered.tokens == plain(made)
    assert answered.counts.accepted == answered.counts.drafted > 80
    assert answered.steps < 12
    assert not line.speculator._model._seen, "ended requests are remembered"


@pytest.mark.parametrize(
    "rules",
    [
        {"repetition_penalty": 1.3, "frequency_penalty": 0.4},
        {"presence_penalty": 1.0, "allowed_token_ids": tuple(range(40, 60))},
        {"bad_words_ids": tuple((a, b) for a in range(32, 127) for b in range(32, 90, 2)), "logit_bias": ((40, 3.0),)},
    ],
)
def test_the_same_model_is_always_right_by_the_same_rules(make_line, simulated, rules):
    """Penalties and bad words look at the text as far as it is guessed."""
    made = jobs(temperature=1.0, **rules)
    plain = make_line(simulated()).answers(made)
    answered = make_line(simulated(), method=Method.DRAFT, draft=simulated(), most=5).answers(made)
    assert answered.tokens == plain.tokens
    assert answered.counts.accepted == answered.counts.drafted > 80


class OnADevice:
    """A simulated model, computed beside the host."""

    def __init__(self, real):
        self.real, self.facts, self.runner = real, real.facts, None

    def make_runner(self, blocks, block_size):
        self.runner = Beside(self.real.make_runner(blocks, block_size))
        return self.runner


@pytest.fixture
def on_a_device(simulated):
    made = []

    def make(**more):
        made.append(OnADevice(simulated(**more)))
        return made[-1]

    yield make
    for model in made:
        model.runner.close()


@pytest.mark.parametrize(
    ("params", "more", "line"),
    [
        ({}, {}, {}),
        ({"temperature": 1.0, "top_p": 0.9}, {"accept": 0.6}, {}),
        ({"temperature": 1.0, "min_tokens": 9, "logit_bias": ((40, 3.0),)}, {"accept": 0.8, "eos_every": 6}, {}),
        ({"max_tokens": 60}, {"accept": 0.8}, {"blocks": 32}),
        ({"temperature": 1.0, "repetition_penalty": 1.3}, {}, {}),
        ({"bad_words_ids": ((40, 41), (42, 43))}, {}, {}),
    ],
)
def test_guesses_launched_one_behind_the_other_are_those_made_one_by_one(  # noqa: PLR0917
    make_line, simulated, on_a_device, params, more, line
):
    """And so are the steps that they save. Where a rule must see each token, guesses are waited for one by one."""
    made = jobs(6, **params)
    ends = frozenset(sim.ENDS)
    served = {"eos_every": more["eos_every"]} if "eos_every" in more else {}
    one_by_one = make_line(simulated(**served), method=Method.DRAFT, draft=simulated(**more), most=5, **line)
    expected = one_by_one.answers(made, eos=ends)
    draft = on_a_device(**more)
    found = make_line(simulated(**served), method=Method.DRAFT, draft=draft, most=5, **line).answers(made, eos=ends)
    assert found.tokens == expected.tokens
    assert found.counts.accepted == expected.counts.accepted > 40
    assert found.steps == expected.steps
    sees = "repetition_penalty" in params or "bad_words_ids" in params
    assert (draft.runner.placeholders == 0) == sees
    assert (draft.runner.most_out == 1) == sees


def test_a_step_of_guesses_is_waited_for_once(make_line, simulated, on_a_device):
    draft = on_a_device()
    line = make_line(simulated(), method=Method.DRAFT, draft=draft, most=5)
    answered = line.answers(jobs(2))
    assert draft.runner.most_out == 5
    assert answered.counts.accepted == answered.counts.drafted > 30


@pytest.mark.parametrize(("cut", "drawn"), [((1.0, 0), 0), ((0.9, 0), 1024), ((0.9, 7), 7), ((1.0, 5000), 1024)])
def test_guesses_are_drawn_from_as_many_tokens_as_a_device_is_sure_of(make_line, simulated, on_a_device, cut, drawn):
    draft = on_a_device()
    line = make_line(simulated(), method=Method.DRAFT, draft=draft, most=3)
    seen = []
    draft.runner.at_launch = lambda batch: seen.extend(s.params.top_k for s in batch.slices)
    made = jobs(1, temperature=1.0, top_p=cut[0], top_k=cut[1])
    assert line.answers(made).tokens == plain(made)
    assert set(seen) == {drawn}


@pytest.mark.parametrize("accept", [0.0, 0.3, 0.7, 0.9])
def test_a_model_that_is_often_wrong_changes_nothing(make_line, simulated, accept):
    made = jobs(temperature=1.0)
    answered = make_line(simulated(), method=Method.DRAFT, draft=simulated(accept=accept), most=4).answers(made)
    assert answered.tokens == plain(made)
    first = answered.counts.accepted / answered.counts.drafts
    expected = sum(accept ** (i + 1) for i in range(4))
    assert first == pytest.approx(expected, abs=0.45)


def test_blocks_from_the_prefix_cache_are_computed_once_by_both(make_line, simulated):
    """A later request with the same beginning: the draft model, too, finds its keys and values in the blocks."""
    line = make_line(simulated(), method=Method.DRAFT, draft=simulated(), most=4)
    rows = []
    runner = line.speculator._model.runner
    launch = runner.launch
    runner.launch = lambda batch: rows.append(batch.num_tokens) or launch(batch)
    prompt = list(range(100))
    params = SamplingParams(max_tokens=8, temperature=0)
    first = line.answers([(prompt, params)])
    computed = sum(rows)
    rows.clear()
    second = line.answers([(prompt, params)])
    assert first.tokens == second.tokens == plain([(prompt, params)])
    assert computed >= 100
    assert sum(rows) < 20
    assert second.counts.accepted == second.counts.drafted


def test_preempted_requests_are_computed_anew_by_the_draft_model(make_line, simulated):
    made = jobs(8, max_tokens=60)
    line = make_line(simulated(), method=Method.DRAFT, draft=simulated(), most=6, blocks=32)
    answered = line.answers(made)
    assert sum(r.preemptions for r in answered.requests) > 0
    assert answered.tokens == plain(made)
    assert answered.counts.accepted > 0.9 * answered.counts.drafted


def test_a_long_prompt_is_caught_up_with_in_parts(make_line, simulated):
    params = SamplingParams(max_tokens=40, temperature=0)
    made = [(list(range(200)) * 4, params), (list(range(50)), params)]
    answered = make_line(simulated(), method=Method.DRAFT, draft=simulated(), most=4).answers(made)
    assert answered.tokens == plain(made)
    assert answered.counts.accepted == answered.counts.drafted > 40


def test_nothing_is_guessed_after_an_end(make_line, simulated):
    model = simulated(eos_every=6)
    made = jobs(8, max_tokens=60, min_tokens=7)
    ends = frozenset(sim.ENDS)
    off = make_line(model).answers(made, eos=ends)
    answered = make_line(model, method=Method.DRAFT, draft=simulated(eos_every=6), most=8).answers(made, eos=ends)
    assert answered.tokens == off.tokens
    assert all(len(tokens) > 7 for tokens in answered.tokens)
    assert answered.counts.accepted == answered.counts.drafted


def test_ids_of_one_model_alone_are_not_guessed_from(make_line, simulated):
    """Embeddings are padded differently: what only the model knows stops the draft model, and nothing else."""
    params = SamplingParams(max_tokens=12, temperature=0)
    made = [([*range(30), 400, 5, 6], params), (list(range(30)), params)]
    line = make_line(simulated(vocab=500), method=Method.DRAFT, draft=simulated())
    answered = line.answers(made)
    assert answered.tokens == plain(made)
    assert answered.counts.drafted > 0
    assert answered.counts.drafts <= 6  # only the second one's


def test_a_draft_model_that_fails_is_left_out(make_line, simulated, caplog):
    class Failing:
        calls = 0

        def __init__(self, real):
            self.real = real

        def launch(self, batch):
            Failing.calls += 1
            if Failing.calls > 3:
                raise RuntimeError("no more")
            return self.real.launch(batch)

    line = make_line(simulated(), method=Method.DRAFT, draft=simulated(), most=3)
    line.speculator._model.runner = Failing(line.speculator._model.runner)
    made = jobs()
    assert line.answers(made).tokens == plain(made)
    assert Failing.calls == 4
    assert "goes on without it" in caplog.text


def test_a_request_that_the_draft_model_cannot_compute_goes_on_alone(make_line, simulated):
    class Faulty:
        def __init__(self, real):
            self.real = real

        def launch(self, batch):
            outputs = self.real.launch(batch).result()
            bad = [s.request_id == "r1" for s in batch.slices]
            return Finished([StepOutput(error="nan") if b else o for b, o in zip(bad, outputs, strict=True)])

    line = make_line(simulated(), method=Method.DRAFT, draft=simulated(), most=3)
    line.speculator._model.runner = Faulty(line.speculator._model.runner)
    made = jobs(3)
    answered = line.answers(made)
    assert answered.tokens == plain(made)
    assert answered.counts.accepted == answered.counts.drafted > 0


def test_a_context_that_is_too_short_ends_the_drafts(make_line, simulated):
    made = [(list(range(90)), SamplingParams(max_tokens=30, temperature=0))]
    answered = make_line(simulated(), method=Method.DRAFT, draft=simulated(max_model_len=110), most=3).answers(made)
    assert answered.tokens == plain(made)
    assert 0 < answered.counts.drafts < 4


@pytest.mark.parametrize(("window", "helps"), [(40, True), (0, False), (64, False)])
def test_blocks_that_the_models_window_has_passed_are_gone_for_the_draft_model_too(make_line, simulated, window, helps):
    """It goes on where its own window is no larger, and else stops."""
    made = [(list(range(30)), SamplingParams(max_tokens=150, temperature=0))]
    line = make_line(simulated(window=40), method=Method.DRAFT, draft=simulated(window=window), most=3)
    for _ in range(2):
        answered = line.answers(made)
        assert answered.tokens == plain(made)
        assert answered.counts.accepted == answered.counts.drafted
        assert (answered.counts.accepted > 100) is helps


def test_a_draft_model_that_is_always_wrong_hardly_runs_and_never_catches_up_with_most_prompts(make_line, simulated):
    """Counted over the worker, not over each request: one after the other, long prompts, short answers."""
    line = make_line(simulated(), method=Method.DRAFT, draft=simulated(accept=0.0, decode_ms=1), policy=None)
    forwards, rows = [], []
    runner = line.speculator._model.runner
    launch = runner.launch
    runner.launch = lambda batch: forwards.append(1) or rows.append(batch.num_tokens) or launch(batch)
    params = SamplingParams(max_tokens=100, temperature=0)
    steps = 0
    for i in range(40):
        made = [([i, *range(150)], params)]
        answered = line.answers(made)
        assert answered.tokens == plain(made)
        steps += answered.steps
    assert steps == 4000
    assert 0 < len(forwards) <= steps / 100
    assert sum(rows) < 40 * 150 / 2


def test_what_a_row_takes_is_measured_before_there_is_a_request(make_line, simulated):
    line = make_line(simulated(decode_ms=20), method=Method.DRAFT, draft=simulated(decode_ms=2), policy=None)
    model = line.speculator._model
    assert model.share is None
    model.measure(line.runner)
    assert 0 < model.share < 1
    made = jobs(2)
    assert line.answers(made).tokens == plain(made)


def test_a_draft_model_that_fails_when_it_is_measured_is_told_of(make_line, simulated, caplog):
    line = make_line(simulated(), method=Method.DRAFT, draft=simulated())
    model = line.speculator._model
    model.runner = type("Broken", (), {"launch": lambda self, batch: 1 / 0})()
    model.measure(line.runner)
    assert model.share is None
    assert "failed when it was tried" in caplog.text
    made = jobs()
    assert line.answers(made).tokens == plain(made)


def test_other_vocabularies_are_refused_with_a_token(simulated):
    facts = simulated().facts
    check_vocabulary(facts, simulated(vocab=300).facts)
    other = facts.tokenizer_json.replace(b"<|im_end|>", b"<|the_end|>")
    parse_tokenizer(other)
    changed = replace(facts, tokenizer_json=other)
    with pytest.raises(
        ModelUnsupportedError, match=r"engine.speculative.model: .* 2 tokens differ; '<\|im_end\|>' has"
    ):
        check_vocabulary(facts, changed)
