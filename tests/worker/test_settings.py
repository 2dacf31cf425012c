"""Settings and loading decisions: what is wrong is named."""

import json

import pytest

from argosy_api.errors import InvalidArgumentError, ModelUnsupportedError
from argosy_api.resource import DrainSpec, EngineSpec
from argosy_api.worker_spec import WorkerSpec
from argosy_worker import sim
from argosy_worker.serve.settings import Settings, parse
from argosy_worker.serve.startup import size_cache

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
    with pytest.raises(ModelUnsupportedError, match=words):
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
    with pytest.raises(ModelUnsupportedError, match=r"kvCacheMemory is 819201 bytes; .* can take 819200 bytes"):
        size(50 * 16 * 1024 + 1)
