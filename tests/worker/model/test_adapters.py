"""Adapters in peft's format: what they add, read from files, is peft's formula; what is not supported is named."""

import functools
import json
import math

import adapters
import pytest
import small_model
import small_models
import tiny_llama
import torch

from argosy_api.errors import ModelError, ModelInvalidError, ModelNotFoundError, ModelUnsupportedError
from argosy_worker.compute.native import library
from argosy_worker.compute.native.model import NativeModel
from argosy_worker.core.batch import StepBatch
from argosy_worker.models import load_model
from argosy_worker.models.peft import read_adapter

PROMPT = torch.randint(3, small_models.VOCAB, (60,), generator=torch.Generator().manual_seed(2)).tolist()


def theirs(made, prompt):
    with torch.inference_mode():
        return made(torch.tensor([prompt])).logits[0]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    @functools.cache
    def make(name):
        made, folder = small_models.model(name), tmp_path_factory.mktemp(name)
        made.save_pretrained(folder)
        small_models.write_tokenizer(folder)
        return made, folder

    return make


def same(made, loaded, folder, tensors, scale_of):
    """Our logits with the adapter are transformers' with peft's formula, and others than without."""
    plain = theirs(made, PROMPT)
    wanted = theirs(adapters.merged(made, tensors, scale_of), PROMPT)
    adapters.merged(made, tensors, lambda module: -scale_of(module))
    ours = adapters.logits(loaded, PROMPT, read_adapter(folder, loaded.config))
    assert ((plain - wanted).norm(dim=-1) / wanted.norm(dim=-1)).max() > 0.1
    assert ((ours - wanted).norm(dim=-1) / wanted.norm(dim=-1)).max() <= 1e-4


@pytest.mark.parametrize("name", ["llama", "qwen3", "gemma3", "smollm3"])
def test_all_linears_of_a_family(files, name, tmp_path):
    made, folder = files(name)
    loaded = load_model(folder, compute="fp32", device="cpu", threads=1)
    tensors = adapters.tensors_of(adapters.shapes_of(made.config), 3)
    same(made, loaded, adapters.write(tmp_path / "a", tensors), tensors, lambda module: 8 / 4)


def test_modules_that_hold_several_parts(files, tmp_path):
    """phi3: q, k and v are one module, with one lora_A; and so are gate and up."""
    made, folder = files("phi3-plain")
    loaded = load_model(folder, compute="fp32", device="cpu", threads=1)
    config = made.config
    modules = {
        f"model.layers.{i}.{name}"
        for i in range(config.num_hidden_layers)
        for name in ("self_attn.qkv_proj", "mlp.gate_up_proj")
    }
    shapes = {module: tuple(made.get_submodule(module).weight.shape) for module in sorted(modules)}
    tensors = adapters.tensors_of(shapes, 4)
    written = adapters.write(tmp_path / "a", tensors, targets=["qkv_proj", "gate_up_proj"])
    same(made, loaded, written, tensors, lambda module: 2.0)


def test_attention_of_a_model_with_experts(files, tmp_path):
    made, folder = files("mixtral")
    loaded = load_model(folder, compute="fp32", device="cpu", threads=1)
    tensors = adapters.tensors_of(adapters.shapes_of(made.config, ("q_proj", "o_proj")), 5)
    same(
        made, loaded, adapters.write(tmp_path / "a", tensors, targets=["q_proj", "o_proj"]), tensors, lambda module: 2.0
    )


def test_ranks_and_scales_of_single_modules(files, tmp_path):
    """rank_pattern, alpha_pattern and rsLoRA; a pattern for target_modules."""
    made, folder = files("llama")
    loaded = load_model(folder, compute="fp32", device="cpu", threads=1)
    shapes = adapters.shapes_of(made.config, ("q_proj", "v_proj", "down_proj"))
    ranks = {module: 7 for module in shapes if module.endswith("v_proj")} | {"model.layers.0.mlp.down_proj": 2}
    tensors = adapters.tensors_of(shapes, 6, ranks=ranks)
    written = adapters.write(
        tmp_path / "a", tensors, use_rslora=True, target_modules=r".*\.(q_proj|v_proj|down_proj)",
        rank_pattern={"v_proj": 7, r"^model\.layers\.0\.mlp\.down_proj": 2}, alpha_pattern={"layers.1.self_attn.q_proj": 3},
    )  # fmt: skip

    def scale(module):
        alpha = 3 if module == "model.layers.1.self_attn.q_proj" else 8
        return alpha / math.sqrt(ranks.get(module, 4))

    same(made, loaded, written, tensors, scale)


# --- the native kernels


@pytest.fixture(scope="module")
def native(tmp_path_factory):
    """A small model that the native kernels compute as a whole, its eight adapters, and transformers' model."""
    if not library.kernels():
        pytest.skip("no native kernels here")
    folder = tmp_path_factory.mktemp("native")
    small = tiny_llama.write(folder / "m", num_attention_heads=2, num_key_value_heads=1)
    loaded = load_model(folder / "m", device="cpu", threads=2)
    assert isinstance(loaded, NativeModel)
    shapes = adapters.shapes_of(small.config)
    targets = [
        adapters.LINEARS,
        ("q_proj",),
        ("down_proj",),
        ("gate_proj",),
        ("k_proj", "v_proj"),
        ("o_proj", "up_proj"),
    ]
    made = []
    for i in range(8):
        some = targets[i % len(targets)]
        chosen = {m: s for m, s in shapes.items() if m.endswith(some)}
        tensors = adapters.tensors_of(chosen, i, rank=2 + i)
        written = adapters.write(folder / f"a{i}", tensors, targets=some, rank=2 + i)
        made.append((tensors, read_adapter(written, loaded.config), 8 / (2 + i)))
    return small, loaded, made


def scores(runner, slices):
    return [[score.logprob for score in out.prompt_logprobs] for out in runner.launch(StepBatch(slices)).result()]


def test_native_kernels_add_what_transformers_adds(native):
    """As near to it as without adapters: weights and activations have 8 bits."""
    small, loaded, made = native
    prompt = PROMPT[:40]

    def error(adapter, wanted):
        part = adapters.piece(prompt, adapter, prompt_targets=prompt[1:])
        (found,) = scores(loaded.make_runner(16, 16), [part])
        expected = wanted.log_softmax(-1)[:-1].gather(1, torch.tensor(prompt[1:])[:, None])[:, 0]
        return (torch.tensor(found) - expected).abs().mean().item()

    plain = theirs(small, prompt)
    usual = error(None, plain)
    for tensors, adapter, scale in made[:6]:
        wanted = theirs(adapters.merged(small, tensors, lambda _, s=scale: s), prompt)
        adapters.merged(small, tensors, lambda _, s=scale: -s)
        assert error(None, wanted) > 10 * usual  # it matters
        assert error(adapter, wanted) < 3 * usual


@pytest.mark.parametrize("torch_computes", [False, True])
def test_eight_adapters_in_one_step_are_each_as_alone(native, torch_computes, tmp_path):
    """And rows without one beside them; whatever the chunks."""
    _, loaded, made = native
    if torch_computes:
        tiny_llama.write(tmp_path, num_attention_heads=2, num_key_value_heads=1)
        loaded = load_model(tmp_path, compute="fp32", device="cpu", threads=2)
    chosen = [adapter for _, adapter, _ in made] + [None, made[0][1]]
    prompts = [PROMPT[i : i + 20 + 3 * i] for i in range(len(chosen))]

    def some(i, at, end, first):
        prompt = prompts[i]
        return adapters.piece(prompt, chosen[i], at, end, name=str(i), first=first, prompt_targets=prompt[at + 1 : None if end is None else end + 1])  # fmt: skip

    alone = [scores(loaded.make_runner(16, 16), [some(i, 0, None, 1)])[0] for i in range(len(chosen))]
    assert len({tuple(a[:5]) for a in alone}) == len(chosen)
    runner = loaded.make_runner(200, 16)
    assert scores(runner, [some(i, 0, None, 1 + 8 * i) for i in range(len(chosen))]) == alone
    runner, found = loaded.make_runner(200, 16), [[] for _ in chosen]
    for at in range(0, 64, 7):
        here = [i for i in range(len(chosen)) if at < len(prompts[i])]
        for i, part in zip(here, scores(runner, [some(i, at, at + 7, 1 + 8 * i) for i in here]), strict=True):
            found[i] += part
    assert found == alone


# --- what is refused


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    folder, made = tmp_path_factory.mktemp("small"), small_model.make()
    small_model.write_gguf(made, folder / "m.gguf")
    loaded = load_model(folder / "m.gguf", compute="fp32", device="cpu", threads=1)
    return made.config, loaded.config


@pytest.mark.parametrize(
    ("more", "named"),
    [
        ({"use_dora": True}, "use_dora"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"bias": "lora_only"}, "bias"),
        ({"lora_bias": True}, "lora_bias"),
        ({"trainable_token_indices": [1]}, "trainable_token_indices"),
        ({"layer_replication": [[0, 1]]}, "layer_replication"),
        ({"target_parameters": ["x"]}, "target_parameters"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out"),
        ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights is 'pissa_niter_4'"),
        ({"init_lora_weights": "olora"}, "init_lora_weights"),
        ({"something_of_next_year": {"a": 1}}, "something_of_next_year"),
        ({"peft_type": "LOHA"}, "peft_type"),
        ({"r": 0}, "r is 0"),
        ({"r": 5}, r"lora_A.* shape"),
        ({"lora_alpha": "x"}, "lora_alpha"),
        ({"target_modules": ["q_proj", "embed_tokens"]}, "embed_tokens"),
        ({"target_modules": ["q_proj"]}, "target_modules"),
        ({"target_modules": "(a+)+$"}, "pattern"),
        ({"target_modules": 3}, "target_modules"),
        ({"rank_pattern": {"(x*)*y": 3}}, "pattern"),
        ({"alpha_pattern": {".*.*.*.*.*z": 3}}, "pattern"),
        ({"alpha_pattern": {"[": 3}}, "regular expression"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(small, tmp_path, more, named):
    shapes, config = small
    tensors = adapters.tensors_of(adapters.shapes_of(shapes), 1)
    with pytest.raises(ModelError, match=named):
        read_adapter(adapters.write(tmp_path / "a", tensors, **more), config)


def test_tensors_that_do_not_fit_are_named(small, tmp_path):
    shapes, config = small
    tensors = adapters.tensors_of(adapters.shapes_of(shapes, ["q_proj"]), 1)
    name = "base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight"
    for error, match, change in [
        (ModelInvalidError, "lora_A", {name: None}),
        (ModelInvalidError, "no numbers", {name: tensors[name] * math.nan}),
        (ModelInvalidError, r"layers\.1.*shape", {name: tensors[name][:, :32].copy()}),
        (
            ModelUnsupportedError,
            "embed_tokens",
            {"base_model.model.model.embed_tokens.lora_embedding_A": tensors[name]},
        ),
        (ModelUnsupportedError, r"layers\.9\.", {name.replace("layers.1", "layers.9"): tensors[name]}),
    ]:
        wrong = {key: value for key, value in (tensors | change).items() if value is not None}
        with pytest.raises(error, match=match):
            read_adapter(adapters.write(tmp_path / "a", wrong, targets=["q_proj"]), config)


def test_files_that_are_missing_or_no_files_of_that_kind(small, tmp_path):
    shapes, config = small
    with pytest.raises(ModelNotFoundError, match="adapter_config"):
        read_adapter(tmp_path, config)
    folder = adapters.write(tmp_path / "a", adapters.tensors_of(adapters.shapes_of(shapes), 1))
    with pytest.raises(ModelUnsupportedError, match=r"engine\.adapterMemory"):
        read_adapter(folder, config, most_bytes=1000)
    (folder / "adapter_model.safetensors").write_bytes(b"\xff" * 100)
    with pytest.raises(ModelInvalidError):
        read_adapter(folder, config)
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(ModelNotFoundError, match="pickle"):
        read_adapter(folder, config)
    for text in ("[]", "{", '"x"', "[" * 100_000):
        (folder / "adapter_config.json").write_text(text)
        with pytest.raises(ModelInvalidError, match="JSON"):
            read_adapter(folder, config)


def test_the_digest_says_what_is_added(small, tmp_path):
    """Equal for equal adapters, whatever else their files say; another one for another scale or weight."""
    shapes, config = small
    made = adapters.shapes_of(shapes)

    def digest(name, seed=1, **more):
        return read_adapter(adapters.write(tmp_path / name, adapters.tensors_of(made, seed), **more), config).digest

    first = digest("a")
    assert digest("b", base_model_name_or_path="other") == first
    assert len({first, digest("c", alpha=9), digest("d", seed=2)}) == 3
    assert json.loads((tmp_path / "a" / "adapter_config.json").read_text())["r"] == 4
