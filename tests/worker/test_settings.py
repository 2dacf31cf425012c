"""Settings and loading decisions: what is wrong is named."""

import pytest

from argosy_api.errors import ModelUnsupportedError
from argosy_worker import sim
from argosy_worker.core.line import Order
from argosy_worker.serve.settings import Settings, SettingsError, parse
from argosy_worker.serve.startup import size_cache

NEEDED = ["--model-uri", "sim://m", "--served-name", "m"]


def test_defaults():
    settings = parse(NEEDED, {})
    assert (settings.block_size, settings.max_batch_tokens, settings.max_running) == (16, 256, 64)
    assert (settings.queue_ageing, settings.queue_order, settings.drain_seconds) == (0.25, Order.LEAST_WORK, 30)
    assert (settings.device, settings.compute, settings.threads, settings.kv_cache_bytes) == ("auto", "auto", 0, 0)
    assert (settings.host, settings.grpc_port, settings.metrics_port, settings.redis_url) == ("0.0.0.0", 9000, 9001, "")
    assert (settings.namespace, settings.deployment, settings.prefix_caching) == ("default", "m", True)
    assert settings.worker_id.startswith("m-")
    assert settings.termination_log is None


def test_everything_can_be_set(tmp_path):
    settings = parse(
        [
            *NEEDED,
            *("--revision", "r", "--device", "cpu", "--compute", "int8", "--max-model-len", "99", "--block-size", "8"),
            *("--max-batch-tokens", "512", "--max-running", "3", "--kv-cache-bytes", "1000", "--no-prefix-caching"),
            *("--queue-ageing", "0.5", "--queue-order", "fcfs", "--drain-seconds", "2.5", "--threads", "2"),
            "--log-json",
        ],
        {
            "ARGOSY_NAMESPACE": "ns",
            "ARGOSY_DEPLOYMENT": "dep",
            "ARGOSY_WORKER_ID": "pod-1",
            "ARGOSY_HOST": "127.0.0.1",
            "ARGOSY_GRPC_PORT": "1",
            "ARGOSY_METRICS_PORT": "65535",
            "ARGOSY_REDIS_URL": "redis://x",
            "ARGOSY_MODEL_CACHE": str(tmp_path),
            "ARGOSY_TERMINATION_LOG": str(tmp_path / "log"),
        },
    )
    assert settings == Settings(
        model_uri="sim://m",
        served_name="m",
        revision="r",
        device="cpu",
        compute="int8",
        max_model_len=99,
        block_size=8,
        max_batch_tokens=512,
        max_running=3,
        kv_cache_bytes=1000,
        prefix_caching=False,
        queue_ageing=0.5,
        queue_order=Order.FCFS,
        drain_seconds=2.5,
        threads=2,
        log_json=True,
        namespace="ns",
        deployment="dep",
        worker_id="pod-1",
        host="127.0.0.1",
        grpc_port=1,
        metrics_port=65535,
        redis_url="redis://x",
        model_cache=tmp_path,
        termination_log=tmp_path / "log",
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--served-name", "m"], "--model-uri"),
        (["--model-uri", "sim://m"], "--served-name"),
        ([*NEEDED, "--block-size", "0"], "--block-size"),
        ([*NEEDED, "--max-running", "many"], "--max-running"),
        ([*NEEDED, "--queue-ageing", "nan"], "--queue-ageing"),
        ([*NEEDED, "--queue-order", "lifo"], "--queue-order"),
        ([*NEEDED, "--drain-seconds", "-1"], "--drain-seconds"),
        ([*NEEDED, "--device", "tpu"], "--device"),
        ([*NEEDED, "--unknown", "1"], "--unknown"),
    ],
)
def test_a_wrong_argument_is_named(arguments, words, capsys):
    with pytest.raises(SystemExit) as caught:
        parse(arguments, {})
    assert caught.value.code == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "environment", "words"),
    [
        ([], {"ARGOSY_GRPC_PORT": "http"}, "ARGOSY_GRPC_PORT is 'http'"),
        ([], {"ARGOSY_METRICS_PORT": "65536"}, "ARGOSY_METRICS_PORT is '65536'"),
        ([], {"ARGOSY_METRICS_PORT": "-1"}, "ARGOSY_METRICS_PORT"),
        ([], {"ARGOSY_REDIS_URL": "http://user:secret@x"}, "ARGOSY_REDIS_URL must begin"),
        ([], {"ARGOSY_REDIS_URL": "redis://user:secret@x:port/0"}, "ARGOSY_REDIS_URL has a port"),
        (["--max-running", "64", "--max-batch-tokens", "32"], {}, "--max-running is 64"),
    ],
)
def test_a_wrong_setting_is_named(arguments, environment, words):
    with pytest.raises(SettingsError, match=words) as caught:
        parse([*NEEDED, *arguments], environment)
    assert "secret" not in str(caught.value)


def sized(uri="sim://m?kv_blocks=100&max_model_len=800", **more):
    return size_cache(sim.SimModel(sim.SimSpec.parse(uri)), Settings(model_uri=uri, served_name="m", **more))


def test_size_of_the_cache():
    per_block = 16 * 1024
    assert sized() == (100, 800)
    assert sized(max_model_len=500) == (100, 500)
    assert sized(kv_cache_bytes=10 * per_block) == (10, 160)  # no sequence is longer than the cache
    assert sized(kv_cache_bytes=11 * per_block - 1) == (10, 160)
    assert sized(block_size=32) == (50, 800)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"kv_cache_bytes": 1000}, "holds no block"),
        ({"max_model_len": 801}, "the model's context is 800"),
        ({"max_model_len": 200, "kv_cache_bytes": 10 * 16 * 1024}, "holds 160 tokens"),
    ],
)
def test_what_cannot_be_honoured_is_refused(more, words):
    with pytest.raises(ModelUnsupportedError, match=words):
        sized(**more)
