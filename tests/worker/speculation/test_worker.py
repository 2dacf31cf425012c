"""A worker that guesses ahead: streams, stop strings, metrics, settings, memory, and nothing left behind."""

import json
import random

import pytest

from argosy_api import metric_names as names
from argosy_api.blocks import root_id
from argosy_api.errors import ModelUnsupportedError
from argosy_api.params import SamplingParams
from argosy_worker import sim
from argosy_worker.core.request import Request
from argosy_worker.serve import startup
from argosy_worker.serve.lifecycle import Lifecycle
from argosy_worker.serve.settings import parse
from argosy_worker.speculation.config import Method, SpeculationConfig

PAYS = {"uri": "sim://m?decode_ms=5&prefill_tps=0&check=1", "draft": "sim://d?decode_ms=0&prefill_tps=0&accept=0.8"}


def metric(rig, name):
    return rig.metrics.registry.get_sample_value(name, {"model": "test", "worker": "w"})


async def test_streams_are_the_same_and_metrics_tell_what_came_of_it(make_rig, oracle):
    async with make_rig(**PAYS) as rig:
        for number in range(20):  # a busy machine may make the first ones look as if it did not pay
            answer = await rig.generate(list(range(number, number + 20)), f"r{number}", max_tokens=64)
            assert answer.tokens == oracle(range(number, number + 20), 64)
            assert answer.text.encode() == bytes(answer.tokens)
            if metric(rig, f"{names.WORKER_ACCEPTED_TOKENS}_total") >= 20:
                break
        drafts, drafted, accepted = (
            metric(rig, f"{name}_total")
            for name in (names.WORKER_DRAFTS, names.WORKER_DRAFTED_TOKENS, names.WORKER_ACCEPTED_TOKENS)
        )
        assert 0 < accepted <= drafted
        assert drafts <= drafted <= 8 * drafts
        assert 0 < metric(rig, names.WORKER_ACCEPTED_LENGTH) <= 8
        assert metric(rig, names.WORKER_SPECULATION_SAVED) != 0


async def test_a_stop_string_in_the_middle_of_a_draft_ends_there(make_rig, oracle):
    tokens = oracle(range(20), 60)
    stop = bytes(tokens[40:43]).decode()
    async with make_rig(**PAYS) as rig:
        for number in range(10):
            answer = await rig.generate(list(range(20)), f"r{number}", max_tokens=60, stop=[stop])
            assert answer.text.encode() == bytes(tokens[:40])
            assert answer.tokens == tokens[:43]
            assert answer.last.stop_reason == stop


async def test_off_is_off(make_rig):
    async with make_rig(**PAYS, speculation=SpeculationConfig(method=Method.OFF)) as rig:
        answer = await rig.generate(list(range(20)), max_tokens=30)
        assert len(answer.chunks) == 30
        assert metric(rig, f"{names.WORKER_DRAFTED_TOKENS}_total") == 0


def settings(**engine):
    spec = {"model": {"uri": "sim://m?kv_blocks=100", "servedName": "m"}, "engine": engine}
    return parse([f"--spec={json.dumps(spec)}"], {})


def test_the_draft_model_is_loaded_and_its_cache_is_counted():
    alone = startup.load(settings(), Lifecycle())
    assert (alone.draft, alone.config.speculation) == (None, SpeculationConfig(method=Method.AUTO, max_draft=8))
    both = startup.load(settings(speculative={"method": "draft", "model": "sim://d", "maxDraft": 3}), Lifecycle())
    assert both.draft is not None
    assert both.config.speculation == SpeculationConfig(method=Method.DRAFT, max_draft=3)
    assert (alone.config.num_blocks, both.config.num_blocks) == (100, 50)
    assert "sim" in both.kernels["draft_model"]
    assert both.facts.fingerprint == alone.facts.fingerprint  # no answer depends on it


def test_a_draft_model_of_another_vocabulary_is_refused(smollm_path):
    wrong = settings(speculative={"model": f"file://{smollm_path}"}, device="cpu")
    with pytest.raises(ModelUnsupportedError, match=r"engine\.speculative\.model: its vocabulary is not the model's"):
        startup.load(wrong, Lifecycle())


def test_drafts_leave_most_of_a_step_to_prompts_that_wait(make_line, simulated):
    """Sixteen streams that could draft 128 tokens, and a long prompt: it gets three quarters of what is left."""
    params = SamplingParams(max_tokens=100, temperature=0)
    line = make_line(
        simulated(), method=Method.DRAFT, draft=simulated(), most=8, blocks=300, max_batch_tokens=144,
    )  # fmt: skip

    def add(name, prompt):
        line.scheduler.add(
            Request(
                request_id=name,
                prompt=prompt,
                params=params,
                root=root_id("sim"),
                block_size=16,
                arrival=0.0,
                max_model_len=2048,
            )
        )

    def step():
        made = line.scheduler.schedule(0.0)
        outputs = line.runner.launch(made.batch).result()
        line.speculator.learn(made, outputs, 0.01)
        line.scheduler.update(made, outputs)
        return made.batch

    for i in range(16):
        add(f"r{i}", [i, *range(8)])
    step(), step()
    assert step().num_tokens == 144  # all that the step may have: 16 tokens, and a draft of 8 for each
    add("long", list(range(200)) * 4)
    for _ in range(3):
        batch = step()
        assert sum(piece.draft for piece in batch.slices) == 32
        assert sum(len(piece.tokens) for piece in batch.slices if piece.request_id == "long") == 96


def test_ten_thousand_requests_leave_nothing_behind(make_line, simulated):
    """A pool of a quarter of the need, 30 % of the requests aborted at random tokens: all others exact, no block lost."""
    rng = random.Random(8)
    line = make_line(
        simulated(check=0), method=Method.AUTO, draft=simulated(accept=0.7, check=0), most=4, blocks=20, max_running=32,
        max_batch_tokens=128,
    )  # fmt: skip
    scheduler, waiting, ended = line.scheduler, 10_000, 0
    aborts: dict[str, int] = {}
    while waiting or scheduler.has_work:
        while waiting and len(scheduler.running) + len(scheduler.line) < 40:
            name = f"r{waiting}"
            waiting -= 1
            begin = rng.randrange(40)
            sampled = rng.random() < 0.5
            request = Request(
                request_id=name,
                prompt=list(range(begin, begin + rng.randint(4, 40))),
                params=SamplingParams(max_tokens=rng.randint(1, 24), temperature=1.0 * sampled, seed=rng.randrange(9)),
                root=root_id("sim", salt=rng.choice(["", "tenant"])),
                block_size=16,
                arrival=0.0,
                max_model_len=200,
            )
            scheduler.add(request)
            if rng.random() < 0.3:
                aborts[name] = rng.randint(0, request.params.max_tokens - 1)
        step = scheduler.schedule(0.0)
        outputs = line.runner.launch(step.batch).result()
        line.speculator.learn(step, outputs, 0.01)
        for progress in scheduler.update(step, outputs):
            request = progress.request
            output = request.tokens[len(request.prompt) :]
            if progress.finish is not None:
                ended += 1
                assert output == sim.oracle(request.prompt, len(output), request.params)
                assert len(output) == request.params.max_tokens
            elif len(output) > aborts.get(request.request_id, 1000):
                assert scheduler.remove(request.request_id) is request
    assert ended > 6900
    assert line.pool.used == 0
    line.pool.check([])
    speculator = line.speculator
    assert (speculator._guesses, speculator._tried, speculator._model._seen) == ({}, {}, {})
