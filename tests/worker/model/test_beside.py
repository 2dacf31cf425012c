"""Steps on torch that are computed beside the host: the answers of one step after the other, and nobody waits.

On a CPU torch computes at once; what is launched, what takes whose tokens on the device, and what is asked for when are
the same as on a GPU.
"""

from contextlib import ExitStack
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import tiny_llama
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lives import Asked, Life
from proposing import Proposing
from torch.utils._python_dispatch import TorchDispatchMode

from argosy_api.errors import InternalError
from argosy_api.params import SamplingParams
from argosy_worker.compute import beside
from argosy_worker.compute.last_tokens import LastTokens
from argosy_worker.compute.torch_runner import TorchRunner
from argosy_worker.core.batch import PLACEHOLDER, SequenceSlice, StepBatch, accepted
from argosy_worker.core.drafts import Harmless
from argosy_worker.core.request import Request
from argosy_worker.models.build import assemble, open_model
from argosy_worker.models.torch_build import KERNELS
from argosy_worker.sampling import together, verified
from argosy_worker.sampling.rows import Row
from argosy_worker.sampling.sampler import CUDA, TORCH
from argosy_worker.speculation import draft_model
from argosy_worker.speculation.cost import StepCost

GREEDY = SamplingParams(temperature=0, max_tokens=12)
BLOCKS = 24


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    tiny_llama.write(folder)
    with ExitStack() as files:
        return assemble(
            open_model(folder, files), weights="none", compute="fp32", device="cpu", threads=1, kernels=KERNELS
        )


def runner_of(model, *, asynchronous, sampler=CUDA, num_blocks=BLOCKS):
    attention = model.make_attention(num_blocks, 16)
    return TorchRunner(model.decoder, attention, threads=1, sampler=sampler, asynchronous=asynchronous)


def piece(name, tokens, start, table, params=GREEDY, **fields):
    fields.setdefault("sample_rows", range(len(tokens) - 1, len(tokens)))
    return SequenceSlice(request_id=name, tokens=tokens, start=start, table=table, params=params, **fields)


# --- whose tokens placeholders stand for

STEPS = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2), st.booleans()), min_size=1, max_size=9)


@given(STEPS, st.randoms())
def test_placeholders_stand_for_the_last_tokens_of_their_requests(step, random):
    """`step`: of each request how many rows are sampled, how many tokens the next slice has, and if it has a draft."""
    last, tokens, kept = LastTokens(torch.device("cpu")), [], {}
    slices = []
    for i, (sampled, _, drafted) in enumerate(step):
        slices.append(piece(str(i), [1] * 4, 0, [1], sample_rows=range(4 - sampled, 4), draft=int(drafted)))
        own = [random.randrange(96) for _ in range(sampled)]
        tokens += own
        if own and not drafted:
            kept[str(i)] = own[-1]
    last.note(slices, torch.tensor(tokens, dtype=torch.int64))
    following = [i for i in range(len(step)) if str(i) in kept]
    random.shuffle(following)
    if not following:
        return
    more = [piece(str(i), [PLACEHOLDER, *range(step[i][1])], 4, [1]) for i in following]
    known = piece("new", [7, 8, 9], 0, [1])
    expected = [t for i in following for t in (kept[str(i)], *range(step[i][1]))]
    assert last.filled([*more, known]).tolist() == [*expected, 7, 8, 9]
    last.correct([str(following[0])], torch.tensor([95]))
    assert last.filled([more[0]]).tolist()[0] == 95
    last.note_known({"a": 5, "b": 6})
    assert last.filled([piece("b", [PLACEHOLDER], 4, [1]), piece("a", [PLACEHOLDER], 4, [1])]).tolist() == [6, 5]


def test_a_placeholder_of_nobody_is_refused():
    last = LastTokens(torch.device("cpu"))
    last.note([piece("a", [1, 2], 0, [1], sample_rows=range(2), draft=1)], torch.tensor([3, 4]))
    for name in ("a", "b"):
        with pytest.raises(ValueError, match=f"tokens: .*'{name}'"):
            last.filled([piece(name, [PLACEHOLDER], 2, [1])])


# --- answers

PARAMS = st.builds(
    SamplingParams,
    max_tokens=st.integers(1, 12),
    temperature=st.sampled_from((0.0, 0.5, 2.0)),
    seed=st.integers(0, 9),
    top_p=st.sampled_from((1.0, 0.9)),
    top_k=st.sampled_from((0, 5)),
    min_p=st.sampled_from((0.0, 0.01)),
    typical_p=st.sampled_from((1.0, 1.0, 1.0, 0.7)),
    logprobs=st.sampled_from((None, 0, 3)),
    prompt_logprobs=st.sampled_from((None, None, None, 2)),
    min_tokens=st.sampled_from((0, 1)),
    stop_token_ids=st.sampled_from(((), (5, 17, 60), tuple(range(3, 90, 7)))),
    frequency_penalty=st.sampled_from((0.0, 0.0, 0.0, 0.5)),
)
ASKED = st.builds(
    Asked,
    prompt=st.integers(1, 40).flatmap(
        lambda n: st.sampled_from([tiny_llama.PROMPT[:n], tiny_llama.PROMPT[50 : 50 + n]])
    ),
    params=PARAMS,
    comes=st.integers(0, 6),
)


def lived(runner, asked, **life):
    return Life(runner, num_blocks=BLOCKS, block_size=16, eos=(2,), **life).run(asked)


@pytest.mark.parametrize("candidates", [together.CANDIDATES, 4])
@given(asked=st.lists(ASKED, min_size=1, max_size=6), tokens=st.sampled_from((8, 64)))
@settings(max_examples=15, deadline=None)
def test_answers_are_those_of_one_step_after_the_other(model, candidates, asked, tokens):
    """With few candidates the device is often not sure of a token, and what follows it is computed again."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(together, "CANDIDATES", candidates)
        found = lived(runner_of(model, asynchronous=True), asked, max_batch_tokens=tokens)
    expected = lived(runner_of(model, asynchronous=False, sampler=TORCH), asked, max_batch_tokens=tokens)
    assert [one.whole for one in found] == [one.whole for one in expected]


@pytest.mark.parametrize("candidates", [2, 16])
def test_what_follows_a_token_that_was_not_the_right_one_is_computed_again(model, candidates, monkeypatch):
    """Some dozen times, nearly always or now and then, with others beside it whose tokens are sure."""
    monkeypatch.setattr(together, "CANDIDATES", candidates)
    again, correct = [], beside.Out.correct
    monkeypatch.setattr(beside.Out, "correct", lambda self, tokens: (again.append(tokens), correct(self, tokens)))
    unsure = SamplingParams(temperature=2.0, top_p=0.95, max_tokens=40, logprobs=2)
    asked = [
        Asked(
            tiny_llama.PROMPT[3 * i : 3 * i + 7], replace(unsure, seed=i) if i % 2 else replace(GREEDY, max_tokens=40)
        )
        for i in range(5)
    ]
    found = lived(runner_of(model, asynchronous=True), asked)
    assert len(again) > 10
    expected = lived(runner_of(model, asynchronous=False, sampler=TORCH), asked)
    assert [one.whole for one in found] == [one.whole for one in expected]


@given(st.lists(PARAMS, min_size=1, max_size=6), st.sampled_from((3, 96, 2000)))
@settings(deadline=None)
def test_of_which_tokens_the_device_is_sure_is_known_beforehand(params, vocab):
    logits = torch.randn(len(params), vocab, generator=torch.Generator().manual_seed(1))
    rows = [Row(params=one, seed=i, position=i) for i, one in enumerate(params)]
    done = together.begin(logits, rows).done.tolist()
    assert all(mark for mark, one in zip(done, params, strict=True) if together.surely(one, vocab))


def test_a_value_that_is_no_number_ends_its_request_alone(model):
    """The step behind it has computed with it by then."""
    asked = [Asked(tiny_llama.PROMPT[i : i + 9], GREEDY) for i in range(3)]
    expected = lived(runner_of(model, asynchronous=True), asked)
    runner = runner_of(model, asynchronous=True)
    compute = runner._steps.compute

    def spoiled(slices):
        computed = compute(slices)
        owners = [s for s in slices for _ in s.sample_rows]
        for i, s in enumerate(owners):
            if s.request_id == "1" and s.start > 12:
                computed.logits[i] = torch.nan
        return computed

    runner._steps.compute = spoiled
    found = lived(runner, asked)
    assert isinstance(found[1].error, InternalError)
    assert found[1].tokens == expected[1].tokens[: len(found[1].tokens)]
    assert [found[i].whole for i in (0, 2)] == [expected[i].whole for i in (0, 2)]


# --- drafts


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 5)), min_size=1, max_size=6), st.randoms())
@settings(deadline=None)
def test_the_device_counts_the_right_tokens_of_drafts_by_the_rule_of_the_host(step, random):
    """`step`: of each slice how many tokens were drafted, and after how many of its rows nothing is left to draw."""
    slices, rows, tokens, expected = [], [], [], []
    for i, (draft, stuck) in enumerate(step):
        own = [random.randrange(2) for _ in range(draft + 1)]
        slices.append(piece(str(i), [9, *own[1:]], 3, [1], sample_rows=range(draft + 1), draft=draft))
        drawn = [random.randrange(2) for _ in own]
        rows += [Row(params=GREEDY, seed=0, position=n, open=STUCK if n >= stuck else None) for n in range(draft + 1)]
        tokens += drawn
        if draft:
            most = min(stuck, draft + 1)
            expected.append(max(0, accepted(own[1:][: max(0, most - 1)], drawn[: max(1, most)]) - 1))
    guesses = verified.guesses(slices, rows)
    if not expected:
        assert guesses is None
        return
    assert verified.right(torch.tensor(tokens), torch.from_numpy(guesses)).tolist() == expected


STUCK = np.zeros(12, dtype=np.uint8)


class Parity:
    """A grammar: odd tokens follow even ones; `left` tokens at most, and then nothing is left to draw."""

    problem = ""

    def __init__(self, left):
        self.left = left

    def allowed(self, text, begin, upto, ahead):
        answer = [*text[begin:upto], *ahead]
        assert min(answer, default=0) >= 0, "a placeholder"
        if any((a + b) % 2 == 0 for a, b in pairwise(answer[max(0, len(answer) - len(ahead) - 1) :])):
            return None
        if len(answer) >= self.left:
            return b""
        return bytes([0x55 if (answer or [1])[-1] % 2 else 0xAA] * 12)


GUESSED = st.builds(
    replace,
    ASKED,
    params=st.builds(
        replace,
        PARAMS,
        max_tokens=st.integers(6, 24),
        repetition_penalty=st.sampled_from((1.0, 1.0, 1.2)),
        bad_words_ids=st.sampled_from(((), ((7,), (5, 6)))),
        stop=st.sampled_from(((), ("a", "q"), ("k",))),
        ignore_eos=st.booleans(),
    ),
    grammar=st.one_of(st.none(), st.none(), st.builds(Parity, st.integers(1, 24))),
)


def proposing(expected, *, right):
    """Guesses answers, mostly beyond their end, and is wrong with each `right`th token."""

    def propose(request, most):
        answer, known = expected[int(request.request_id)].tokens, request.generated
        own = [token if (known + i) % right else 95 - token for i, token in enumerate(answer[known:])]
        return [*own, 4, 5, 6][: min(most, 1 + known % 6)]

    return Harmless(Proposing(propose))


@pytest.mark.parametrize("candidates", [together.CANDIDATES, 4])
@given(asked=st.lists(GUESSED, min_size=1, max_size=5), tokens=st.sampled_from((8, 64)), right=st.sampled_from((2, 7)))
@settings(max_examples=20, deadline=None)
def test_answers_with_drafts_are_those_without(model, candidates, asked, tokens, right):
    """Also where a token that the device was not sure of stands in a draft's row: then the host says what counts."""
    expected = lived(runner_of(model, asynchronous=False, sampler=TORCH), asked, max_batch_tokens=tokens)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(together, "CANDIDATES", candidates)
        drafter = proposing(expected, right=right)
        found = lived(runner_of(model, asynchronous=True), asked, max_batch_tokens=tokens, drafter=drafter)
    assert [one.whole for one in found] == [one.whole for one in expected]


def test_the_host_takes_what_the_device_has_counted(model, monkeypatch):
    """Of a draft that is right, two tokens count where the device says one is right."""
    slices = [piece("a", tiny_llama.PROMPT[:5], 0, [1])]
    alone = runner_of(model, asynchronous=False)
    known = [*tiny_llama.PROMPT[:5]]
    for start in range(5, 9):
        [output] = alone.launch(StepBatch(slices)).result()
        known += output.tokens
        slices = [piece("a", known[-1:], start, [1])]
    drafted = piece("a", known[:8], 0, [1], sample_rows=range(4, 8), draft=3)
    [output] = runner_of(model, asynchronous=True).launch(StepBatch([drafted])).result()
    assert output.tokens[:3] == known[5:8]
    assert len(output.tokens) == 4
    monkeypatch.setattr(verified, "right", lambda tokens, guessed: torch.ones(1, dtype=torch.int64))
    [output] = runner_of(model, asynchronous=True).launch(StepBatch([drafted])).result()
    assert output.tokens == known[5:7]


def test_a_draft_model_on_a_device_guesses_what_it_guesses_one_by_one(model, monkeypatch):
    """Its tokens are the next one's input on the device; with tokens that a device is sure of only by `SURE`, too."""
    assert draft_model.SURE <= together.CANDIDATES
    monkeypatch.setattr(together, "CANDIDATES", 4)
    monkeypatch.setattr(draft_model, "SURE", 4)
    ways = (GREEDY, SamplingParams(temperature=1.0, seed=1, top_p=0.9, top_k=4), SamplingParams(seed=2, min_tokens=9))
    found = []
    for asynchronous in (False, True):
        runner = runner_of(model, asynchronous=asynchronous)
        guesses = draft_model.DraftModel(
            runner, facts=model.facts, target=model.facts, num_blocks=BLOCKS, block_size=16
        )
        requests = []
        for i, params in enumerate(ways):
            prompt = tiny_llama.PROMPT[9 * i : 9 * i + 11 + i]
            made = Request(
                request_id=str(i), prompt=prompt, params=replace(params, max_tokens=30), root=b"r", block_size=16,
                arrival=0.0, max_model_len=64, eos_token_ids=frozenset({2}),
            )  # fmt: skip
            made.begin((), (2 * i + 1, 2 * i + 2))
            requests.append(made)
        drafts, _ = guesses.draft(requests, [6, 5, 6], StepCost())
        for made, draft in zip(requests, drafts, strict=True):  # half of each is right
            made.accept([*draft[:3], 7])
        found.append((drafts, guesses.draft(requests, [4, 6, 6], StepCost())[0]))
    assert found[0] == found[1]
    assert all(drafts for step in found[0] for drafts in step)


# --- nobody waits


class Waits(TorchDispatchMode):
    """Refuses what makes the host wait for a device: numbers that are read, and sizes that depend on them."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if name in ("_local_scalar_dense", "nonzero", "item", "masked_select", "unique", "equal"):
            raise AssertionError(f"{name} waits for the device")
        return func(*args, **(kwargs or {}))


WAYS = (
    GREEDY,
    SamplingParams(temperature=1.0, seed=1, logprobs=3),
    SamplingParams(temperature=0.7, top_k=40, top_p=0.9, min_p=0.02, seed=2, min_tokens=3, stop_token_ids=(5,)),
    SamplingParams(temperature=0.7, top_p=0.95, seed=3, logprobs=0, logit_bias=((4, 1.0),)),
)


def two_steps(runner):
    """Prompts of four requests, and a step behind it with the tokens that they sample; beside a prompt, and drafts."""
    tables = [[1], [2], [3], [4]]
    first = [piece(str(i), tiny_llama.PROMPT[i : i + 3], 0, tables[i], WAYS[i]) for i in range(4)]
    second = [
        piece(str(i), [PLACEHOLDER], 3, tables[i], WAYS[i], barred=(5,), barred_rows=1 if i == 2 else 0)
        for i in range(4)
    ]
    long = piece("long", tiny_llama.PROMPT[:9], 0, [5], sample_rows=range(0))
    drafts = [
        piece(f"draft {i}", tiny_llama.PROMPT[: 4 + i], 0, [6 + i], WAYS[i], sample_rows=range(2, 4 + i), draft=1 + i)
        for i in range(4)
    ]
    return runner.launch(StepBatch(first)), runner.launch(StepBatch([*second, long, *drafts]))


def test_launches_wait_for_nothing(model):
    with Waits():
        pending = two_steps(runner_of(model, asynchronous=True))
    found = [out.result() for out in pending]
    assert [len(outputs) for outputs in found] == [4, 9]
    assert all(output.error is None for outputs in found for output in outputs)
    with pytest.raises(AssertionError, match="waits for the device"), Waits():
        two_steps(runner_of(model, asynchronous=False, sampler=TORCH))


class Nowhere:
    """A decoder and its attention on a device that has no numbers, so that whoever asks for one fails."""

    def __init__(self, model):
        self.config, self.device = model.config, torch.device("meta")
        self.weights = torch.empty(model.config.vocab_size, 8, device="meta")
        self.cache = self
        self.spec = type("Spec", (), {"block_size": 16})

    def move(self, moves):
        pass

    def prepare(self, layout):
        pass

    def hidden(self, tokens, positions, attention, adapted):
        return self.weights.index_select(0, tokens) + positions[:, None]

    def logits(self, hidden):
        return hidden @ self.weights.t()


def test_a_device_without_numbers_takes_any_number_of_steps(model):
    """No `.item()`, no `.tolist()`, no `.cpu()`, no `.numpy()`: all of them fail there."""
    nowhere = Nowhere(model)
    for read in (torch.Tensor.item, torch.Tensor.tolist, torch.Tensor.cpu, torch.Tensor.numpy, torch.Tensor.nonzero):
        with pytest.raises((RuntimeError, NotImplementedError, TypeError)):
            read(torch.empty(1, device="meta"))
    runner = TorchRunner(nowhere, nowhere, threads=1, sampler=CUDA, asynchronous=True)
    pending = [out for _ in range(3) for out in two_steps(runner)]
    with pytest.raises((RuntimeError, NotImplementedError)):
        pending[-1].result()
    with pytest.raises((RuntimeError, NotImplementedError)):
        two_steps(TorchRunner(nowhere, nowhere, threads=1, sampler=CUDA))


def test_rows_of_prompts_are_waited_for_and_others_are_not(model):
    rows = piece("a", [1, 2, 3], 0, [1], replace(GREEDY, prompt_logprobs=0), prompt_targets=[2, 3])
    assert beside.waits([rows])
    assert not beside.waits([piece("a", [1, 2, 3], 0, [1])])
    runner = runner_of(model, asynchronous=True)
    out = runner.launch(StepBatch([piece("b", [4, 5], 0, [2])]))
    [known, _] = runner.launch(StepBatch([rows, piece("b", [PLACEHOLDER], 2, [2])])).result()
    assert len(known.prompt_logprobs) == 2
    [first], [next_a, _] = (
        out.result(),
        runner.launch(StepBatch([piece("a", [PLACEHOLDER], 3, [1]), piece("b", [PLACEHOLDER], 3, [2])])).result(),
    )
    plain = runner_of(model, asynchronous=False)
    [alone] = plain.launch(StepBatch([piece("a", [1, 2, 3], 0, [1])])).result()
    assert known.tokens == alone.tokens
    assert next_a.tokens == plain.launch(StepBatch([piece("a", alone.tokens, 3, [1])])).result()[0].tokens
    assert first.tokens == plain.launch(StepBatch([piece("b", [4, 5], 0, [2])])).result()[0].tokens


def test_a_step_that_is_waited_for_has_no_token_that_is_not_sure(model, monkeypatch):
    unsure = [SamplingParams(temperature=2.0, top_p=0.95, seed=seed) for seed in range(8)]
    first = [piece(str(i), tiny_llama.PROMPT[i : i + 5], 0, [i + 1], params) for i, params in enumerate(unsure)]
    rows = piece("rows", [1, 2, 3], 0, [9], replace(GREEDY, prompt_logprobs=0), prompt_targets=[2, 3])
    plain = runner_of(model, asynchronous=False, sampler=TORCH)
    known = [output.tokens for output in plain.launch(StepBatch(first)).result()]
    second = [piece(str(i), tokens, 5, [i + 1], unsure[i]) for i, tokens in enumerate(known)]
    expected = plain.launch(StepBatch([*second, rows])).result()
    monkeypatch.setattr(together, "CANDIDATES", 2)
    runner = runner_of(model, asynchronous=True)
    out = runner.launch(StepBatch(first))
    assert out.tokens.tolist() != [token for tokens in known for token in tokens]
    waiting = [replace(s, tokens=[PLACEHOLDER]) for s in second]
    assert runner.launch(StepBatch([*waiting, rows])).result() == expected
    assert [output.tokens for output in out.result()] == known
