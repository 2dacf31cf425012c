"""The step trace as the worker keeps it: what it tells of each step, and its bounds."""

import asyncio
import itertools
import json
import urllib.error
import urllib.request

import pytest

from argosy_api import limits, step_trace
from argosy_api.errors import ModelUnsupportedError
from argosy_api.params import SamplingParams
from argosy_worker.core.batch import Finished, StepOutput
from argosy_worker.engine.metrics import WorkerMetrics
from argosy_worker.engine.report import LoadView
from argosy_worker.engine.trace import StepTrace
from argosy_worker.serve.lifecycle import Lifecycle
from argosy_worker.serve.pages import MetricsServer
from argosy_worker.serve.settings import parse
from argosy_worker.serve.startup import step_trace as step_trace_of

GREEDY = SamplingParams(temperature=0, max_tokens=20)
SECRET = list(b"a secret that stands in no trace, whatever happens")


async def collect(stream):
    return [chunk async for chunk in stream]


async def answers(rig, count, *, prompt=SECRET, params=GREEDY):
    streams = [rig.engine.submit(f"r{i}", 1, [*prompt, i], params) for i in range(count)]
    return await asyncio.gather(*map(collect, streams), return_exceptions=True)


def steps_of(trace):
    return step_trace.parse(trace.lines())


async def test_each_step_tells_what_it_computed_and_for_how_long(make_rig):
    trace = StepTrace()
    async with make_rig("sim://m?decode_ms=2&check=1", trace=trace, num_blocks=9, max_batch_tokens=32) as rig:
        await answers(rig, 4)
        await answers(rig, 4)
        load = await rig.load()
    steps = steps_of(trace)
    assert [step.number for step in steps] == list(range(1, len(steps) + 1))
    pieces = [piece for step in steps for piece in step.slices]
    assert {piece.request for piece in pieces} == {"r0", "r1", "r2", "r3"}
    assert sum(piece.sampled for piece in pieces) >= 8 * 20  # what is over was lost with its blocks, and came again
    assert sum(piece.ended for piece in pieces) == 8
    assert sum(step.preempted for step in steps) > 0
    assert max(piece.preemptions for piece in pieces) > 0
    assert max(piece.cached for piece in pieces) == 48
    assert max(piece.queued_s for piece in pieces) > 0
    assert {piece.prompt for piece in pieces} == {51}
    assert max(step.waiting for step in steps) > 0
    for before, step in itertools.pairwise(steps):
        assert step.began >= before.began + before.seconds - 1e-6
    for step in steps:
        assert min(step.schedule_s, step.launch_s, step.update_s) > 0
        assert step.tokens == sum(piece.rows for piece in step.slices) <= 32
        assert step.free + step.cached + step.used == load.total_blocks == 9


async def test_drafts_are_told_with_how_many_were_right(make_rig, oracle):
    trace = StepTrace()
    async with make_rig(trace=trace) as rig:
        again = [*SECRET, *oracle([*SECRET, 0], 20)]
        await answers(rig, 1)
        await answers(rig, 1, prompt=again[:-1])
    for piece in (piece for step in steps_of(trace) for piece in step.slices):
        assert 0 <= piece.accepted <= piece.draft < piece.rows
        if piece.draft:
            assert piece.sampled == piece.accepted + 1


async def test_it_tells_no_text_and_no_token(make_rig):
    trace = StepTrace()
    async with make_rig(trace=trace) as rig:
        chunks = await answers(rig, 1)
        text = "".join(chunk.text for chunk in chunks[0])
    told = trace.lines().decode()
    assert "secret" not in told
    assert text[:8] not in told
    assert set(json.loads(told.splitlines()[0])["slices"][0]) == set(step_trace.TracedSlice.__dataclass_fields__)


async def test_a_fault_is_told(make_rig):
    class Bad:
        def __init__(self, real):
            self.real = real

        def launch(self, batch):
            if batch.slices[0].request_id:
                return Finished([StepOutput(error="no number") for _ in batch.slices])
            return self.real.launch(batch)

    trace = StepTrace()
    async with make_rig(runner=Bad, trace=trace) as rig:
        await answers(rig, 1)
    (step,) = steps_of(trace)
    assert [(piece.failed, piece.ended) for piece in step.slices] == [(True, True)]


async def test_what_is_kept_is_bounded_in_steps_and_in_slices(make_rig, monkeypatch):
    monkeypatch.setattr(limits, "MAX_TRACED_STEPS", 10)
    trace = StepTrace()
    async with make_rig(trace=trace) as rig:
        await answers(rig, 3)
        steps = steps_of(trace)
        assert len(steps) == 10
        last = steps[-1].number
        assert [step.number for step in steps] == list(range(last - 9, last + 1))
        monkeypatch.setattr(limits, "MAX_TRACED_SLICES", 7)
        await answers(rig, 3)
        assert sum(len(step.slices) for step in steps_of(trace)) <= 7


async def test_a_file_has_the_same_lines_and_turns_over(make_rig, tmp_path, monkeypatch):
    file = tmp_path / "steps.jsonl"
    trace = StepTrace(file)
    async with make_rig(trace=trace) as rig:
        await answers(rig, 2)
    trace.close()
    assert file.read_bytes() == trace.lines()

    monkeypatch.setattr(limits, "MAX_TRACE_BYTES", 2000)
    trace = StepTrace(file)
    async with make_rig(trace=trace) as rig:
        await answers(rig, 2)
    trace.close()
    former = tmp_path / "steps.jsonl.1"
    assert {path.name for path in tmp_path.iterdir()} == {file.name, former.name}
    assert file.stat().st_size <= 2000
    steps = step_trace.parse(former.read_bytes() + file.read_bytes())
    assert [step.number for step in steps] == [step.number for step in steps_of(trace)[-len(steps) :]]


async def test_a_file_that_cannot_be_written_any_more_costs_the_trace_alone(make_rig, oracle, tmp_path, caplog):
    trace = StepTrace(tmp_path / "steps.jsonl")
    async with make_rig(trace=trace) as rig:
        trace._file.stream.close()
        chunks = (await answers(rig, 1))[0]
    assert [token for chunk in chunks for token in chunk.tokens] == oracle([*SECRET, 0], 20)
    assert len(steps_of(trace)) > 0
    assert caplog.text.count("the step trace cannot be written any more") == 1


def test_the_page(tmp_path):
    server = MetricsServer("127.0.0.1", 0, metrics=WorkerMetrics(model="m", worker="w"), state=Lifecycle())

    def get():
        return urllib.request.urlopen(f"http://127.0.0.1:{server.port}/trace", timeout=5)

    class Engine:
        trace, view = StepTrace(), LoadView()
        alive = busy = True
        last_step_age = 0.0

    try:
        with pytest.raises(urllib.error.HTTPError) as caught:
            get()
        assert caught.value.code == 404
        assert b"engine.stepTrace" in caught.value.read()
        caught.value.close()
        server.attach(Engine(), block_size=16)
        with get() as answer:
            assert answer.headers["Content-Type"] == "application/x-ndjson"
            assert answer.read() == b""
    finally:
        server.close()


def settings_of(choice):
    return parse(
        [f"--spec={json.dumps({'model': {'uri': 'sim://m', 'servedName': 'm'}, 'engine': {'stepTrace': choice}})}"],
        {"ARGOSY_WORKER_ID": "../pod 1"},
    )


def test_as_the_resource_says(tmp_path):
    assert step_trace_of(settings_of("off"), tmp_path) is None
    assert step_trace_of(settings_of("memory"), tmp_path).lines() == b""
    assert list(tmp_path.iterdir()) == []
    step_trace_of(settings_of("file"), tmp_path / "a" / "b").close()
    assert (tmp_path / "a" / "b" / "steps-.._pod_1.jsonl").is_file()
    (tmp_path / "taken").write_text("")
    with pytest.raises(ModelUnsupportedError, match=r"engine\.stepTrace is file, but none can be written"):
        step_trace_of(settings_of("file"), tmp_path / "taken")


def test_lines_that_are_none_are_named():
    with pytest.raises(ValueError, match="line 2"):
        step_trace.parse(b"\n{}\n")
    assert step_trace.parse(b'{"number": 1, "beg') == []  # the worker was killed while it wrote
