"""A request that fails fails alone: the others' tokens are those that they would have had without it."""

import asyncio

import pytest
from proposing import Proposing

from argosy_api.errors import InternalError, UnavailableError
from argosy_api.params import SamplingParams
from argosy_worker.core import drafts
from argosy_worker.core.batch import Finished, StepOutput
from argosy_worker.core.drafts import Harmless
from argosy_worker.core.scheduler import Scheduler
from argosy_worker.engine.reply import Reply
from argosy_worker.engine.stream import Piece
from argosy_worker.serve.pages import unhealthy
from argosy_worker.speculation.speculator import Speculator

LENGTH = 20
PARAMS = SamplingParams(temperature=0, max_tokens=LENGTH)


class Panic(BaseException):
    """As libraries written in Rust raise: no Exception."""


class Faulty:
    """A runner that does what `fault` says with the slices, and then computes them."""

    def __init__(self, real):
        self.real = real
        self.launches = 0
        self.fault = lambda batch: None

    def launch(self, batch):
        self.launches += 1
        changed = self.fault(batch)
        return self.real.launch(batch) if changed is None else Finished(changed)


class Rigged:
    """`make_rig` with a runner that can be told to fail."""

    def __init__(self, make_rig, **more):
        self.context = make_rig(runner=self.take, **more)

    def take(self, real):
        self.runner = Faulty(real)
        return self.runner

    async def __aenter__(self):
        self.rig = await self.context.__aenter__()
        return self

    async def __aexit__(self, *error):
        await self.context.__aexit__(*error)

    async def answers(self, names):
        """Of one request for each name, all at once: its tokens, or the error."""
        results = await asyncio.gather(*map(self.answer, names), return_exceptions=True)
        return dict(zip(names, results, strict=True))

    async def answer(self, name):
        stream = self.rig.engine.submit(name, 1, prompt(name), PARAMS)
        return [token for chunk in [chunk async for chunk in stream] for token in chunk.tokens]


def prompt(name):
    return list(name.encode() * 9)


NAMES = [f"r{i}" for i in range(16)]


async def others_are_exact(rigged, bad, oracle, *, names=NAMES):
    answers = await rigged.answers(names)
    for name in names:
        if name in bad:
            assert isinstance(answers[name], InternalError), name
        else:
            assert answers[name] == oracle(prompt(name), LENGTH), name
    assert (await rigged.rig.load()).used_blocks == 0
    assert rigged.rig.engine.alive
    return [answers[name].message for name in bad]


@pytest.mark.parametrize("bad", [{"r0"}, {"r7"}, {"r15"}, {"r3", "r4"}, {"r0", "r5", "r9", "r15"}])
@pytest.mark.parametrize("kind", [ValueError, Panic])
async def test_a_step_that_raises_ends_only_those_with_whom_it_raises(make_rig, oracle, bad, kind):
    async with Rigged(make_rig, num_blocks=64) as rigged:

        def fault(batch):
            if any(s.request_id in bad and s.start > 20 for s in batch.slices):
                raise kind("a kernel failed")

        rigged.runner.fault = fault
        messages = await others_are_exact(rigged, bad, oracle)
        assert not any("kernel" in message for message in messages)  # ours to know; the log has it


async def test_whose_fault_it_is_is_found_in_few_launches(make_rig, oracle):
    async with Rigged(make_rig, num_blocks=64) as rigged:
        await rigged.answers(NAMES)
        usual, rigged.runner.launches = rigged.runner.launches, 0

        def fault(batch):
            if any(s.request_id == "r6" and s.start <= 25 < s.start + len(s.tokens) for s in batch.slices):
                raise ValueError("a kernel failed")

        rigged.runner.fault = fault
        answers = await rigged.answers(NAMES)
        assert [name for name in NAMES if isinstance(answers[name], InternalError)] == ["r6"]
        assert rigged.runner.launches <= usual + 8 + 8  # of 16: four halvings; and steps may be cut in another way


@pytest.mark.parametrize("names", [["alone"], NAMES])
async def test_a_fault_that_does_not_come_again_costs_nobody_anything(make_rig, oracle, names):
    async with Rigged(make_rig, num_blocks=64) as rigged:
        faults = iter([ValueError("once"), None, None, Panic("once more")])

        def fault(batch):
            error = next(faults, None)
            if error is not None:
                raise error

        rigged.runner.fault = fault
        await others_are_exact(rigged, set(), oracle, names=names)


async def test_a_runner_that_answers_too_little_for_one_request_ends_that_one(make_rig, oracle):
    async with Rigged(make_rig, num_blocks=64) as rigged:
        rigged.runner.fault = lambda batch: [] if any(s.request_id == "r2" for s in batch.slices) else None
        await others_are_exact(rigged, {"r2"}, oracle)


async def test_no_token_where_one_is_due_ends_the_request(make_rig):
    async with Rigged(make_rig) as rigged:
        rigged.runner.fault = lambda batch: [StepOutput() for s in batch.slices] if batch.slices[0].request_id else None
        assert isinstance((await rigged.answers(["a"]))["a"], InternalError)
        assert (await rigged.rig.load()).used_blocks == 0


async def test_one_request_that_always_fails_does_not_end_an_engine_that_has_no_other(make_rig, oracle):
    """Also where it is alone, so that whole steps fail: the runner computes for others."""
    async with Rigged(make_rig) as rigged:

        def fault(batch):
            if any(s.request_id.startswith("bad") for s in batch.slices):
                raise ValueError("a poisonous request")

        rigged.runner.fault = fault
        for i in range(6):
            await others_are_exact(rigged, {f"bad{i}"}, oracle, names=[f"bad{i}"])
        await others_are_exact(rigged, set(), oracle)


@pytest.mark.parametrize("caching", [True, False])
@pytest.mark.parametrize("how", ["raises", "answers too little", "gives no numbers"])
async def test_a_runner_whose_every_step_fails_ends_the_engine(make_rig, eventually, how, caching):
    async with Rigged(make_rig, caching=caching) as rigged:
        await rigged.answers(["before"])

        def fault(batch):
            if how == "raises":
                raise ValueError("the device is lost")
            return [] if how == "answers too little" else [StepOutput(error="no number") for _ in batch.slices]

        rigged.runner.fault = fault
        answers = await rigged.answers(NAMES)
        first, *others = [type(answer) for answer in answers.values()]
        assert first is InternalError
        assert {*others} <= {InternalError, UnavailableError}  # who comes when it has ended is refused
        engine = rigged.rig.engine
        await eventually(lambda: not engine.alive, "the engine has ended")
        assert engine.failure == "RunnerBrokenError"
        assert unhealthy(engine)
        with pytest.raises(UnavailableError):
            engine.submit("after", 1, prompt("after"), PARAMS)


async def test_a_fault_in_making_an_answer_ends_its_request_alone(make_rig, oracle, monkeypatch):
    advance = Reply.advance

    def breaks(self, progress, now):
        if self.request.request_id == "r1":
            raise Panic("a decoder failed")
        return advance(self, progress, now)

    monkeypatch.setattr(Reply, "advance", breaks)
    async with Rigged(make_rig, num_blocks=64) as rigged:
        assert await others_are_exact(rigged, {"r1"}, oracle) == ["the engine failed on this request"]


async def test_a_fault_at_the_arrival_or_the_abort_of_a_request_ends_it_alone(make_rig, oracle, monkeypatch):
    add = Scheduler.add

    def breaks(self, request):
        if request.request_id == "r1":
            raise KeyError("a bug")
        add(self, request)

    def aborted(self) -> Piece:
        raise KeyError("a bug")

    monkeypatch.setattr(Scheduler, "add", breaks)
    monkeypatch.setattr(Reply, "aborted", aborted)
    async with Rigged(make_rig, uri="sim://m?decode_ms=1&check=1", num_blocks=256) as rigged:
        long = rigged.rig.engine.submit("long", 1, [1], SamplingParams(temperature=0, max_tokens=900))
        await anext(long)
        await rigged.rig.engine.abort("long")
        with pytest.raises(InternalError):
            [chunk async for chunk in long]
        await others_are_exact(rigged, {"r1"}, oracle)


# --- drafters


def drafting(rigged, drafter):
    scheduler = rigged.rig.engine._thread.scheduler
    scheduler._drafter = Harmless(drafter)


class Broken(Proposing):
    """Plans drafts, and fails where `at` says."""

    def __init__(self, at):
        super().__init__(lambda request, most: [1] * min(3, most))
        self.at = at
        self.calls = 0

    def _call(self, at):
        self.calls += 1
        if self.at == at:
            raise Panic("a drafter failed")

    def plan(self, requests, most, budget):
        self._call("plan")
        lengths = super().plan(requests, most, budget)
        return lengths[1:] if self.at == "plan too little" else lengths

    def draft(self, requests, lengths):
        self._call("draft")
        if self.at == "draft too many":
            return [[1] * (n + 9) for n in lengths]
        return super().draft(requests, lengths)[self.at == "draft too little" :]

    def ended(self, request):
        self._call("ended")
        super().ended(request)


@pytest.mark.parametrize("at", ["plan", "draft", "ended", "plan too little", "draft too little", "draft too many", ""])
async def test_a_fault_of_the_drafter_costs_drafts_and_no_answer(make_rig, oracle, at):
    async with Rigged(make_rig, num_blocks=64) as rigged:
        drafter = Broken(at)
        drafting(rigged, drafter)
        await others_are_exact(rigged, set(), oracle)
        if at == "plan":
            assert drafter.calls == drafts.MOST_FAULTS  # and then it is asked no more


async def test_a_fault_in_learning_from_drafts_ends_nobody(make_rig, oracle, monkeypatch, caplog):
    """What a step's drafts came to is for the next drafts only. It is told, but not with every step."""

    def fail(*_args):
        raise Panic("no lesson")

    monkeypatch.setattr(Speculator, "learn", fail)
    async with Rigged(make_rig) as rigged:
        await others_are_exact(rigged, set(), oracle)
    told = [record for record in caplog.records if "not learnt from" in record.message]
    assert len(told) == drafts.MOST_FAULTS
