"""One resource becomes tokens: the real model behind the router, and what happens when parts of it die."""

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass, field

import grpc
import page_runs
from clients_kit import pointed_at
from waiting import eventually, until

from argosy_api.v1 import worker_pb2 as pb
from argosy_api.v1 import worker_pb2_grpc

PREFIX = (
    "The lighthouse keeper wrote the weather into his book every evening: the wind, the clouds, the height of the waves "
    "and the ships that had passed. He had done so for forty years, and nobody had ever asked him to. "
)
FILLER = "Then came another long day on the rock, with gulls, grey water, and a little rain from the west. "

TOKENS_LEFT = 1000
"""Of prompts: a second's work and more for a worker of these tests."""


@dataclass
class Stream:
    """One streamed request and what became of it."""

    prompt: str
    max_tokens: int
    sampling: dict = field(default_factory=lambda: {"temperature": 0})
    tokens: list = field(default_factory=list)
    worker: str = ""
    attempt: int = 0
    text: str = ""
    logprobs: list = field(default_factory=list)
    usage: pb.Usage = None
    code: grpc.StatusCode = None
    details: str = ""

    async def run(self, stub):
        sampling = pb.SamplingParams(max_tokens=self.max_tokens, ignore_eos=True, **self.sampling)
        call = stub.Generate(pb.InferenceRequest(model="smollm2", text=self.prompt, sampling=sampling), timeout=240)
        try:
            async for chunk in call:
                assert chunk.index == len(self.tokens)
                self.tokens += chunk.token_ids
                self.text += chunk.text
                self.logprobs += [(row.token, row.logprob) for row in chunk.logprobs]
                self.usage = chunk.usage if chunk.HasField("usage") else self.usage
                self.attempt = chunk.attempt
                if not self.worker:
                    self.worker = dict(await call.initial_metadata()).get("x-argosy-worker", "")
            self.code = await call.code()
        except grpc.aio.AioRpcError as error:
            self.code, self.details = error.code(), error.details()
        finally:
            call.cancel()
        return self

    @property
    def answer(self):
        return self.tokens, self.text, self.logprobs, self.usage.prompt_tokens, self.usage.completion_tokens


WAYS = (
    {"temperature": 0, "logprobs": 2},
    {"temperature": 0.9, "seed": 11, "top_p": 0.95},
    {"temperature": 0.8, "seed": 12, "repetition_penalty": 1.1, "frequency_penalty": 0.3},
    {"temperature": 0, "stop": ["a sentence that does not come"], "presence_penalty": 0.5},
)


def metric(up, name):
    """Values of a metric's samples."""
    with urllib.request.urlopen(f"http://127.0.0.1:{up.metrics_port}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    return [float(line.split()[-1]) for line in lines if line.startswith(name) and not line.startswith("#")]


def those_asked(answer):
    """The worker that answered, and, where that one was chosen since it is less busy, the one it fetched the prompt from."""
    return {answer.worker, *re.findall(r"source=([\w-]+)", answer.headers["x-argosy-decision"])}


def test_the_second_request_hits_the_prefix_cache_of_the_first(smollm2):
    # just after a worker came the router has not heard yet what it holds, and spreads by hash
    until(lambda: "indexStale" not in smollm2.complete("smollm2", "Hello").headers["x-argosy-decision"])
    first = smollm2.complete("smollm2", PREFIX + "He was", max_tokens=8)
    second = smollm2.complete("smollm2", PREFIX + "She was", max_tokens=8)
    assert (first.status, second.status) == (200, 200)
    assert first.text.strip()
    assert first.cached_tokens == 0
    assert second.cached_tokens >= 32
    assert first.worker in those_asked(second)
    assert int(second.headers["x-argosy-cached-tokens-predicted"]) > 0


def test_generate_answers_in_the_terminal(smollm2):
    code, out, err = smollm2.command(
        "generate", "What is the capital of Japan?", "--max-tokens", "12", "--temperature", "0"
    )
    assert code == 0
    assert "Tokyo" in out
    assert any(f"worker {replica.name}" in err for replica in smollm2.replicas())


def test_what_the_readme_has_its_reader_type(smollm2, tmp_path):
    """As it stands there, but for ports and folder."""
    argosy = tmp_path / "argosy"
    argosy.write_text(f"#!{sys.executable}\nfrom argosy_cli.main import main\nmain()\n")
    argosy.chmod(0o755)
    environment = os.environ | {"ARGOSY_HOME": str(smollm2.home), "PYTHONPATH": os.pathsep.join(sys.path)}
    for (page, number), prints in page_runs.ON_ONE_MACHINE.items():
        script = pointed_at(smollm2, page_runs.script(page, number)).replace(".venv/bin/argosy", str(argosy))
        if prints is None:
            continue
        done = subprocess.run(
            ["bash", "-e", "-o", "pipefail", "-c", script],
            env=environment, capture_output=True, text=True, timeout=120, check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert re.search(prints, done.stdout), f"block {number} of {page} printed {done.stdout!r}"


async def test_killing_a_worker_costs_nobody_a_token(smollm2):
    """Streams in mid-sentence go on at the other replica, token for token; what had no token begins there."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{smollm2.grpc_port}") as channel:
        stub = worker_pb2_grpc.InferenceStub(channel)
        talking = [Stream(f"Story {i}: once upon a time", 120, WAYS[i % 4]) for i in range(8)]
        tasks = [asyncio.create_task(s.run(stub)) for s in talking]
        await eventually(lambda: all(len(s.tokens) >= 2 for s in talking), "first tokens")
        victim = next(r for r in smollm2.replicas() if r.name == talking[0].worker)
        cut = [s for s in talking if s.worker == victim.name]
        silent = []
        async with grpc.aio.insecure_channel(victim.address) as direct:
            worker = worker_pb2_grpc.WorkerStub(direct)

            async def much_to_compute():
                """So much that it cannot all be done between this answer and the kill: what has begun makes room for more."""
                for _ in range(12 - sum(not s.tokens for s in silent)):
                    silent.append(Stream(f"Chapter {len(silent)}. " + FILLER * 20, 8))
                    tasks.append(asyncio.create_task(silent[-1].run(stub)))
                return (await worker.GetLoad(pb.GetLoadRequest())).uncached_tokens > TOKENS_LEFT

            await eventually(much_to_compute, "requests without a token on the victim")
        silent_at_kill = [s for s in silent if not s.tokens]
        unfinished = [s for s in cut if len(s.tokens) < s.max_tokens]
        killed = time.monotonic()
        os.kill(victim.pid, signal.SIGKILL)
        await eventually(lambda: _replaced(smollm2, victim), "the new worker")
        print(f"new worker ready {time.monotonic() - killed:.1f} s after the kill")
        await asyncio.gather(*tasks)
        assert [s.code for s in (*talking, *silent)] == [grpc.StatusCode.OK] * len(tasks), [
            s.details for s in (*talking, *silent)
        ]
        resumed = [s for s in unfinished if s.attempt > 1]
        assert resumed != []
        assert [s for s in silent_at_kill if s.attempt > 1] != []

        async def asked_the_new_one():
            answer = await Stream(f"Are you there at {time.monotonic()}?", 1).run(stub)
            assert answer.code is grpc.StatusCode.OK
            return answer.worker == victim.name

        await eventually(asked_the_new_one, "a request on the new worker")
        for stream in (*resumed, *silent_at_kill):
            again = await Stream(stream.prompt, stream.max_tokens, stream.sampling).run(stub)
            assert again.attempt == 1
            assert stream.answer == again.answer


async def test_killing_valkey_fails_no_request_and_prefix_routing_returns(smollm2):
    until(smollm2.all_ready)
    known = PREFIX + "In the morning"
    holder = smollm2.complete("smollm2", known).worker
    before = smollm2.service("valkey")
    async with grpc.aio.insecure_channel(f"127.0.0.1:{smollm2.grpc_port}") as channel:
        stub = worker_pb2_grpc.InferenceStub(channel)
        streams = [Stream(f"Letter {i}: dear friend", 60) for i in range(4)]
        tasks = [asyncio.create_task(s.run(stub)) for s in streams]
        await eventually(lambda: all(s.tokens for s in streams), "first tokens")
        os.kill(before.pid, signal.SIGKILL)
        during = [Stream(f"Postcard {i}: " + FILLER * 3, 4) for i in range(3)]
        tasks += [asyncio.create_task(s.run(stub)) for s in during]
        await eventually(lambda: _new(smollm2.service("valkey"), before), "Valkey back")
        back = time.monotonic()
        await eventually(lambda: metric(smollm2, "argosy_router_redis_up") == [1.0], "the router on Valkey")
        await asyncio.gather(*tasks)
        assert [s.code for s in (*streams, *during)] == [grpc.StatusCode.OK] * 7
    while time.monotonic() - back < 5.5:  # what the router only predicted is forgotten after 5 s
        await asyncio.sleep(0.1)
    answer = await asyncio.to_thread(smollm2.complete, "smollm2", known + " he")
    assert holder in those_asked(answer)
    assert int(answer.headers["x-argosy-cached-tokens-predicted"]) > 0
    assert answer.cached_tokens > 0
    for stream in during:  # cached while Valkey was away: the news arrived all the same
        answer = await asyncio.to_thread(smollm2.complete, "smollm2", stream.prompt)
        assert stream.worker in those_asked(answer), answer.headers
        assert int(answer.headers["x-argosy-cached-tokens-predicted"]) > 0


def test_the_demo_shows_what_it_promises(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "argosy_cli", "demo"],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "smollm2: 2 of 2 replicas ready" in done.stdout
    assert "prompt tokens in the prefix cache of smollm2-leader-" in done.stdout
    assert list(tmp_path.iterdir()) == []


def _replaced(up, victim):
    new = next(r for r in up.replicas() if r.name == victim.name)
    return new.ready and new.pid != victim.pid


def _new(service, before):
    return service.ready and service.pid != before.pid
