"""Settings and loading decisions: what is wrong is named."""

import json
from dataclasses import replace

import pytest

from argosy_api.errors import InvalidArgumentError, ModelDoesNotFitError, ModelError, ModelUnsupportedError
from argosy_api.model_uri import ModelUri
from argosy_api.resource import DrainSpec, EngineSpec
from argosy_api.worker_spec import WorkerSpec
from argosy_worker import sim
from argosy_worker.serve.settings import Settings, parse
from argosy_worker.serve.sizes import size_cache, size_host, step_bytes

MODEL = {"uri": "sim://m", "servedName": "m"}


def arguments(**spec):
    return [f"--spec={json.dumps({'model': MODEL, **spec})}"]


def test_defaults():
    settings = parse(arguments(), {})
    assert settings.engine == EngineSpec()
    assert (settings.spec.drain, settings.spec.revision, str(settings.model_uri)) == (DrainSpec(), "", "sim://m")
    assert (settings.host, settings.grpc_port, settings.metrics_port, settings.redis_url) == ("::", 9000, 9001, "")
    assert (settings.namespace, settings.deployment, settings.served_name) == ("default", "m", "m")
    assert settings.worker_id.startswith("m-")


def test_everything_can_be_set(tmp_path):
    spec = {
        "model": {**MODEL, "maxModelLen": 99},
        "engine": {"device": "cpu", "compute": "int8", "blockSize": 8, "kvCacheMemory": "1Ki", "queueOrder": "fcfs"},
        "drain": {"timeoutSeconds": 2},
        "revision": "r",
    }
    settings = parse(
        arguments(**spec),
        {
            "ARGOSY_NAMESPACE": "ns",
            "ARGOSY_DEPLOYMENT": "dep",
            "ARGOSY_WORKER_ID": "pod-1",
            "ARGOSY_HOST": "127.0.0.1",
            "ARGOSY_GRPC_PORT": "1",
            "ARGOSY_METRICS_PORT": "65535",
            "ARGOSY_REDIS_URL": "redis://x",
            "ARGOSY_MODEL_CACHE": str(tmp_path),
        },
    )
    assert settings == Settings(
        spec=WorkerSpec.parse(json.dumps(spec)),
        namespace="ns",
        deployment="dep",
        worker_id="pod-1",
        host="127.0.0.1",
        grpc_port=1,
        metrics_port=65535,
        redis_url="redis://x",
        model_cache=tmp_path,
    )
    assert (settings.engine.block_size, settings.engine.kv_cache_bytes) == (8, 1024)


@pytest.mark.parametrize(("given", "words"), [([], "--spec"), ([*arguments(), "--unknown", "1"], "--unknown")])
def test_a_wrong_option_is_named(given, words, capsys):
    with pytest.raises(SystemExit) as caught:
        parse(given, {})
    assert caught.value.code == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"ARGOSY_GRPC_PORT": "http"}, "ARGOSY_GRPC_PORT: is 'http'"),
        ({"ARGOSY_METRICS_PORT": "65536"}, "ARGOSY_METRICS_PORT: is '65536'"),
        ({"ARGOSY_METRICS_PORT": "-1"}, "ARGOSY_METRICS_PORT"),
        ({"ARGOSY_REDIS_URL": "http://user:secret@x"}, "ARGOSY_REDIS_URL: must begin"),
        ({"ARGOSY_REDIS_URL": "redis://user:secret@x:port/0"}, "ARGOSY_REDIS_URL: has a port"),
    ],
)
def test_a_wrong_variable_is_named(environment, words):
    with pytest.raises(InvalidArgumentError, match=words) as caught:
        parse(arguments(), environment)
    assert "secret" not in str(caught.value)


def sized(uri="sim://m?kv_blocks=100&max_model_len=800", **more):
    model = {**MODEL, "uri": uri, **({"maxModelLen": more.pop("maxModelLen")} if "maxModelLen" in more else {})}
    settings = parse(arguments(model=model, engine=more), {})
    return size_cache(sim.SimModel(sim.SimSpec.parse(settings.model_uri)), settings)


def test_size_of_the_cache():
    per_block = 16 * 1024
    assert sized() == (100, 800)
    assert sized(maxModelLen=500) == (100, 500)
    assert sized(kvCacheMemory=10 * per_block) == (10, 160)  # no sequence is longer than the cache
    assert sized(kvCacheMemory=11 * per_block - 1) == (10, 160)
    assert sized(blockSize=32) == (50, 800)


@pytest.mark.parametrize(("window", "longest"), [(0, 160), (145, 800), (146, 160), (40, 800)])
def test_a_window_that_the_cache_holds_bounds_no_sequence(window, longest):
    assert sized(f"sim://m?kv_blocks=10&max_model_len=800&window={window}") == (10, longest)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"kvCacheMemory": 1000}, "holds no block"),
        ({"kvCacheMemory": 1_500_001 * 16 * 1024}, "1500001 blocks; at most"),
        ({"maxModelLen": 801}, "the model's context is 800"),
        ({"maxModelLen": 200, "kvCacheMemory": 10 * 16 * 1024}, "holds 160 tokens"),
    ],
)
def test_what_cannot_be_honoured_is_refused(more, words):
    with pytest.raises(ModelError, match=words):
        sized(**more)


def test_a_cache_larger_than_what_is_left_is_refused_with_both_numbers():
    """What the model leaves of the worker's memory bounds what may be asked for."""

    class Real(sim.SimModel):
        def memory_left(self):
            return 50 * 16 * 1024

    model = Real(sim.SimSpec.parse(parse(arguments(model={**MODEL, "uri": "sim://m"}), {}).model_uri))

    def size(memory):
        return size_cache(
            model, parse(arguments(model={**MODEL, "uri": "sim://m"}, engine={"kvCacheMemory": memory}), {})
        )

    assert size(50 * 16 * 1024)[0] == 50
    with pytest.raises(ModelDoesNotFitError, match=r"kvCacheMemory is 819201 bytes; .* can take 819200 bytes"):
        size(50 * 16 * 1024 + 1)


class Machine(sim.SimModel):
    """A model that takes memory: room for 50 blocks of a KV cache, of 40 unless more is asked for, and 80 on the host."""

    def __init__(self, device):
        super().__init__(sim.SimSpec.parse(ModelUri.parse("sim://m")))
        self.facts = replace(self.facts, device=device)
        self.left = {"cpu": 50 * 16 * 1024, "cuda": 50 * 16 * 1024}[device]

    def memory_for_kv(self, kept=0, step=None):
        return self.left * 4 // 5

    def memory_left(self):
        return self.left

    def host_memory_left(self):
        return self.left if self.facts.device == "cpu" else 80 * 16 * 1024


def tiers(device, **engine):
    """(blocks on the device, on the host)."""
    blocks = {name: int(count * 16 * 1024) for name, count in engine.items()}
    settings, model = parse(arguments(engine=blocks), {}), Machine(device)
    count, _ = size_cache(model, settings)
    return count, size_host(model, settings, count)


def test_host_memory_is_counted_where_it_is():
    """On a GPU beside the KV cache; on a CPU both are of one memory."""
    assert tiers("cuda") == (40, 0)
    assert tiers("cuda", kvCacheHostMemory=80) == (40, 80)
    assert tiers("cuda", kvCacheHostMemory=80, kvCacheMemory=50) == (50, 80)
    assert tiers("cpu", kvCacheHostMemory=10) == (32, 10)
    assert tiers("cpu", kvCacheHostMemory=10, kvCacheMemory=40) == (40, 10)


@pytest.mark.parametrize(
    ("device", "engine", "words"),
    [
        ("cuda", {"kvCacheHostMemory": 81}, r"kvCacheHostMemory is 1327104 bytes; beside the model .* 1310720 bytes"),
        ("cuda", {"kvCacheHostMemory": 0.5}, "kvCacheHostMemory is 8192 bytes, which hold no block"),
        (
            "cpu",
            {"kvCacheHostMemory": 51, "kvCacheMemory": 1},
            "kvCacheMemory is .* beside the model and engine.kvCacheH",
        ),
        ("cpu", {"kvCacheHostMemory": 11, "kvCacheMemory": 40}, "beside the model and engine.kvCacheHostMemory .* can"),
    ],
)
def test_host_memory_that_is_not_there_is_refused(device, engine, words):
    with pytest.raises(ModelError, match=words):
        tiers(device, **engine)


def test_both_tiers_together_fit_a_snapshot():
    settings = parse(arguments(engine={"kvCacheHostMemory": 1_500_001 * 16 * 1024}), {})
    with pytest.raises(ModelUnsupportedError, match=r"beside the 100 blocks of engine.kvCacheMemory at most"):
        size_host(sim.SimModel(sim.SimSpec.parse(settings.model_uri)), settings, 100)


def test_what_a_step_takes_is_asked_where_nobody_says_how_large_the_cache_is():
    asked = []

    class Measured(Machine):
        def __init__(self, step):
            super().__init__("cuda")
            self.step = step

        def step_bytes(self, block_size, *, tokens, sequences):
            asked.append((block_size, tokens, sequences))
            return self.step

        def memory_for_kv(self, kept=0, step=None):
            return self.left - (step or 0)

    unit = 16 * 1024
    settings = parse(arguments(engine={"maxBatchTokens": 512, "maxRunning": 32}), {})
    model, draft = Measured(10 * unit), Measured(12 * unit)
    step = step_bytes([model, draft], settings)
    assert (step, asked) == (12 * unit, [(16, 512, 32)] * 2)
    assert size_cache(model, settings, step=step)[0] == 38
    assert step_bytes([Measured(None)], settings) is None
    asked.clear()
    assert step_bytes([model], parse(arguments(engine={"kvCacheMemory": "1Mi"}), {})) is None
    assert asked == []
