"""What the tests of the worker's core, engine and server share."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import grpc
import pytest
import waiting

from argosy_api.model_uri import ModelUri
from argosy_api.params import SamplingParams
from argosy_api.v1 import worker_pb2 as pb
from argosy_api.v1 import worker_pb2_grpc
from argosy_worker import sim
from argosy_worker.core.batch import Runner
from argosy_worker.core.scheduler import SchedulerConfig
from argosy_worker.engine.client import Engine
from argosy_worker.engine.config import EngineConfig
from argosy_worker.engine.metrics import WorkerMetrics
from argosy_worker.engine.trace import StepTrace
from argosy_worker.kv_events.log import KvEventLog
from argosy_worker.serve.lifecycle import Lifecycle
from argosy_worker.serve.messages import model_info
from argosy_worker.serve.server import make_server
from argosy_worker.serve.serving import Serving
from argosy_worker.speculation.config import SpeculationConfig
from argosy_worker.speculation.draft_model import DraftModel

EPOCH = 77


@dataclass
class Rig:
    """A worker in this process: simulated model (but where a test brings its own), real everything else."""

    engine: Engine
    serving: Serving
    events: KvEventLog
    metrics: WorkerMetrics
    stub: worker_pb2_grpc.WorkerStub
    channel: grpc.aio.Channel
    address: str
    seen: list[pb.KvEventBatch] = field(default_factory=list)

    @staticmethod
    def request(prompt, request_id="r", *, attempt=1, salt="", source="", priority=0, **sampling) -> pb.GenerateRequest:
        sampling.setdefault("temperature", 0.0)
        return pb.GenerateRequest(
            request_id=request_id,
            attempt=attempt,
            prompt_tokens=prompt,
            cache_salt=salt,
            priority=priority,
            kv_source=source,
            sampling=pb.SamplingParams(**sampling),
        )

    async def generate(self, prompt, request_id="r", **more) -> "Answer":
        call = self.stub.Generate(self.request(prompt, request_id, **more))
        return Answer([chunk async for chunk in call])

    async def status_of(self, request: pb.GenerateRequest) -> tuple[grpc.StatusCode, str]:
        try:
            async for _ in self.stub.Generate(request):
                pass
        except grpc.aio.AioRpcError as error:
            return error.code(), error.details()
        return grpc.StatusCode.OK, ""

    async def load(self) -> pb.Load:
        return await self.stub.GetLoad(pb.GetLoadRequest())


@dataclass
class Answer:
    chunks: list[pb.GenerateChunk]

    @property
    def tokens(self) -> list[int]:
        return [token for chunk in self.chunks for token in chunk.token_ids]

    @property
    def text(self) -> str:
        return "".join(chunk.text for chunk in self.chunks)

    @property
    def last(self) -> pb.GenerateChunk:
        return self.chunks[-1]


@asynccontextmanager
async def running_rig(
    uri: str = "sim://test?decode_ms=0&prefill_tps=0&check=1",
    *,
    runner: Callable[[Runner], Runner] | None = None,
    open_at_once: bool = True,
    block_size: int = 16,
    num_blocks: int = 256,
    host_blocks: int = 0,
    max_model_len: int = 1024,
    caching: bool = True,
    target_step_s: float | None = None,
    tokenizer_json: bytes | None = None,
    speculation: SpeculationConfig | None = None,
    draft: str | None = None,
    model=None,
    trace: StepTrace | None = None,
    **scheduler,
) -> AsyncIterator[Rig]:
    if model is None:
        model = sim.SimModel(sim.SimSpec.parse(ModelUri.parse(uri)))
    real = model.make_runner(num_blocks, block_size, host_blocks=host_blocks)
    metrics = WorkerMetrics(model="test", worker="w")
    state = Lifecycle()
    events = KvEventLog(EPOCH)
    guesses = None
    if draft is not None:
        smaller = sim.SimModel(sim.SimSpec.parse(ModelUri.parse(draft)))
        guesses = DraftModel(
            smaller.make_runner(num_blocks, block_size),
            facts=smaller.facts,
            target=model.facts,
            num_blocks=num_blocks,
            block_size=block_size,
        )
    engine = Engine(
        facts=replace(model.facts, tokenizer_json=tokenizer_json) if tokenizer_json else model.facts,
        runner=runner(real) if runner else real,
        store=real.store,
        config=EngineConfig(
            num_blocks=num_blocks,
            host_blocks=host_blocks,
            block_size=block_size,
            max_model_len=max_model_len,
            prefix_caching=caching,
            window=model.facts.window,
            target_step_s=target_step_s,
            scheduler=SchedulerConfig(**scheduler),
            speculation=speculation or SpeculationConfig(),
        ),
        draft=guesses,
        trace=trace,
        metrics=metrics,
        on_cache_change=events.append,
        loop=asyncio.get_running_loop(),
    )
    thread = threading.Thread(target=engine.run, name="engine")
    thread.start()
    serving = Serving(worker_id="w", epoch=EPOCH, state=state, events=events, metrics=metrics)
    server = await make_server(serving)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    options = [("grpc.max_receive_message_length", 32 << 20), ("grpc.max_send_message_length", 32 << 20)]
    try:
        address = f"127.0.0.1:{port}"
        async with grpc.aio.insecure_channel(address, options=options) as channel:
            rig = Rig(engine, serving, events, metrics, worker_pb2_grpc.WorkerStub(channel), channel, address)
            if open_at_once:
                await rig.serving.open(engine, model_info(engine, worker_id="w", epoch=EPOCH, served_name="test"))
                state.ready({})
            yield rig
    finally:
        engine.stop()
        await asyncio.to_thread(thread.join, 10)
        await server.stop(0)
    assert not thread.is_alive()


@pytest.fixture
def make_rig():
    """`async with make_rig(...) as rig:` a worker in this process, over gRPC."""
    return running_rig


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    async with running_rig() as made:
        yield made


@pytest.fixture
def eventually():
    """`await eventually(lambda: ..., "what")`: poll a condition (a function, or one that returns a coroutine)."""
    return waiting.eventually


@pytest.fixture
def oracle():
    """`oracle(prompt, n, temperature=0)`: what the simulated model answers, computed without any engine."""

    def tokens(prompt, count, *, eos_every=0, **params) -> list[int]:
        params.setdefault("temperature", 0.0)
        return sim.oracle(prompt, count, SamplingParams(**params), eos_every=eos_every)

    return tokens
