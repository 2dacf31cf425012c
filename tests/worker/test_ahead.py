"""Steps that are launched while one is out: answers, events and accounts are those of one step after the other."""

from dataclasses import replace
from itertools import pairwise

import pytest
from computes_beside import Beside
from hypothesis import given, settings
from hypothesis import strategies as st
from lives import GREEDY, Asked, Life
from proposing import Everything, Proposing

from argosy_api.errors import InternalError
from argosy_api.params import SamplingParams
from argosy_api.step_trace import parse
from argosy_worker import sim
from argosy_worker.core.ahead import can_run_ahead, needs_last_token
from argosy_worker.core.batch import RunnerBrokenError, StepOutput
from argosy_worker.core.drafts import Harmless
from argosy_worker.core.request import Finish, Request
from argosy_worker.engine.trace import StepTrace
from argosy_worker.speculation.config import SpeculationConfig
from argosy_worker.speculation.speculator import Speculator

EOS = (sim.IM_END,)
STEM = [(7 * i) % 251 for i in range(120)]


def simulated(**life):
    """A simulated runner as the engine's configuration wants it."""
    spec = sim.SimSpec(decode_ms=0, prefill_tps=0, check=1, eos_every=life.pop("eos_every", 0))
    return sim.SimRunner(spec, life.get("num_blocks", 64), life.get("block_size", 4), life.get("host_blocks", 0))


def beside(asked, *, faults=None, **life):
    runner = Beside(simulated(**life))
    life.pop("eos_every", None)
    if faults is not None:
        faults(runner)
    try:
        lived = Life(runner, eos=EOS, **life)
        return lived.run(asked), runner, lived
    finally:
        runner.close()


def one_by_one(asked, **life):
    runner = simulated(**life)
    life.pop("eos_every", None)
    return Life(runner, eos=EOS, **life).run([replace(one, aborted=None) for one in asked])


class Alternating:
    """A grammar: odd tokens follow even ones. It must be told the last token."""

    problem = ""

    def allowed(self, text, begin, upto, ahead):
        last = [*text[begin:upto], *ahead][-1:] or [0]
        assert last[0] >= 0, "a placeholder"
        return bytes([0x55 if last[0] % 2 else 0xAA] * 16)


PARAMS = st.fixed_dictionaries(
    {"max_tokens": st.integers(1, 30), "temperature": st.sampled_from([0.0, 1.0]), "seed": st.integers(0, 9)},
    optional={
        "min_tokens": st.just(1),
        "stop": st.lists(st.text("abcdefghijkl", min_size=1, max_size=2), max_size=3).map(tuple),
        "stop_token_ids": st.lists(st.integers(32, 126), max_size=6).map(tuple),
        "ignore_eos": st.booleans(),
        "logprobs": st.integers(0, 3),
        "prompt_logprobs": st.integers(0, 2),
        "logit_bias": st.just(((40, 1.0),)),
        "bad_words_ids": st.sampled_from([((65,),), ((65,), (66, 67))]),
        "typical_p": st.just(0.5),
        "frequency_penalty": st.just(0.5),
        "repetition_penalty": st.just(1.1),
    },
).map(lambda fields: SamplingParams(**fields))
SIMPLE = st.builds(SamplingParams, max_tokens=st.integers(1, 30), temperature=st.sampled_from([0.0, 1.0]), seed=st.integers(0, 9))  # fmt: skip
ASKED = st.builds(
    Asked,
    prompt=st.integers(1, 60).flatmap(lambda n: st.sampled_from([STEM[:n], STEM[60 : 60 + n], STEM[:5] + STEM[:n]])),
    params=st.one_of(SIMPLE, SIMPLE, PARAMS),
    comes=st.integers(0, 12),
    aborted=st.one_of(st.none(), st.none(), st.integers(1, 30)),
    grammar=st.one_of(st.none(), st.none(), st.none(), st.builds(Alternating)),
    priority=st.integers(-2, 2),
)
LIVES = st.fixed_dictionaries(
    {
        "num_blocks": st.integers(24, 64),
        "host_blocks": st.sampled_from([0, 8, 100]),
        "max_batch_tokens": st.sampled_from([4, 16, 64]),
        "max_running": st.integers(1, 8),
        "eos_every": st.sampled_from([0, 9]),
    }
)


@given(st.lists(ASKED, min_size=1, max_size=8), LIVES, st.sampled_from(["none", "looked up", "proposed"]))
@settings(max_examples=60, deadline=None)
def test_answers_are_those_of_one_step_after_the_other(asked, life, drafts):
    expected = one_by_one(asked, **life)
    drafter = {
        "none": lambda: None,
        "looked up": lambda: Harmless(Speculator(SpeculationConfig(), policy=Everything())),
        "proposed": lambda: Harmless(Proposing(lambda request, most: [40] * (len(request.tokens) % 3))),
    }[drafts]()
    found, runner, _ = beside(asked, drafter=drafter, **life)
    assert runner.most_out <= 2
    for one, answer, plain in zip(asked, found, expected, strict=True):
        if answer.piece.finish is Finish.ABORT:
            assert one.aborted is not None
            assert answer.tokens == plain.tokens[: len(answer.tokens)]
        else:
            assert answer.whole == plain.whole


def test_each_step_is_launched_while_the_one_before_is_out():
    """Also where requests come and end at different times; all that waits is who comes into an idle engine."""
    asked = [Asked(STEM[: 9 + i], replace(GREEDY, max_tokens=10 + 3 * i), comes=2 * i) for i in range(5)]
    found, runner, life = beside(asked)
    assert [one.whole for one in found] == [one.whole for one in one_by_one(asked)]
    assert runner.ahead >= life.turns - 3
    assert runner.placeholders > 30


def test_steps_follow_each_other_in_the_trace():
    trace = StepTrace()
    _, runner, _ = beside([Asked(STEM[:9]), Asked(STEM[:20], comes=3)], trace=trace)
    steps = parse(trace.lines())
    assert len(steps) >= 20
    assert runner.ahead > 15
    assert all(a.began + a.seconds <= b.began + 1e-6 for a, b in pairwise(steps))
    assert min(min(step.schedule_s, step.launch_s, step.update_s) for step in steps) >= 0


def test_a_runner_that_computes_at_once_is_given_one_step_after_the_other():
    runner = Beside(simulated())
    runner.asynchronous = False
    found = Life(runner, eos=EOS).run([Asked(STEM[:9])])
    runner.close()
    assert found[0].tokens == sim.oracle(STEM[:9], 20, GREEDY)
    assert (runner.ahead, runner.placeholders) == (0, 0)


@pytest.mark.parametrize("what", ["stop string", "stop token", "length"])
def test_the_row_of_who_has_ended_says_nothing_and_its_blocks_serve_others(what):
    """The step that is out still writes to them; all blocks are needed, so the next one gets them at once."""
    answer = sim.oracle(STEM[:15], 20, GREEDY)
    params = {
        "stop string": replace(GREEDY, stop=(bytes(answer[4:6]).decode(),)),
        "stop token": replace(GREEDY, stop_token_ids=(answer[5],)),
        "length": replace(GREEDY, max_tokens=6),
    }[what]
    asked = [Asked(STEM[:15], params), *(Asked(STEM[i : i + 15], GREEDY) for i in range(1, 9))]
    life = {"num_blocks": 18, "max_running": 4}
    found, runner, _ = beside(asked, **life)
    assert [one.whole for one in found] == [one.whole for one in one_by_one(asked, **life)]
    assert len(found[0].tokens) <= 6
    assert runner.ahead > 20


# --- faults


def fails(name, at, *, launch=False, error=None):
    """A rule for `Beside`: rows of this request from a position on raise, or their output has an error."""

    def install(runner):
        def fault(batch):
            if any(s.request_id == name and s.start + len(s.tokens) > at for s in batch.slices):
                raise ValueError("a kernel failed")

        if error is not None:
            launch_real = runner.real.launch
            runner.real.launch = lambda batch: _Told(
                [
                    StepOutput(error=error) if s.request_id == name and s.start + len(s.tokens) > at else output
                    for s, output in zip(batch.slices, launch_real(batch).result(), strict=True)
                ]
            )
        elif launch:
            runner.at_launch = fault
        else:
            runner.fault = fault

    return install


class _Told:
    def __init__(self, outputs):
        self.outputs = outputs

    def result(self):
        return self.outputs


@pytest.mark.parametrize("how", [{}, {"launch": True}, {"error": "no number"}])
@given(st.integers(0, 7), st.integers(0, 40))
@settings(max_examples=25, deadline=None)
def test_a_fault_of_a_step_that_is_out_ends_one_request_alone(how, bad, at):
    asked = [Asked(STEM[i : i + 12 + i], replace(GREEDY, logprobs=1), comes=i % 3) for i in range(8)]
    expected = one_by_one(asked)
    found, _, _ = beside(asked, faults=fails(str(bad), at, **how))
    for number, (answer, plain) in enumerate(zip(found, expected, strict=True)):
        if number == bad and at <= len(asked[bad].prompt) + 18:
            assert isinstance(answer.error, InternalError)
            assert answer.tokens == plain.tokens[: len(answer.tokens)]
            assert len(answer.tokens) == max(0, at - len(asked[bad].prompt) + 1)
        else:
            assert answer.whole == plain.whole


@given(st.sets(st.integers(0, 4).map(lambda n: 15 * n + n * n), min_size=1), st.booleans(), st.sampled_from([0, 100]))
@settings(max_examples=25, deadline=None)
def test_faults_that_do_not_come_again_cost_nobody_anything(when, at_launch, host):
    asked = [Asked(STEM[i : i + 20], replace(GREEDY, temperature=1.0, seed=i), comes=i, aborted=9 if i == 3 else None) for i in range(6)]  # fmt: skip
    life = {"num_blocks": 30, "host_blocks": host}
    steps = iter(range(10_000))

    def faults(runner):
        def fault(batch):
            if batch.slices and next(steps) in when:
                raise ValueError("once")

        if at_launch:
            runner.at_launch = fault
        else:
            runner.fault = fault

    found, _, _ = beside(asked, faults=faults, **life)
    for answer, plain in zip(found, one_by_one(asked, **life), strict=True):
        if answer.piece.finish is Finish.ABORT:
            assert answer.tokens == plain.tokens[: len(answer.tokens)]
        else:
            assert answer.whole == plain.whole


@pytest.mark.parametrize("comes", range(6, 14))
def test_a_runner_is_tried_out_while_a_step_is_out_and_that_step_is_none_the_worse(comes):
    """Of a whole step nothing came; the next one, with somebody else in it, is out."""
    tried = []

    def faults(runner):
        fails("0", 18, error="no number")(runner)
        runner.at_launch = lambda batch: tried.extend(s for s in batch.slices if not s.request_id)

    asked = [Asked(STEM[:9]), Asked(STEM[30:35], comes=comes)]
    found, _, _ = beside(asked, faults=faults)
    assert isinstance(found[0].error, InternalError)
    assert found[1].tokens == sim.oracle(STEM[30:35], 20, GREEDY)
    assert len(tried) == (comes >= 10)


@pytest.mark.parametrize("how", ["raises", "raises at launch", "no numbers"])
def test_a_runner_whose_every_step_fails_ends_the_engine(how):
    def faults(runner):
        def fault(batch):
            raise ValueError("the device is lost")

        if how == "no numbers":
            runner.real.launch = lambda batch: _Told([StepOutput(error="no number") for _ in batch.slices])
        elif how == "raises":
            runner.fault = fault
        else:
            runner.at_launch = fault

    with pytest.raises(RunnerBrokenError):
        beside([Asked(STEM[:9]), Asked(STEM[:15])], faults=faults)


# --- copies of blocks


def test_blocks_are_copied_while_no_step_is_out():
    runner = Beside(simulated())
    life = Life(runner, eos=EOS)
    out = []
    for i in range(3):
        life.begin(str(i), Asked(STEM[i : i + 9]))
    for turn in range(1000):
        if turn % 5 == 0:
            life.thread.copy(lambda: out.append(runner.out))
        life.thread.ask(lambda: None)
        life.turn()
        if not life.thread._replies:
            break
    runner.close()
    assert len(out) > 3
    assert set(out) == {0}
    assert runner.ahead > 10
    assert [life.answers[str(i)].tokens for i in range(3)] == [
        sim.oracle(STEM[i : i + 9], 20, GREEDY) for i in range(3)
    ]


# --- the decision


def request(params=GREEDY, *, awaited=True, blocks=10, grammar=None):
    made = Request(
        request_id="r", prompt=STEM[:9], params=params, root=b"r", block_size=4, arrival=0.0, max_model_len=100,
        grammar=grammar,
    )  # fmt: skip
    made.begin((), tuple(range(1, blocks + 1)))
    made.next_slice(9 if awaited else 8)
    return made


def decide(*requests, blocks=0, drafts=False, copies=False):
    return can_run_ahead(requests, blocks=blocks, drafts=lambda: drafts, copies=copies)


@pytest.mark.parametrize(
    ("params", "reason"),
    [
        ({}, ""),
        ({"temperature": 1.0, "top_p": 0.9, "top_k": 5, "min_p": 0.1, "seed": 3, "min_tokens": 5}, ""),
        ({"bad_words_ids": ((5,),), "logit_bias": ((4, 1.0),), "allowed_token_ids": (4, 5)}, ""),
        ({"bad_words_ids": ((5, 6),)}, "bad_words_ids"),
        ({"presence_penalty": 0.1}, "penalties"),
        ({"repetition_penalty": 1.1}, "penalties"),
        ({"typical_p": 0.5}, "typical_p"),
    ],
)
def test_which_parameters_need_the_last_token(params, reason):
    found = needs_last_token(request(replace(GREEDY, **params)))
    assert reason in found
    assert bool(reason) == bool(found)
    verdict = decide(request(), request(replace(GREEDY, **params)))
    assert verdict == (not reason, found)
    assert decide(request(replace(GREEDY, **params), awaited=False)).ok, "its prompt is known"
    assert decide(request(replace(GREEDY, **params, max_tokens=max(1, params.get("min_tokens", 1))))).ok == (
        not reason or params.get("min_tokens", 1) == 1
    ), "nothing follows the last of its tokens"


def test_when_waiting_is_worth_more_than_what_the_device_would_idle():
    assert decide(request(), request()).ok
    assert decide().ok
    assert "grammar" in decide(request(), request(grammar=Alternating())).reason
    assert "draft" in decide(request(), drafts=True).reason
    assert "copied" in decide(request(), copies=True).reason
    short = request(blocks=2)
    assert "blocks are short" in decide(short, blocks=0).reason
    assert decide(short, blocks=1).ok
    drafted = request(awaited=False)
    drafted.next_slice(1, [1, 2])
    assert "a draft is out" in decide(drafted).reason


def test_a_drafter_is_asked_whether_something_may_follow_the_awaited_token():
    speculator = Speculator(SpeculationConfig(), policy=Everything())
    nothing, repeating = request(), request()
    repeating.tokens[:] = [1, 2, 3, 4, 5, 1, 2, 3]
    assert not speculator.hopes([])
    assert not speculator.hopes([nothing])
    assert speculator.hopes([nothing, repeating])
    assert not Harmless(Proposing(lambda request, most: 1 // 0)).hopes([nothing]), "a fault costs drafts alone"


def test_positions_of_an_answer_are_computed_once_where_nothing_fails():
    """No row is computed twice, and none is left out: who ends has one row too many at most."""
    seen = []

    def faults(runner):
        runner.at_launch = lambda batch: seen.extend(
            (s.request_id, s.start + i) for s in batch.slices for i in range(len(s.tokens))
        )

    asked = [
        Asked(STEM[:9], replace(GREEDY, stop_token_ids=(sim.oracle(STEM[:9], 20, GREEDY)[7],))),
        Asked(STEM[30:40]),
    ]
    found, _, _ = beside(asked, faults=faults)
    for number, answer in enumerate(found):
        rows = [position for name, position in seen if name == str(number)]
        assert all(b == a + 1 for a, b in pairwise(rows))
        needed = len(asked[number].prompt) + len(answer.tokens) - 1
        assert needed <= len(rows) <= needed + 1
