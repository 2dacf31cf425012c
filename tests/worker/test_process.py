"""The process, as a supervisor sees it: `/state`, health, exit codes, signals, what it leaves behind."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request

import grpc
import pytest
import redis
from grpc_health.v1 import health_pb2, health_pb2_grpc

from argosy_api import metric_names, process
from argosy_api.keys import Keys
from argosy_api.v1 import worker_pb2 as pb
from argosy_api.v1 import worker_pb2_grpc
from argosy_api.worker_status import Phase
from argosy_worker.engine.metrics import WorkerMetrics
from argosy_worker.engine.report import LoadView
from argosy_worker.serve.lifecycle import Lifecycle
from argosy_worker.serve.pages import MetricsServer, unhealthy


def described(uri, **more):
    """A worker's spec; `more` in the resource's terms, parts are merged."""
    return {**more, "model": {"uri": uri, "servedName": "m", **more.get("model", {})}}


class Worker:
    def __init__(self, folder, free_port, uri, *, spec=None, program=None, **environment):
        self.grpc_port, self.metrics_port = free_port(), free_port()
        self.termination_log = folder / "termination"
        environment = {
            "ARGOSY_HOST": "127.0.0.1",
            "ARGOSY_GRPC_PORT": str(self.grpc_port),
            "ARGOSY_METRICS_PORT": str(self.metrics_port),
            "ARGOSY_WORKER_ID": "w-0",
            "ARGOSY_TERMINATION_LOG": str(self.termination_log),
            **environment,
        }
        self.process = subprocess.Popen(
            [
                sys.executable,
                *(["-c", program] if program else ["-m", "argosy_worker"]),
                f"--spec={json.dumps(described(uri, **(spec or {})))}",
            ],
            env=os.environ | environment,
            stderr=subprocess.PIPE,
            text=True,
        )

    def get(self, path):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}{path}", timeout=5) as answer:
            return answer.read().decode()

    def state(self):
        try:
            return json.loads(self.get("/state"))
        except OSError:
            if self.process.poll() is not None:
                pytest.fail(f"the worker ended with {self.process.returncode}: {self.process.stderr.read()}")
            return {"phase": "none"}

    def end(self):
        """Wait for the end; exit code and log."""
        log = self.process.communicate(timeout=20)[1]
        return self.process.returncode, log


@pytest.fixture
def start(tmp_path, free_port):
    made = []

    def make(uri, **settings):
        made.append(Worker(tmp_path, free_port, uri, **settings))
        return made[-1]

    yield make
    for worker in made:
        if worker.process.poll() is None:
            worker.process.kill()
        with contextlib.suppress(ValueError):
            worker.process.communicate()


def ready(worker):
    return lambda: worker.state()["phase"] == "Ready"


async def test_from_start_to_end(start, eventually, valkey, oracle):
    worker = start(
        "sim://m?load_s=1&decode_ms=5", spec={"revision": "r9"}, ARGOSY_REDIS_URL=valkey.url, ARGOSY_NAMESPACE="ns"
    )
    await eventually(lambda: worker.state()["phase"] == "Loading", "loading shows")
    assert worker.get("/healthz") == "ok\n"  # a process that loads must not be restarted
    async with grpc.aio.insecure_channel(f"127.0.0.1:{worker.grpc_port}") as channel:
        stub, health = worker_pb2_grpc.WorkerStub(channel), health_pb2_grpc.HealthStub(channel)

        async def serving():
            answer = await health.Check(health_pb2.HealthCheckRequest(), wait_for_ready=True)
            return answer.status == health_pb2.HealthCheckResponse.SERVING

        assert not await serving()
        assert 0 <= worker.state()["progress"] <= 1
        await eventually(serving, "health says serving")
        await eventually(ready(worker), "ready")
        info = await stub.GetModel(pb.GetModelRequest())
        model = worker.state()["model"]
        assert (model["architecture"], model["maxModelLen"]) == (info.architecture, info.max_model_len)
        assert model["kvBlocksPerReplica"] == 4096
        assert (info.worker_id, info.revision, info.served_name, info.total_blocks) == ("w-0", "r9", "m", 4096)
        keys = Keys("ns", "m")
        with redis.Redis(port=valkey.port) as client:
            await eventually(lambda: client.get(keys.lease("w-0")) == str(info.epoch).encode(), "the lease")

            sampling = pb.SamplingParams(max_tokens=60, temperature=0)
            call = stub.Generate(
                pb.GenerateRequest(request_id="a", attempt=1, prompt_tokens=[1, 2, 3], sampling=sampling)
            )
            tokens = list((await call.read()).token_ids)
            worker.process.send_signal(signal.SIGTERM)  # with a request running
            await eventually(lambda: worker.state()["phase"] == "Draining", "draining shows")
            assert not await serving()
            late = stub.Generate(pb.GenerateRequest(request_id="b", attempt=1, prompt_tokens=[1]))
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await late.read()
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            while (chunk := await call.read()) is not grpc.aio.EOF:
                tokens += chunk.token_ids
            assert tokens == oracle([1, 2, 3], 60)  # it was allowed to finish
            code, log = await asyncio.to_thread(worker.end)
            assert code == 0, log
            assert client.keys("*") == []
    assert not worker.termination_log.exists()
    assert "Traceback" not in log


async def test_metrics_of_a_request(start, eventually):
    worker = start("sim://m?decode_ms=0", spec={"engine": {"kvCacheHostMemory": "320Ki"}})  # 20 blocks
    await eventually(ready(worker), "ready")
    async with grpc.aio.insecure_channel(f"127.0.0.1:{worker.grpc_port}") as channel:
        stub = worker_pb2_grpc.WorkerStub(channel)
        for name in "ab":
            request = pb.GenerateRequest(request_id=name, attempt=1, prompt_tokens=[7] * 40)
            async for _ in stub.Generate(request, wait_for_ready=True):
                pass
    labels = 'model="m",worker="w-0"'
    lines = dict(line.rsplit(" ", 1) for line in worker.get("/metrics").splitlines() if not line.startswith("#"))
    assert lines[f"{metric_names.WORKER_PROMPT_TOKENS}_total{{{labels}}}"] == "80.0"
    assert lines[f"{metric_names.WORKER_CACHED_TOKENS}_total{{{labels}}}"] == "32.0"
    assert lines[f"{metric_names.WORKER_GENERATED_TOKENS}_total{{{labels}}}"] == "32.0"
    assert lines[f"{metric_names.WORKER_TTFT_SECONDS}_count{{{labels}}}"] == "2.0"
    assert lines[f"{metric_names.WORKER_ITL_SECONDS}_count{{{labels}}}"] == "30.0"
    assert lines[f'{metric_names.WORKER_REQUESTS}_total{{model="m",reason="length",worker="w-0"}}'] == "2.0"
    assert lines[f'{metric_names.WORKER_BLOCKS}{{model="m",state="used",worker="w-0"}}'] == "0.0"
    assert lines[f'{metric_names.WORKER_HOST_BLOCKS}{{model="m",state="free",worker="w-0"}}'] == "20.0"
    for name, value in vars(metric_names).items():
        if name.startswith("WORKER_"):
            assert any(line.startswith(value) for line in lines), f"{value} is not exported"
    worker.process.send_signal(signal.SIGTERM)
    assert (await asyncio.to_thread(worker.end))[0] == 0


@pytest.mark.parametrize(
    ("uri", "reason", "words"),
    [
        ("sim://m?speed=9", "ModelInvalid", "unknown option 'speed'"),
        ("sim://m?kv_blocks=1", "ModelDoesNotFit", "holds 16 tokens"),
    ],
)
def test_a_model_that_cannot_be_served(start, uri, reason, words):
    worker = start(uri, spec={"model": {"maxModelLen": 100}})
    code, log = worker.end()
    assert code == 78
    message = json.loads(worker.termination_log.read_text())
    assert message["reason"] == reason
    assert words in message["message"]
    assert f"{reason}: {message['message']}" in log
    assert "Traceback" not in log


@pytest.mark.parametrize("which", ["ARGOSY_GRPC_PORT", "ARGOSY_METRICS_PORT"])
def test_a_taken_port(start, which):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        worker = start("sim://m", **{which: str(port)})
        code, log = worker.end()
    assert code == 78
    message = json.loads(worker.termination_log.read_text())
    assert message["reason"] == "CannotListen"
    assert str(port) in message["message"]
    assert "in use" in message["message"]
    assert "Traceback" not in log


@pytest.mark.parametrize("loopback", ["127.0.0.1", "::1"])
async def test_a_worker_listens_on_both_families(start, eventually, loopback, has_ipv6):
    if loopback == "::1" and not has_ipv6:
        pytest.skip("no IPv6 here")
    worker = start("sim://m", ARGOSY_HOST="::")
    await eventually(ready(worker), "ready")
    for port in (worker.grpc_port, worker.metrics_port):
        _, writer = await asyncio.open_connection(loopback, port)
        writer.close()


@pytest.mark.parametrize("host", ["192.0.2.1", "no.such.host.invalid"])
def test_an_address_that_is_not_here_is_not_called_a_taken_port(start, host):
    worker = start("sim://m", ARGOSY_HOST=host)
    code, log = worker.end()
    assert code == 78
    said = json.loads(worker.termination_log.read_text())
    assert said["reason"] == "CannotListen"
    assert "in use" not in said["message"]
    assert "Traceback" not in log


def test_a_wrong_setting(start):
    worker = start("sim://m", ARGOSY_REDIS_URL="localhost:6379")
    code, log = worker.end()
    assert code == 78
    assert "ARGOSY_REDIS_URL" in log
    assert json.loads(worker.termination_log.read_text())["reason"] == "InvalidArgument"


def test_a_field_that_the_worker_does_not_know_is_refused_by_name(start):
    """What an operator of a newer version may ask of an older worker."""
    worker = start("sim://m", spec={"engine": {"fromTheFuture": True}})
    assert worker.end()[0] == 78
    said = json.loads(worker.termination_log.read_text())
    assert said["reason"] == "InvalidArgument"
    assert said["message"].startswith("engine.fromTheFuture: is not a field of this worker's spec")


async def test_told_to_stop_while_loading(start, eventually):
    worker = start("sim://m?load_s=60")
    await eventually(lambda: worker.state()["phase"] == "Loading", "loading")
    worker.process.send_signal(signal.SIGTERM)
    code, log = await asyncio.to_thread(worker.end)
    assert (code, "Traceback" in log) == (0, False)


async def running_long(worker, channel, eventually):
    await eventually(ready(worker), "ready")
    stub = worker_pb2_grpc.WorkerStub(channel)
    sampling = pb.SamplingParams(max_tokens=5000, temperature=0)
    call = stub.Generate(
        pb.GenerateRequest(request_id="a", attempt=1, prompt_tokens=[1], sampling=sampling), wait_for_ready=True
    )
    await call.read()
    return call


DIES = """
import sys
from argosy_worker import __main__
from argosy_worker.core.scheduler import Scheduler

class Panic(BaseException):
    pass

def broken(self, now):
    raise Panic("a bug")

Scheduler.schedule = broken
sys.exit(__main__.main())
"""


BREAKS = """
import sys
from argosy_worker import __main__
from argosy_worker.sim import SimRunner

def broken(self, batch):
    raise ValueError("the device is lost")

SimRunner.launch = broken
sys.exit(__main__.main())
"""


@pytest.mark.parametrize(
    ("program", "failure", "status"),
    [(DIES, "Panic", grpc.StatusCode.UNAVAILABLE), (BREAKS, "RunnerBrokenError", grpc.StatusCode.INTERNAL)],
)
async def test_a_dead_engine_ends_the_process_with_its_reason(start, eventually, program, failure, status):
    worker = start("sim://m?decode_ms=1", program=program)
    await eventually(lambda: worker.state()["phase"] == "Ready", "ready")
    async with grpc.aio.insecure_channel(f"127.0.0.1:{worker.grpc_port}") as channel:
        call = worker_pb2_grpc.WorkerStub(channel).Generate(
            pb.GenerateRequest(request_id="r", attempt=1, prompt_tokens=[1])
        )
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
    assert caught.value.code() is status
    code, _ = await asyncio.to_thread(worker.end)
    assert code == process.EXIT_FAULT
    assert json.loads(worker.termination_log.read_text()) == {
        "reason": "EngineFailed",
        "message": f"the engine has died ({failure}); the log has the cause",
    }


async def test_drain_time_is_up(start, eventually):
    worker = start("sim://m?decode_ms=10", spec={"drain": {"timeoutSeconds": 0}})
    async with grpc.aio.insecure_channel(f"127.0.0.1:{worker.grpc_port}") as channel:
        call = await running_long(worker, channel, eventually)
        worker.process.send_signal(signal.SIGTERM)
        last = None
        while (chunk := await call.read()) is not grpc.aio.EOF:
            last = chunk
        assert last.finish_reason == pb.FINISH_REASON_ABORT
        assert await call.code() is grpc.StatusCode.OK
        code, log = await asyncio.to_thread(worker.end)
        assert code == 0
        assert "0 finished, 1 aborted" in log


async def test_a_second_signal_ends_it_at_once(start, eventually):
    worker = start("sim://m?decode_ms=10")
    async with grpc.aio.insecure_channel(f"127.0.0.1:{worker.grpc_port}") as channel:
        await running_long(worker, channel, eventually)
        worker.process.send_signal(signal.SIGTERM)
        await eventually(lambda: worker.state()["phase"] == "Draining", "draining")
        worker.process.send_signal(signal.SIGTERM)
        assert (await asyncio.to_thread(worker.end))[0] == 1


def said_by(code):
    """What a process prints that runs this."""
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()


def test_a_worker_loads_first_what_all_workers_need():
    """Not what only some have: torch, a group, Redis, the simulated model, a model's files; nor the whole resource."""
    loaded = said_by("import sys, argosy_worker.serve.command; print(*sys.modules)")
    assert "argosy_worker.engine.thread" in loaded
    rare = (
        "torch",
        "redis",
        "argosy_api.resource",
        *(f"argosy_worker.{part}" for part in ("group", "sim", "models", "fetch", "quantize")),
    )
    assert not [name for name in loaded if name in rare or name.startswith(tuple(f"{part}." for part in rare))]


def test_the_collector_passes_over_modules_and_nothing_else():
    code = """
import gc, sys
from argosy_worker import __main__
sys.argv = ["worker", "--help"]
try:
    __main__.main()
finally:
    print(gc.isenabled(), gc.get_freeze_count() > 10_000)
"""
    assert said_by(code)[-2:] == ["True", "True"]


# --- health and pages, without a process


class FakeEngine:
    view = LoadView(total_blocks=4, free_blocks=1, cached_blocks=1, used_blocks=2)
    alive, busy, last_step_age = True, True, 0.0


@pytest.mark.parametrize(
    ("change", "healthy"),
    [
        ({}, True),
        ({"alive": False}, False),
        ({"last_step_age": 61.0}, False),
        ({"last_step_age": 59.0}, True),
        ({"last_step_age": 61.0, "busy": False}, True),
    ],
)
def test_health_is_the_engines(change, healthy):
    engine = FakeEngine()
    for name, value in change.items():
        setattr(engine, name, value)
    assert (unhealthy(engine) == "") is healthy
    assert unhealthy(None) == ""


def test_pages():
    state, metrics = Lifecycle(), WorkerMetrics(model="m", worker="w")
    server = MetricsServer("127.0.0.1", 0, metrics=metrics, state=state)
    try:

        def get(path):
            return urllib.request.urlopen(f"http://127.0.0.1:{server.port}{path}", timeout=5).read().decode()

        assert json.loads(get("/state")) == {"phase": "Starting", "reason": "", "message": "", "progress": 0.0}
        state.enter(Phase.LOADING, "loading")
        state.progress("half", 0.5)
        assert json.loads(get("/state")) == {"phase": "Loading", "reason": "", "message": "half", "progress": 0.5}
        engine = FakeEngine()
        server.attach(engine, block_size=16)
        assert 'argosy_worker_kv_blocks{model="m",state="used",worker="w"} 2.0' in get("/metrics")
        assert get("/healthz") == "ok\n"
        engine.alive = False
        for path, code in (("/healthz", 503), ("/other", 404)):
            with pytest.raises(urllib.error.HTTPError) as caught:
                get(path)
            assert caught.value.code == code
            caught.value.close()
    finally:
        server.close()
