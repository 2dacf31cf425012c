"""What a fault ends: the request alone, or the engine, and then nobody waits for ever."""

import asyncio
import json
import threading

import pytest
from engine_kit import GREEDY, PROMPT, Faulty, collect, tokens_of

from argosy_api.errors import InternalError, UnavailableError
from argosy_api.params import SamplingParams
from argosy_worker import sim
from argosy_worker.core.batch import StepOutput
from argosy_worker.serve.pages import unhealthy


async def test_a_fault_of_one_request_ends_that_one_alone(make_rig, oracle):
    faulty = []
    async with make_rig(runner=lambda real: faulty.append(Faulty(real)) or faulty[0]) as rig:

        def bad_logits(batch):
            outputs = faulty[0].real.launch(batch).result()
            return [
                StepOutput(error="logits are not finite") if s.request_id == "bad" and s.start > 55 else o
                for s, o in zip(batch.slices, outputs, strict=True)
            ]

        faulty[0].fault = bad_logits
        bad, good = (rig.engine.submit(name, 1, PROMPT, GREEDY) for name in ("bad", "good"))
        results = await asyncio.gather(collect(bad), collect(good), return_exceptions=True)
        assert isinstance(results[0], InternalError)
        assert "not finite" in results[0].message
        assert tokens_of(results[1]) == oracle(PROMPT, 20)
        assert (await rig.load()).used_blocks == 0


async def test_a_dead_thread_is_noticed_by_everybody(make_rig, monkeypatch):
    async with make_rig() as rig:

        def broken(now):
            raise RuntimeError("a bug")

        monkeypatch.setattr(rig.engine._thread.scheduler, "schedule", broken)
        with pytest.raises(UnavailableError):
            await collect(rig.engine.submit("a", 1, PROMPT, GREEDY))
        assert not rig.engine.alive
        with pytest.raises(UnavailableError):
            rig.engine.submit("b", 1, PROMPT, GREEDY)
        assert await asyncio.wait_for(rig.engine.drain(5), 5) == (0, 0)


class Panic(BaseException):
    """As libraries written in Rust raise: no Exception."""


async def test_a_panic_of_the_thread_itself_is_noticed_by_everybody(make_rig, monkeypatch, eventually):
    async with make_rig() as rig:

        def broken(now):
            raise Panic("a bug")

        monkeypatch.setattr(rig.engine._thread.scheduler, "schedule", broken)
        with pytest.raises(UnavailableError):
            await collect(rig.engine.submit("a", 1, PROMPT, GREEDY))
        assert not rig.engine.alive
        assert rig.engine.failure == "Panic"
        assert unhealthy(rig.engine)
        with pytest.raises(UnavailableError):
            rig.engine.submit("b", 1, PROMPT, GREEDY)


async def test_a_panic_among_the_commands_of_a_dead_thread_leaves_no_stream_open(make_rig):
    async with make_rig("sim://slow?decode_ms=5") as rig:
        thread = rig.engine._thread

        def panics():
            raise Panic("a bug")

        def dies():
            thread.ask(panics)
            thread.ask(told.set)
            raise Panic("a bug")

        told = threading.Event()
        stream = rig.engine.submit("a", 1, PROMPT, SamplingParams(temperature=0, max_tokens=900))
        await anext(stream)
        thread.ask(dies)
        with pytest.raises(UnavailableError):
            await asyncio.wait_for(collect(stream), 30)
        assert told.is_set()


async def test_a_request_that_comes_as_the_thread_dies_ends_too(make_rig, monkeypatch):
    async with make_rig() as rig:
        thread = rig.engine._thread
        ask = thread.ask

        def dies_before(command, **more):  # between the look at whether it lives and the command
            thread._dead = True

        monkeypatch.setattr(thread, "ask", dies_before)
        stream = rig.engine.submit("a", 1, PROMPT, GREEDY)
        with pytest.raises(UnavailableError):
            await asyncio.wait_for(collect(stream), 10)
        assert not rig.engine.busy
        thread._dead = False
        monkeypatch.setattr(thread, "ask", ask)


PANICS = json.dumps(
    json.loads(sim.tokenizer_json()) | {"decoder": {"type": "Strip", "content": "~", "start": 0, "stop": 5}}
).encode()
"""A tokenizer whose decoder panics on the token `~` (and decodes others as they are)."""


async def test_a_tokenizer_that_panics_ends_the_request_alone(make_rig, oracle):
    tilde = next(n for n in range(1, 200) if ord("~") in oracle([n], 30))
    fine = next(n for n in range(1, 200) if ord("~") not in oracle([n], 30))
    async with make_rig(tokenizer_json=PANICS) as rig:
        params = SamplingParams(temperature=0, max_tokens=30)
        bad = rig.engine.submit("bad", 1, [tilde], params)
        at_once = rig.engine.submit("at once", 1, [*PROMPT, ord("~")], params)  # its context is decoded when it comes
        good = rig.engine.submit("good", 1, [fine], params)
        results = await asyncio.gather(*map(collect, (bad, at_once, good)), return_exceptions=True)
        assert [type(result) for result in results] == [InternalError, InternalError, list]
        assert "tokenizer" in results[0].message
        assert tokens_of(results[2]) == oracle([fine], 30)
        load = await rig.load()
        assert (load.used_blocks, load.running, load.waiting) == (0, 0, 0)
        assert rig.engine.alive
